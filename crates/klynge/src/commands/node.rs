//! `klynge node remove`: a node leaves the cluster: cordoned, drained by evictions, deleted.

use super::cluster::{Cluster, target};
use crate::cli::{Failure, Global, NodeCommand, Output};
use client::{DeleteOptions, PatchKind, Query, Target, Verb, WriteOptions};
use object::{Value, meta};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(500);

pub(crate) fn run(global: &Global, command: &NodeCommand, output: &Output) -> Result<(), Failure> {
    let NodeCommand::Remove { name, timeout, force } = command;
    let cluster = Cluster::connect(global)?;
    let node = target("", "nodes", "", name);
    let Some(object) = cluster.get(node.clone())? else {
        return Err(Failure::NotFound(format!("there is no node {name}; `kubectl get nodes` shows them")));
    };
    let mut cordon = Value::default();
    cordon.set(&["spec", "unschedulable"], true.into());
    cluster.call(node.clone(), Verb::Patch(PatchKind::Merge, cordon, WriteOptions::default()))?;
    if *force {
        output.progress(&format!("{name} is cordoned; its pods are given up"));
    } else {
        output.progress(&format!("{name} is cordoned; its pods leave"));
        drain(&cluster, &object, name, Duration::from_secs(*timeout), output)?;
    }
    refuse_its_key(&cluster, name)?;
    match cluster.call(node, Verb::Delete(DeleteOptions::default())) {
        Err(status) if !status.is_not_found() => return Err(status.into()),
        _ => {}
    }
    output.line(&format!(
        "Node {name} is removed. On that machine, `klynge down --purge` removes what is left; a node of `klynge dev` goes with its \
         cluster (`klynge dev node kill {name}` ends it before)."
    ));
    Ok(())
}

/// From here on the server refuses the certificates that the node has: before the Node goes, so that its agent cannot bring it back.
fn refuse_its_key(cluster: &Cluster, name: &str) -> Result<(), Failure> {
    let record = api::auth::removal_record(name);
    let place = target("", "configmaps", meta::namespace(&record), meta::name(&record));
    // One of an earlier removal has an earlier time, which nothing but a new record changes.
    match cluster.call(place.clone(), Verb::Delete(DeleteOptions::default())) {
        Err(status) if !status.is_not_found() => return Err(status.into()),
        _ => {}
    }
    let place = Target { name: "".into(), ..place };
    cluster.call(place, Verb::Create(record, WriteOptions::default()))?;
    Ok(())
}

/// Pods that an eviction moves: not those of DaemonSets, which are for this node alone, nor ended or static ones.
fn is_movable(pod: &Value) -> bool {
    let owned = meta::owner_references(pod).any(|owner| owner.kind == "DaemonSet");
    let ended = matches!(pod.str_at(&["status", "phase"]), Some("Succeeded" | "Failed"));
    let mirror = pod.at(&["metadata", "annotations", "kubernetes.io/config.mirror"]).is_some();
    !owned && !ended && !mirror
}

fn drain(cluster: &Cluster, node: &Value, name: &str, timeout: Duration, output: &Output) -> Result<(), Failure> {
    let deadline = Instant::now() + timeout;
    let conditions = node.at(&["status", "conditions"]).and_then(Value::as_array).unwrap_or_default();
    let ready =
        conditions.iter().any(|one| one.str_at(&["type"]) == Some("Ready") && one.str_at(&["status"]) == Some("True"));
    let mut asked = std::collections::BTreeSet::new();
    loop {
        let query = Query { fields: format!("spec.nodeName={name}"), ..Query::default() };
        let pods = cluster.list(target("", "pods", "", ""), query)?;
        let left: Vec<&Value> = pods.iter().filter(|pod| is_movable(pod)).collect();
        if left.is_empty() {
            return Ok(());
        }
        let mut held = String::new();
        for pod in &left {
            let (namespace, pod_name) = (meta::namespace(pod), meta::name(pod));
            if !asked.insert(meta::uid(pod).to_owned()) {
                continue;
            }
            let mut eviction = Value::default();
            eviction.set(&["apiVersion"], "policy/v1".into());
            eviction.set(&["kind"], "Eviction".into());
            eviction.set(&["metadata", "name"], pod_name.into());
            eviction.set(&["metadata", "namespace"], namespace.into());
            let place = Target { subresource: "eviction".into(), ..target("", "pods", namespace, pod_name) };
            match cluster.call(place, Verb::Create(eviction, WriteOptions::default())) {
                Ok(_) => output.progress(&format!("evicting pod {namespace}/{pod_name}")),
                Err(status) if status.is_not_found() => {}
                // A disruption budget: asked again in the next round.
                Err(status) if status.code == 429 => {
                    asked.remove(meta::uid(pod));
                    held = format!("; pod {namespace}/{pod_name}: {}", status.message);
                }
                Err(status) => return Err(status.into()),
            }
        }
        if Instant::now() >= deadline {
            let hint =
                if ready { "" } else { "; the node does not answer: if its machine is gone for good, give --force" };
            return Err(Failure::TimedOut(format!(
                "{} pods are still on {name} after {} s{held}{hint}; the node stays, cordoned",
                left.len(),
                timeout.as_secs()
            )));
        }
        std::thread::sleep(POLL);
    }
}
