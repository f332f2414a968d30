//! `klynge dev up`: all nodes are born while the first one's server starts; then the others join.

use super::arguments::DevUpArguments;
use super::lock::Lock;
use super::machine::{self, API_PORT, Machine};
use super::record::{self, Record};
use super::{down, groups, images, namespace, plan, switch};
use crate::cli::{Failure, Global, Output};
use crate::commands::cluster::{Cluster, target};
use crate::commands::kubeconfig::{self, Invoker};
use client::Query;
use network::Prefix;
use network::dns::host_resolvers;
use network::netlink::NetworkNamespace;
use object::{Value, meta};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(5);
/// The ranges of pods and Services inside the cluster.
const CLUSTER_RANGES: [&str; 4] = ["10.42.0.0/16", "10.43.0.0/16", "fd42::/56", "fd43::/112"];

/// Makes the cluster and waits until every node is Ready.
pub(super) fn run(global: &Global, arguments: &DevUpArguments, output: &Output) -> Result<(), Failure> {
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(arguments.timeout.clamp(1, 3600));
    let name = &arguments.name.name;
    plan::check_name(name).map_err(Failure::Usage)?;
    images::check(&arguments.image)?;
    let base = record::base(global);
    // Before the lock is taken: its file tells whose the directory is.
    down::refuse_foreign(&base, name)?;
    let lock = Lock::of_cluster(&base, name)?;
    let (namespace, mut record) = match prepare(&base, arguments) {
        Ok(prepared) => prepared,
        Err(failure) => {
            if !record::directory(&base, name).exists() {
                lock.remove(&base);
            }
            return Err(failure);
        }
    };
    output.progress(&format!("nodes {} on {} ({})", arguments.nodes, plan::bridge(name), record.subnet));
    let outcome = build(&record, &namespace, deadline).and_then(|config| {
        let nodes = if record.nodes == 1 { "1 node is".to_owned() } else { format!("{} nodes are", record.nodes) };
        output.progress(&format!("{nodes} Ready after {:.2} s", begun.elapsed().as_secs_f64()));
        arguments.image.iter().try_for_each(|image| images::give(&record, image, output))?;
        let user = Invoker::find();
        let path = global.kubeconfig.clone().unwrap_or_else(|| user.kubeconfig());
        let path = std::path::absolute(&path).unwrap_or(path);
        // First the file's name, so that what is merged is taken out again whatever happens.
        record.kubeconfig = Some(path.clone());
        record.save()?;
        let merged = kubeconfig::merge_file(&path, &config, user.ids, true, None)?;
        record.kubeconfig_before = std::mem::take(&mut record.kubeconfig_before).followed_by(&merged);
        record.save()?;
        output.progress(&format!("context {} added to {}", merged.name, path.display()));
        Ok(())
    });
    if outcome.is_err() {
        output.progress(&format!("what was made stays to be looked at; `klynge dev down --name {name}` removes it"));
    }
    outcome?;
    output.line(&format!("The cluster {name} is up. Try:"));
    output.line("  kubectl get nodes -o wide");
    output.line(&format!("  klynge dev status --name {name}"));
    output.line(&format!("  klynge dev node kill-agent {}", plan::node_name(name, record.nodes)));
    output.line(&format!("  klynge dev down --name {name}"));
    Ok(())
}

/// Everything of the record; the kubeconfig to it.
fn build(record: &Record, namespace: &NetworkNamespace, deadline: Instant) -> Result<Value, Failure> {
    let switch = machine::switch_of(record, namespace)?;
    switch.ensure()?;
    birth(record, &switch)?;
    let first = Machine { record, number: 1 };
    first.start_agent(None)?;
    let config = serve(record, deadline)?;
    if record.nodes > 1 {
        let token = token(&first, record.nodes - 1, deadline)?;
        for number in 2..=record.nodes {
            Machine { record, number }.start_agent(Some(&token))?;
        }
    }
    for number in record.numbers() {
        Machine { record, number }.wait_ready(deadline)?;
    }
    all_ready(record, deadline)?;
    Ok(config)
}

