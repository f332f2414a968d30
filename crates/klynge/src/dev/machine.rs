//! One node from the outside: it is born, its agent is started and stopped, it is looked at and killed.

use super::boot::{Boot, FORMAT};
use super::control::{self, Reply, Request};
use super::record::{self, Record};
use super::switch::{self, Switch};
use super::{STAGE_WORD, groups, namespace, plan, system};
use crate::cli::{Failure, NetworkArguments};
use crate::commands::token;
use network::netlink::NetworkNamespace;
use std::fs::{self, OpenOptions};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where the API listens, on the first node.
pub(super) const API_PORT: u16 = 6443;
/// The server's ranges where there are both families.
const DUAL_STACK: [&str; 4] = ["--pod-cidr", "10.42.0.0/16,fd42::/56", "--service-cidr", "10.43.0.0/16,fd43::/112"];
/// A node's init answers in this time, or something is wrong with the machine.
const BIRTH_TIMEOUT: Duration = Duration::from_secs(10);
/// An agent ends in this time when asked to.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(3);
const LAST_LINES: usize = 8;
const LOG_TAIL_BYTES: u64 = 16 << 10;
/// What a node takes over of the command's environment.
const ENVIRONMENT: [&str; 5] = ["PATH", "KLYNGE_LOG", "RUST_BACKTRACE", "SSL_CERT_FILE", "SSL_CERT_DIR"];

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// No process of it runs.
    Off,
    /// All of it is frozen.
    Paused,
    /// Its init runs, its agent does not; why, where that is known.
    AgentAway(Option<String>),
    /// The agent has not yet said that the node is ready.
    Starting,
    /// The agent runs.
    Ready,
}

/// A node of a cluster.
#[derive(Clone, Copy)]
pub(super) struct Machine<'a> {
    pub(super) record: &'a Record,
    pub(super) number: u16,
}

/// The cluster's network as the record describes it.
pub(super) fn switch_of<'a>(record: &'a Record, namespace: &'a NetworkNamespace) -> Result<Switch<'a>, Failure> {
    Ok(Switch { name: &record.name, directory: &record.directory, subnets: record.subnets()?, namespace })
}

/// The namespace that holds the bridge.
pub(super) fn home(record: &Record) -> Result<NetworkNamespace, Failure> {
    namespace::find(record.namespace).ok_or_else(|| {
        Failure::Failed(format!(
            "the network namespace that cluster {} was made in is gone; remove the cluster with `klynge dev down --name {}`",
            record.name, record.name
        ))
    })
}

