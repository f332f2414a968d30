//! `klynge agent`: this machine as a node of a cluster elsewhere.

mod identity;
mod join;
mod removal;
mod upkeep;

pub(crate) use identity::{certificates, is_due};
pub(crate) use join::{Token, certificate_for};

use crate::cli::{AgentArguments, Failure, Global, Output};
use crate::server::{self, Agent, AgentOptions, ClusterFacts, Prepared};
use crate::service::{self, daemon, notify};
use client::{ClusterClient, Https, NODE_REMOVED};
use identity::Identity;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::DirBuilderExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::embedded::{Lock, OpenError, lock};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

const RETRY_MAX: Duration = Duration::from_secs(10);

/// Runs until SIGTERM or SIGINT; containers go on running afterwards.
pub(crate) fn run(global: &Global, arguments: &AgentArguments, output: &Output) -> Result<(), Failure> {
    Failure::unless_root("klynge agent")?;
    if arguments.background {
        return in_background(global, arguments, output);
    }
    server::block_on(global, serve(global, arguments))
}

/// Joins here, so that what goes wrong is seen, and leaves the rest to a service, which needs no token then.
fn in_background(global: &Global, arguments: &AgentArguments, output: &Output) -> Result<(), Failure> {
    if let Some(process) = daemon::running(&global.data_dir) {
        output.progress(&format!("it runs already, as process {}", process.as_raw_nonzero()));
        return Ok(());
    }
    let begun = Instant::now();
    let joining = async { identity(global, arguments).await.map(drop) };
    server::block_on(global, joining)?;
    let mut words = vec!["agent".to_owned(), "--data-dir".to_owned(), global.data_dir.display().to_string()];
    if !arguments.advertise.is_empty() {
        words.extend(["--advertise".to_owned(), server::listed(&arguments.advertise)]);
    }
    words.extend(["--kubelet-port".to_owned(), arguments.kubelet_port.to_string()]);
    words.extend(arguments.pod_network.words());
    service::start(&global.data_dir, &words, output)?;
    output.progress(&format!("ready after {:.2} s", begun.elapsed().as_secs_f64()));
    output.line("This machine is a node of the cluster. `klynge down` stops the agent, `klynge down --purge` removes everything.");
    Ok(())
}

async fn serve(global: &Global, arguments: &AgentArguments) -> Result<(), Failure> {
    let failed = |what: &str, error: &dyn std::fmt::Display| Failure::Failed(format!("{what}: {error}"));
    let _alone = alone(global)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| failed("signals", &error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| failed("signals", &error))?;
    let started = async {
        let identity = identity(global, arguments).await?;
        start(global, arguments, identity).await
    };
    let running = tokio::select! {
        running = started => running?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let _ = writeln!(std::io::stdout(), "ready"); // whoever waits reads it; nobody need
    notify::send("READY=1").map_err(|error| failed("cannot tell that the agent is ready", &error))?;
    tracing::info!(node = %running.name, "ready");
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        message = running.removed => Err(Failure::Failed(message)),
    };
    if ended.is_ok() {
        tracing::info!("stopping; containers go on running");
    }
    let _ = notify::send("STOPPING=1"); // systemd knows it already
    for task in running.upkeep {
        task.abort();
    }
    running.agent.stop().await;
    if ended.is_err() {
        // No pods are left here that need names.
        removal::end_beside(global).await;
    }
    ended
}

/// The lock that says that this process is the agent of the data directory.
fn alone(global: &Global) -> Result<Lock, Failure> {
    let directory = global.data_dir.join("agent");
    let failed =
        |error: &dyn std::fmt::Display| Failure::Failed(format!("cannot use {}: {error}", directory.display()));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(|error| failed(&error))?;
    lock(&directory).map_err(|error| match error {
        OpenError::Locked { holder, .. } => Failure::Failed(format!(
            "another `klynge agent` runs on {} ({holder}): `klynge down` stops one that runs in the background; or give this one another \
             --data-dir",
            global.data_dir.display()
        )),
        other => failed(&other),
    })
}

struct Running {
    name: String,
    agent: Agent,
    upkeep: [tokio::task::JoinHandle<()>; 3],
    /// Ends with a message when the node is taken out of the cluster.
    removed: Pin<Box<dyn Future<Output = String> + Send>>,
}