/// The record of a new cluster, on disk before anything else is made.
fn prepare(base: &Path, arguments: &DevUpArguments) -> Result<(NetworkNamespace, Record), Failure> {
    let name = &arguments.name.name;
    let directory = record::directory(base, name);
    if Record::load(&directory)?.is_some() {
        return Err(Failure::Failed(format!(
            "there is a cluster {name} already: `klynge dev status --name {name}` shows it, `klynge dev node start` starts nodes \
             that do not run, `klynge dev down --name {name}` removes it; or choose another --name"
        )));
    }
    // A directory without a record is what an `up` left that was killed at once.
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Failure::Failed(format!("cannot remove {}: {error}", directory.display())));
        }
        _ => {}
    }
    let cpus_milli = arguments.cpus.as_deref().map(plan::parse_cpus).transpose().map_err(Failure::Usage)?;
    let memory_bytes = arguments.memory.as_deref().map(plan::parse_memory).transpose().map_err(Failure::Usage)?;
    let hierarchies = groups::detect()?;
    let (namespace, inode) = namespace::current()?;
    // Addresses are chosen by one command at a time.
    let _all = Lock::of_all(base)?;
    let others: Vec<Record> = record::names(base)
        .iter()
        .filter_map(|other| Record::load(&record::directory(base, other)).ok().flatten())
        .collect();
    let mut taken = switch::taken(&namespace)?;
    taken.extend(others.iter().flat_map(|other| other.subnets().unwrap_or_default()));
    taken.extend(CLUSTER_RANGES.iter().filter_map(|range| range.parse::<Prefix>().ok()));
    let subnet = subnet(arguments, &taken)?;
    plan::check_room(&subnet, arguments.nodes).map_err(Failure::Usage)?;
    let mut record = Record::new(directory.clone(), name, arguments.nodes, subnet);
    record.namespace = inode;
    record.hierarchies = hierarchies;
    record.cpus_milli = cpus_milli;
    record.memory_bytes = memory_bytes;
    record.encryption = arguments.encryption;
    record.fast_failover = arguments.fast_failover;
    record.subnet_ipv6 = if arguments.ipv6 { Some(subnet_ipv6(&taken)?.to_string()) } else { None };
    // Another cluster may have changed it already: the last one that goes puts it back.
    let inherited = others.iter().filter(|other| other.namespace == inode && other.boot_id == record.boot_id);
    record.former_forwarding = switch::former_forwarding(&namespace)?
        .or_else(|| inherited.filter_map(|other| other.former_forwarding.clone()).next());
    machine::switch_of(&record, &namespace)?.check()?;
    let made = fs::DirBuilder::new().mode(0o700).create(&directory);
    made.map_err(|error| Failure::Failed(format!("cannot make {}: {error}", directory.display())))?;
    record.save()?;
    let resolvers = directory.join("resolv.conf");
    fs::write(&resolvers, resolv_conf())
        .map_err(|error| Failure::Failed(format!("cannot write {}: {error}", resolvers.display())))?;
    Ok((namespace, record))
}

fn subnet_ipv6(taken: &[Prefix]) -> Result<Prefix, Failure> {
    if !Path::new("/proc/sys/net/ipv6").exists() {
        return Err(Failure::Failed("this machine's kernel runs without IPv6; leave --ipv6 out".to_owned()));
    }
    plan::choose_subnet_ipv6(taken).ok_or_else(|| {
        Failure::Failed(format!(
            "all of {}/{} is in use on this machine; remove a cluster with `klynge dev down`",
            plan::POOL_IPV6,
            plan::POOL_IPV6_LENGTH
        ))
    })
}

fn subnet(arguments: &DevUpArguments, taken: &[Prefix]) -> Result<Prefix, Failure> {
    let Some(text) = &arguments.subnet else {
        return plan::choose_subnet(taken).ok_or_else(|| {
            Failure::Failed(format!(
                "all of {}/{} is in use on this machine; choose a range with --subnet",
                plan::POOL,
                plan::POOL_LENGTH
            ))
        });
    };
    let subnet = plan::parse_subnet(text).map_err(Failure::Usage)?;
    match taken.iter().find(|other| other.overlaps(&subnet)) {
        Some(other) => Err(Failure::Usage(format!(
            "--subnet {subnet} overlaps {other}, which this machine or another cluster uses; choose another, or leave it out"
        ))),
        None => Ok(subnet),
    }
}

/// The resolvers of this machine that nodes can reach: what listens on loopback here does not listen there.
fn resolv_conf() -> String {
    let paths = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"].map(PathBuf::from);
    let found = host_resolvers(&paths);
    let mut text = String::new();
    for server in found.servers.iter().filter(|server| !server.ip().is_loopback()) {
        text.push_str(&format!("nameserver {}\n", server.ip()));
    }
    if !found.search.is_empty() {
        text.push_str(&format!("search {}\n", found.search.join(" ")));
    }
    text
}

/// All nodes at once: namespaces, init, link.
fn birth(record: &Record, switch: &switch::Switch<'_>) -> Result<(), Failure> {
    let machines = || record.numbers().map(|number| Machine { record, number });
    let mut stages = Vec::new();
    for machine in machines() {
        stages.push((machine, machine.spawn()?));
    }
    for (machine, stage) in stages {
        switch.connect(machine.number, machine.born(stage)?)?;
    }
    Ok(())
}

