//! The rooms of one server, started in order and stopped in the opposite order.

use super::addresses;
use super::agent::{self, Agent, AgentOptions};
use super::authority::Authority;
use super::{ClusterFacts, checked_node_name, heartbeats};
use crate::cli::{Failure, Global, ServerArguments};
use crate::commands::{contexts, kubeconfig};
use crate::service::notify;
use api::pki::{Kubeconfig, Names, Pki};
use api::{AddressRange, NoNodes, NodeConnector, Server};
use control_loop::ControlLoop;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use store::Store;
use tokio::signal::unix::{SignalKind, signal};

/// The domain of cluster DNS.
pub(super) const CLUSTER_DOMAIN: &str = "cluster.local";
const MASTERS: &str = "system:masters";
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Starts everything, says `ready`, and stops on SIGTERM or SIGINT.
pub(super) async fn serve(global: &Global, arguments: &ServerArguments) -> Result<(), Failure> {
    let failed = |what: &str, error: &dyn std::fmt::Display| Failure::Failed(format!("{what}: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| failed("signals", &error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| failed("signals", &error))?;

    let kept = addresses::Ranges::kept(global)?;
    let prefixes = addresses::Ranges::choose(arguments, kept.as_ref())?;
    let service_range = |at: usize| {
        let parsed = prefixes.services.get(at).map(|range| AddressRange::parse(&range.to_string()));
        let named = || addresses::joined(&prefixes.services);
        parsed.transpose().map_err(|why| Failure::Usage(format!("--service-cidr {}: {why}", named())))
    };
    let (Some(service_range), second_service_range) = (service_range(0)?, service_range(1)?) else {
        return Err(Failure::Usage("--service-cidr: no range is given".to_owned()));
    };
    let (node_name, node_addresses) = checked(&prefixes, global, kept.as_ref(), arguments)?;
    let advertise = node_addresses[0]; // never empty
    // The first time before anything of the cluster is written: a start that is refused leaves none that is half made. Later the
    // store comes first, whose lock tells of another server on the same data better.
    let prepare = || if arguments.no_agent { Ok(None) } else { agent::Prepared::new(&node_name).map(Some) };
    let is_new = !addresses::store_exists(global);
    let early = if is_new { prepare()? } else { None };
    if is_new {
        // Before the store: from its first byte on the cluster's ranges stay, also where this start fails.
        prefixes.save(&agent::ranges_path(global))?;
    }

    let options = store::embedded::Options::new(global.data_dir.join("store"));
    let opened = tokio::task::spawn_blocking(move || store::embedded::open(options)).await;
    let store =
        opened.map_err(|error| failed("store", &error))?.map_err(|error| failed("cannot open the store", &error))?;

    let prepared = if is_new { early } else { prepare()? };

    let pki_directory = global.data_dir.join("pki");
    let names = names(arguments, &node_name, &node_addresses, prefixes.first_service_address());
    let pki = Arc::new(Pki::open(&pki_directory, names, SystemTime::now()).map_err(|error| failed("keys", &error))?);

    let connector: Arc<dyn NodeConnector> = match &prepared {
        Some(prepared) => prepared.connector(),
        None => Arc::new(NoNodes),
    };
    let server = Server::start(api::Options {
        store: Arc::clone(&store) as Arc<dyn Store>,
        table: kinds::table().clone(),
        pki: Arc::clone(&pki),
        bind: SocketAddr::new(arguments.bind, arguments.port),
        advertise,
        service_range,
        second_service_range,
        cluster_domain: CLUSTER_DOMAIN.to_owned(),
        connector,
        own_node: (!arguments.no_agent).then(|| node_name.clone()),
        kept_hosts: Some(global.data_dir.join("answering-hosts")),
    })
    .await
    .map_err(|error| Failure::Failed(error.to_string()))?;
    write_kubeconfig(global, &pki, &server)?;
    prefixes.save(&agent::ranges_path(global))?;

    let masters = server.client("system:apiserver", &[MASTERS]);
    let facts =
        ClusterFacts::new(prefixes.clone(), CLUSTER_DOMAIN, SocketAddr::new(advertise, server.address().port()));
    facts.publish(&*masters).await.map_err(|status| failed("cannot publish what the cluster is", &status.message))?;

    let control = ControlLoop::run(control_loop::Options {
        client: server.client("system:kube-controller-manager", &[MASTERS]),
        seed: seed(),
        clock: Arc::new(jiff::Timestamp::now),
        root_ca: pki.bundle(),
        signer: Some(Arc::new(Authority { pki: Arc::clone(&pki), removals: server.removals() })),
        pod_ranges: prefixes.for_nodes(),
        other_resources: other_resources(),
        leadership: None,
        heartbeats: Some(heartbeats::for_controllers(server.heartbeats())),
        fast_failover: arguments.fast_failover,
    });
    server.control_plane(control.liveness());
    let agent = match prepared {
        Some(prepared) => {
            let client = server.client(&format!("system:node:{node_name}"), &["system:nodes"]);
            let api_port = server.address().port();
            let options = AgentOptions {
                client,
                ranges: prefixes.clone(),
                addresses: node_addresses,
                api_port,
                kubelet_port: arguments.kubelet_port,
                authority: pki.bundle(),
                joined: false,
                contact: Arc::default(),
                plugins: arguments.pod_network.plugins(global)?,
                is_encrypted: arguments.pod_network.is_encrypted(),
            };
            Some(Agent::start(prepared, global, options).await?)
        }
        None => None,
    };

    let _ = writeln!(std::io::stdout(), "ready"); // whoever waits reads it; nobody need
    notify::send("READY=1").map_err(|error| failed("cannot tell that the server is ready", &error))?;
    tracing::info!(address = %server.address(), node = %node_name, "ready");

    let outcome = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        // A store that cannot promise durability any more takes no writes: ending is the only honest answer.
        stopped = store.stopped() => Err(Failure::Failed(format!("the store stopped: {}; containers go on running", stopped.reason))),
    };
    tracing::info!("stopping; containers go on running");
    let _ = notify::send("STOPPING=1"); // systemd knows it already
    control.stop().await;
    if let Some(agent) = agent {
        agent.stop().await;
    }
    server.stop().await;
    store.close().await;
    outcome
}

/// Refuses what cannot be served, without a change of anything: `klynge up` asks before it starts a server.
pub(crate) fn check(global: &Global, arguments: &ServerArguments) -> Result<(), Failure> {
    let kept = addresses::Ranges::kept(global)?;
    checked(&addresses::Ranges::choose(arguments, kept.as_ref())?, global, kept.as_ref(), arguments).map(drop)
}

/// The node's name and addresses, once ranges and names are found to be possible.
fn checked(
    ranges: &addresses::Ranges,
    global: &Global,
    kept: Option<&addresses::Ranges>,
    arguments: &ServerArguments,
) -> Result<(String, Vec<IpAddr>), Failure> {
    let plugins = arguments.pod_network.plugins(global)?;
    ranges.check_against_kept(kept)?;
    if plugins.is_none() && !arguments.no_agent {
        agent::check_no_records(global)?;
        addresses::check_held(&arguments.advertise)?;
    }
    // Plug-ins give the host addresses among its pods', such as a bridge's: only Services' are nobody's then.
    let pods = if plugins.is_some() { Vec::new() } else { ranges.pods.clone() };
    addresses::Ranges { pods, ..ranges.clone() }.check_against_host(addresses::Chosen::Here)?;
    let node_name = checked_node_name(arguments.node_name.as_deref())?;
    let node_addresses = addresses::node_addresses(&arguments.advertise, addresses::advertised, ranges)?;
    Ok((node_name, node_addresses))
}

fn names(arguments: &ServerArguments, node_name: &str, own: &[IpAddr], service: IpAddr) -> Names {
    let mut names = Names::inside(CLUSTER_DOMAIN, service);
    names.dns.push(node_name.to_owned());
    names.addresses.extend(own);
    if !arguments.bind.is_unspecified() {
        names.addresses.push(arguments.bind);
    }
    for name in &arguments.tls_san {
        match name.parse() {
            Ok(address) => names.addresses.push(address),
            Err(_) => names.dns.push(name.clone()),
        }
    }
    names
}

fn write_kubeconfig(global: &Global, pki: &Pki, server: &Server) -> Result<(), Failure> {
    let user = pki
        .issue_client("klynge:admin", MASTERS, YEAR, SystemTime::now())
        .map_err(|error| Failure::Failed(format!("kubeconfig: {error}")))?;
    let host = match server.address().ip() {
        address if address.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        address => address,
    };
    let url = format!("https://{}", SocketAddr::new(host, server.address().port()));
    let authority = pki.bundle();
    let config = Kubeconfig { name: "klynge", server: &url, authority: &authority, user: &user }.to_value();
    let own = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    kubeconfig::write(&kubeconfig::admin_path(global), &config, own)?;
    // Somebody else's file, perhaps with other clusters in it.
    if let Some(path) = global.kubeconfig.as_ref().filter(|path| **path != kubeconfig::admin_path(global)) {
        contexts::enter(&global.data_dir, path, &config, own, false)?;
    }
    Ok(())
}

/// A number for breaking ties; any will do.
fn seed() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Every stored resource, so that owners and namespaces see all of them.
fn other_resources() -> Vec<controllers::Resource> {
    let listed = kinds::table().resources().iter().filter(|resource| {
        let verb = |wanted: &str| resource.verbs.iter().any(|verb| verb == wanted);
        verb("list") && verb("watch") && verb("delete")
    });
    listed
        .map(|resource| controllers::Resource {
            group: resource.group.to_string(),
            version: resource.versions.first().map(|version| version.name.to_string()).unwrap_or_default(),
            plural: resource.plural.to_string(),
            kind: resource.kind.to_string(),
            namespaced: resource.namespaced,
        })
        .collect()
}