impl Machine<'_> {
    /// The node's name.
    pub(super) fn name(&self) -> String {
        plan::node_name(&self.record.name, self.number)
    }

    /// The node's IPv4 address.
    pub(super) fn address(&self) -> Result<IpAddr, Failure> {
        Ok(plan::address(&self.record.subnet()?, self.number))
    }

    /// All of its addresses, with commas between.
    fn addresses(&self) -> Result<String, Failure> {
        let subnets = self.record.subnets()?;
        let addresses: Vec<String> =
            subnets.iter().map(|subnet| plan::address(subnet, self.number).to_string()).collect();
        Ok(addresses.join(","))
    }

    fn socket(&self) -> PathBuf {
        self.record.file(self.number, "sock")
    }

    fn log(&self) -> PathBuf {
        self.record.file(self.number, "log")
    }

    /// The process id of its init, as this side sees it.
    pub(super) fn init(&self) -> Option<i32> {
        control::init_process(&self.socket())
    }

    /// Looks at it.
    pub(super) fn condition(&self) -> Condition {
        if self.init().is_none() {
            return Condition::Off;
        }
        if groups::is_frozen(&self.record.hierarchies, &self.record.group, self.number) {
            return Condition::Paused;
        }
        match self.ask("status") {
            Ok(reply) if reply.ready => Condition::Ready,
            Ok(reply) if reply.agent.is_some() => Condition::Starting,
            Ok(reply) => Condition::AgentAway(reply.ended),
            Err(_) => Condition::Off,
        }
    }

    fn ask(&self, verb: &str) -> Result<Reply, Failure> {
        control::ask(&self.socket(), verb)
    }

    /// Makes its groups and starts the stage.
    pub(super) fn spawn(&self) -> Result<Child, Failure> {
        let record = self.record;
        // What a power cut left of the run before.
        groups::remove(&record.hierarchies, &record.group, Some(self.number))?;
        let (entries, mounts) = groups::make_node(&record.hierarchies, &record.group, self.number, record.limits())?;
        let failed = |what: &str, error: std::io::Error| {
            Failure::Failed(format!("node {}: cannot {what}: {error}", self.name()))
        };
        let boot = Boot {
            format: FORMAT,
            hostname: self.name(),
            entries,
            mounts,
            resolv_conf: record.directory.join("resolv.conf"),
            socket: self.socket(),
            notify: record.file(self.number, "notify"),
            log: self.log(),
        };
        let path = record.file(self.number, "json");
        boot.save(&path)?;
        let _ = fs::remove_file(&boot.socket); // nobody listens on it
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&boot.log)
            .map_err(|error| failed("open its log", error))?;
        let errors = log.try_clone().map_err(|error| failed("open its log", error))?;
        let mut stage = Command::new(system::this_binary());
        stage.arg(STAGE_WORD).arg(path).env_clear().stdin(Stdio::null()).stdout(log).stderr(errors);
        stage.envs(ENVIRONMENT.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))));
        stage.spawn().map_err(|error| failed("start it", error))
    }

    /// Waits until its init listens; the process id.
    pub(super) fn born(&self, mut stage: Child) -> Result<i32, Failure> {
        let outcome = stage.wait().map_err(|error| Failure::Failed(format!("node {}: {error}", self.name())))?;
        let deadline = Instant::now() + BIRTH_TIMEOUT;
        while outcome.success() && Instant::now() < deadline {
            if let Some(init) = self.init() {
                return Ok(init);
            }
            let processes = groups::processes(&self.record.hierarchies, &self.record.group, Some(self.number));
            if processes.is_empty() && self.init().is_none() {
                break;
            }
            std::thread::sleep(POLL); // a socket file that appears tells nobody
        }
        Err(Failure::Failed(format!("node {} did not start:\n{}", self.name(), self.last_words())))
    }

    fn arguments(&self) -> Result<Vec<String>, Failure> {
        let data_dir = self.record.data_dir(self.number);
        let data_dir = data_dir
            .to_str()
            .ok_or_else(|| Failure::Usage(format!("{} is not UTF-8; choose another --data-dir", data_dir.display())))?;
        let (name, address) = (self.name(), self.addresses()?);
        let mut words: Vec<String> = if self.number == 1 {
            let port = API_PORT.to_string();
            let mut words =
                vec!["server", "--data-dir", data_dir, "--node-name", &name, "--advertise", &address, "--port", &port];
            if self.record.subnet_ipv6.is_some() {
                words.extend(DUAL_STACK);
            }
            if self.record.fast_failover {
                words.push("--fast-failover");
            }
            words.into_iter().map(str::to_owned).collect()
        } else {
            let first = Machine { record: self.record, number: 1 };
            let server = format!("https://{}:{API_PORT}", first.address()?);
            ["agent", "--data-dir", data_dir, "--node-name", &name, "--advertise", &address, "--server", &server]
                .map(str::to_owned)
                .to_vec()
        };
        words.extend(NetworkArguments { encryption: self.record.encryption, ..NetworkArguments::default() }.words());
        Ok(words)
    }

    /// Starts the agent; a node that has not joined yet gets a token for it.
    pub(super) fn start_agent(&self, token: Option<&str>) -> Result<(), Failure> {
        let joined = self.number == 1 || self.record.data_dir(self.number).join("agent/identity.json").exists();
        let token = match token {
            None if !joined => Some(self.token(1)?),
            other => other.map(str::to_owned),
        };
        let program = system::this_binary();
        let request =
            Request { verb: "start".to_owned(), program, arguments: self.arguments()?, token, ..Request::default() };
        control::call(&self.socket(), request).map(drop)
    }

    /// A token that admits so many nodes.
    pub(super) fn token(&self, uses: u16) -> Result<String, Failure> {
        let first = Machine { record: self.record, number: 1 };
        let server = format!("https://{}:{API_PORT}", first.address()?);
        let made = token::make(&self.record.global(1), "1h", &uses.to_string(), Some(&server))?;
        Ok(made.token)
    }

    /// Waits until the agent says that the node is ready.
    pub(super) fn wait_ready(&self, deadline: Instant) -> Result<(), Failure> {
        loop {
            let reply = self.ask("status")?;
            if reply.ready {
                return Ok(());
            }
            if reply.agent.is_none() {
                let how = reply.ended.unwrap_or_else(|| "it was not started".to_owned());
                return Err(Failure::Failed(format!(
                    "the agent of node {} ended ({how}); its last words:\n{}\n{}",
                    self.name(),
                    self.last_words(),
                    self.advice()
                )));
            }
            if Instant::now() > deadline {
                return Err(Failure::TimedOut(format!(
                    "node {} is not ready in time; the last words of its agent:\n{}\n{}",
                    self.name(),
                    self.last_words(),
                    self.advice()
                )));
            }
            std::thread::sleep(POLL);
        }
    }

    fn advice(&self) -> String {
        format!(
            "The whole log is {}. Try again with `klynge dev node restart-agent {}`, or remove the cluster with `klynge dev \
             down --name {}`",
            self.log().display(),
            self.name(),
            self.record.name
        )
    }

    /// Ends the agent and waits for its end; pods go on.
    pub(super) fn end_agent(&self, verb: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + STOP_TIMEOUT;
        let mut reply = self.ask(verb)?;
        while reply.agent.is_some() {
            if Instant::now() > deadline {
                return Err(Failure::TimedOut(format!(
                    "the agent of node {} does not end; `klynge dev node kill-agent {}` kills it",
                    self.name(),
                    self.name()
                )));
            }
            std::thread::sleep(POLL);
            reply = self.ask("status")?;
        }
        Ok(())
    }

    /// Kills all of it; the link goes first, so that nobody hears its sockets close.
    pub(super) fn kill(&self, switch: &Switch<'_>) -> Result<(), Failure> {
        switch.disconnect(self.number)?;
        let record = self.record;
        groups::kill(&record.hierarchies, &record.group, Some(self.number))?;
        groups::remove(&record.hierarchies, &record.group, Some(self.number))
    }

    /// The end of its log.
    pub(super) fn last_words(&self) -> String {
        use std::io::{Read as _, Seek as _, SeekFrom};
        let mut text = Vec::new();
        if let Ok(mut file) = fs::File::open(self.log()) {
            let length = file.metadata().map_or(0, |found| found.len());
            let _ = file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES))); // from the start, then
            let _ = file.take(LOG_TAIL_BYTES).read_to_end(&mut text); // what was read is shown
        }
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(LAST_LINES).collect();
        lines.into_iter().rev().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    }
}

/// A record that describes this boot: its groups are detected anew after the machine was started again.
pub(super) fn refresh(record: &mut Record) -> Result<(), Failure> {
    if record.boot_id == record::boot_id() {
        return Ok(());
    }
    record.boot_id = record::boot_id();
    record.hierarchies = groups::detect()?;
    let (namespace, inode) = namespace::current()?;
    record.namespace = inode;
    record.former_forwarding = switch::former_forwarding(&namespace)?;
    record.partitions.clear();
    record.slow.clear();
    record.save()
}