/// Waits for the API; the kubeconfig to it from this side.
fn serve(record: &Record, deadline: Instant) -> Result<Value, Failure> {
    let first = Machine { record, number: 1 };
    let inside = record.data_dir(1).join("kubeconfig");
    loop {
        if let Some(mut config) = kubeconfig::read(&inside)? {
            reach(&mut config, &format!("klynge-{}", record.name), &format!("https://{}:{API_PORT}", first.address()?));
            kubeconfig::write(&record.own_kubeconfig(), &config, (0, 0))?;
            if Cluster::connect(&record.global(1))?.ready() {
                return Ok(config);
            }
        }
        let now = Instant::now();
        // Says what is wrong where the agent has ended or the time is over, and else that the node is not ready at once.
        match first.wait_ready(now - POLL) {
            Err(Failure::TimedOut(_)) if now < deadline => std::thread::sleep(POLL),
            other => other?,
        }
    }
}

/// Gives cluster, user and context of a kubeconfig this name, and the cluster this address.
fn reach(config: &mut Value, name: &str, server: &str) {
    for list in ["clusters", "users", "contexts"] {
        for item in config.at_mut(&[list]).and_then(Value::as_array_mut).into_iter().flatten() {
            item.set(&["name"], name.into());
            match list {
                "clusters" => item.set(&["cluster", "server"], server.into()),
                "contexts" => {
                    item.set(&["context", "cluster"], name.into());
                    item.set(&["context", "user"], name.into());
                }
                _ => {}
            }
        }
    }
    config.set(&["current-context"], name.into());
}

/// A token for the others; the namespace that holds it may come a moment after the API.
fn token(first: &Machine<'_>, uses: u16, deadline: Instant) -> Result<String, Failure> {
    loop {
        match first.token(uses) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(POLL),
            other => return other,
        }
    }
}

/// Waits until the API shows every node as Ready.
fn all_ready(record: &Record, deadline: Instant) -> Result<(), Failure> {
    let cluster = Cluster::connect(&record.global(1))?;
    let mut waiting: Vec<String> = record.numbers().map(|number| plan::node_name(&record.name, number)).collect();
    let left = deadline.saturating_duration_since(Instant::now());
    let done = cluster.wait(&[(target("", "nodes", "", ""), Query::default())], left, |_, node| {
        let conditions = node.at(&["status", "conditions"]).and_then(Value::as_array).unwrap_or_default();
        let is = |one: &Value| one.str_at(&["type"]) == Some("Ready") && one.str_at(&["status"]) == Some("True");
        if conditions.iter().any(is) {
            waiting.retain(|name| name != meta::name(node));
        }
        waiting.is_empty().then_some(())
    })?;
    if done.is_some() {
        return Ok(());
    }
    Err(Failure::TimedOut(format!(
        "not Ready in time: {}; `kubectl --kubeconfig {} describe node NAME` says why, `klynge dev down --name {}` removes the \
         cluster",
        waiting.join(", "),
        record.own_kubeconfig().display(),
        record.name
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_is_turned_to_this_side() {
        let entry = |name: &str, key: &str, value: Value| {
            Value::Object([("name", Value::from(name)), (key, value)].into_iter().collect())
        };
        let text = |key: &str, word: &str| Value::Object([(key, Value::from(word))].into_iter().collect());
        let mut config = Value::default();
        config.set(
            &["clusters"],
            Value::Array(vec![entry("klynge", "cluster", text("server", "https://127.0.0.1:6443"))]),
        );
        config.set(&["users"], Value::Array(vec![entry("klynge", "user", text("token", "x"))]));
        config.set(&["contexts"], Value::Array(vec![entry("klynge", "context", text("cluster", "klynge"))]));
        reach(&mut config, "klynge-dev", "https://10.84.0.2:6443");
        let first = |list: &str, path: &[&str]| {
            let items = config.at(&[list]).and_then(Value::as_array).unwrap_or_default();
            items.first().and_then(|item| item.str_at(path)).map(str::to_owned)
        };
        assert_eq!(first("clusters", &["cluster", "server"]).as_deref(), Some("https://10.84.0.2:6443"));
        assert_eq!(first("contexts", &["context", "user"]).as_deref(), Some("klynge-dev"));
        assert_eq!(first("users", &["name"]).as_deref(), Some("klynge-dev"));
        assert_eq!(config.str_at(&["current-context"]), Some("klynge-dev"));
    }
}
