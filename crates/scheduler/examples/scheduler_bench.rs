//! Measures placement: pods per second at 5,000 nodes, and the time of a single decision.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use klynge_scheduler::{Decision, Parameters, Snapshot, place};
use serde_json::json;

const NODES: usize = 5_000;
const BATCH: usize = 2_000;
const WORKLOADS: usize = 100;

fn node(index: usize) -> Result<Arc<Node>, serde_json::Error> {
    let name = format!("node-{index}");
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", index % 3)}},
        "status": {"allocatable": {"cpu": "32", "memory": "128Gi", "pods": "250", "ephemeral-storage": "1Ti"}}
    }))
    .map(Arc::new)
}

fn pod(index: usize) -> Result<Arc<Pod>, serde_json::Error> {
    let workload = index % WORKLOADS;
    serde_json::from_value(json!({
        "metadata": {"name": format!("pod-{index}"), "namespace": "default", "uid": format!("uid-{index}"),
            "labels": {"app": format!("app-{workload}")},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "w", "uid": format!("owner-{workload}"), "controller": true}]},
        "spec": {"containers": [{"name": "main", "image": "web:1", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}]}
    }))
    .map(Arc::new)
}

fn main() -> Result<(), serde_json::Error> {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let total = if quick { 40_000 } else { 150_000 };
    let mut snapshot = Snapshot::new();
    for index in 0..NODES {
        snapshot.set_node(node(index)?);
    }
    let pods: Vec<Arc<Pod>> = (0..total).map(pod).collect::<Result<_, _>>()?;
    let mut deciding = Duration::ZERO;
    let mut bound = 0_usize;
    let started = Instant::now();
    for batch in pods.chunks(BATCH) {
        let decision_started = Instant::now();
        let decisions = place(&snapshot, batch, Parameters { seed: 7 });
        deciding += decision_started.elapsed();
        for decision in decisions {
            if let Decision::Bind { pod, node } = decision {
                snapshot.assume(&pod, &node);
                bound += 1;
            }
        }
    }
    let elapsed = started.elapsed();
    let mut single: Vec<Duration> = Vec::new();
    for index in 0..1_000 {
        let one = [pod(total + index)?];
        let decision_started = Instant::now();
        let decisions = place(&snapshot, &one, Parameters { seed: index as u64 });
        single.push(decision_started.elapsed());
        if let Some(Decision::Bind { pod, node }) = decisions.first() {
            snapshot.assume(pod, node);
        }
    }
    single.sort();
    println!("{NODES} nodes, {bound} of {total} pods placed, {WORKLOADS} workloads, batches of {BATCH}");
    println!(
        "{}",
        json!({
            "bench": "scheduler",
            "pods_per_s": (bound as f64 / elapsed.as_secs_f64()).round(),
            "decisions_per_s": (bound as f64 / deciding.as_secs_f64()).round(),
            "single_decision_p99_us": single[single.len() * 99 / 100].as_micros(),
        })
    );
    Ok(())
}