/// The identity of before, or a new one by the token.
async fn identity(global: &Global, arguments: &AgentArguments) -> Result<Identity, Failure> {
    let wanted = arguments.server.as_deref().map(join::parse_server).transpose();
    let wanted = wanted.map_err(|why| Failure::Usage(format!("--server: {why}")))?;
    if let Some(mut known) = Identity::load(global)? {
        if arguments.node_name.as_ref().is_some_and(|name| *name != known.node) {
            return Err(Failure::Usage(format!(
                "this machine has joined as node {}; to join under another name, remove it first: `klynge node remove {}` \
                 where the cluster is, then `klynge down --purge` here",
                known.node, known.node
            )));
        }
        if let Some((host, port)) = wanted {
            (known.host, known.port) = (host, port);
        }
        return Ok(known);
    }
    let (Some(server), Some(token)) = (wanted, &arguments.token) else {
        return Err(Failure::Usage(
            "this machine has not joined a cluster yet: give --server and --token as `klynge token create` prints them"
                .to_owned(),
        ));
    };
    let token = Token::parse(token).map_err(|why| Failure::Usage(format!("--token: {why}")))?;
    let name = server::checked_node_name(arguments.node_name.as_deref())?;
    let joining = join::Joining::new(&server, &token)?;
    // What is refused is refused before the token is used up.
    if arguments.pod_network.plugins(global)?.is_none() {
        server::check_held(&arguments.advertise)?;
        if let Some(facts) = joining.facts().await? {
            facts.ranges.check_against_host(server::Chosen::Elsewhere)?;
        }
    }
    let identity = joining.identity(&name).await?;
    identity.save(global)?;
    tracing::info!(node = name, "joined");
    Ok(identity)
}

async fn start(global: &Global, arguments: &AgentArguments, identity: Identity) -> Result<Running, Failure> {
    let client = Arc::new(Https::new(identity.endpoint()?)?);
    let ranges = match server::Ranges::load(&server::ranges_path(global))? {
        Some(ranges) => ranges,
        None => {
            let facts = facts(&client).await.map_err(|failure| match failure {
                Failure::NotFound(_) => Failure::NotFound(removal::forget(global, &identity.node)),
                other => other,
            })?;
            facts.ranges.save(&server::ranges_path(global))?;
            facts.ranges
        }
    };
    if arguments.pod_network.plugins(global)?.is_none() {
        // A range of the cluster's may be a network that only this machine is in.
        ranges.check_against_host(server::Chosen::Elsewhere)?;
    }
    let primary = || towards(&identity).unwrap_or_else(server::advertised);
    let addresses = server::node_addresses(&arguments.advertise, primary, &ranges)?;
    let prepared = Prepared::new(&identity.node)?;
    let node = prepared.node();
    let options = AgentOptions {
        client: Arc::clone(&client) as Arc<dyn ClusterClient>,
        ranges,
        addresses,
        api_port: identity.port,
        kubelet_port: arguments.kubelet_port,
        authority: identity.authority.clone(),
        joined: true,
        contact: Arc::default(),
        plugins: arguments.pod_network.plugins(global)?,
        is_encrypted: arguments.pod_network.is_encrypted(),
    };
    // The tunnel is opened beside, so that logs of pods that go on are there at once.
    let cut = Arc::new(Notify::new());
    let tunnel = tokio::spawn(upkeep::tunnel(Arc::clone(&client), Arc::clone(&node), Arc::clone(&cut)));
    let contact = Arc::clone(&options.contact);
    let heartbeat = tokio::spawn(upkeep::heartbeat(Arc::clone(&client), contact, cut));
    let name = identity.node.clone();
    let renewal = tokio::spawn(upkeep::renewal(global.clone(), Arc::clone(&client), identity));
    match Agent::start(prepared, global, options).await {
        Ok(agent) => {
            let removed = Box::pin(removal::removed(global.clone(), node, client, name.clone()));
            Ok(Running { name, agent, upkeep: [tunnel, heartbeat, renewal], removed })
        }
        Err(failure) => {
            tunnel.abort();
            heartbeat.abort();
            renewal.abort();
            // The only thing that a started agent does not find is its own Node.
            Err(match failure {
                Failure::NotFound(_) => Failure::NotFound(removal::forget(global, &name)),
                other => other,
            })
        }
    }
}

/// What the cluster says of itself; waits for a server that is away.
async fn facts(client: &Https) -> Result<ClusterFacts, Failure> {
    let mut wait = Duration::from_millis(100);
    loop {
        match ClusterFacts::fetch(client).await {
            Ok(facts) => return Ok(facts),
            Err(status) if matches!(status.code, 404 | 503 | 504) => {
                tracing::warn!(problem = status.message, "asking again what cluster this is");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY_MAX);
            }
            Err(status) if status.reason == NODE_REMOVED => return Err(Failure::NotFound(status.message)),
            Err(status) => return Err(Failure::Failed(format!("cannot learn about the cluster: {}", status.message))),
        }
    }
}

/// The address of this machine that the server sees, as far as routes tell.
fn towards(identity: &Identity) -> Option<IpAddr> {
    let server: IpAddr = identity.host.parse().ok()?;
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    // Connecting a datagram socket sends nothing; it only asks the kernel for a route.
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(SocketAddr::new(server, identity.port)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}
