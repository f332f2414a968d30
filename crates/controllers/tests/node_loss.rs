//! What follows from what heartbeats tell of nodes (decision 0010): conditions, taints, endpoints, evictions, replacements.
#![expect(clippy::unwrap_used, reason = "tests")]

mod simulation;

use klynge_controllers::endpoint_slice::EndpointSliceController;
use klynge_controllers::fast_failover::FastFailoverController;
use klynge_controllers::node_lifecycle::NodeLifecycleController;
use klynge_controllers::pod_garbage::PodGarbageCollector;
use klynge_controllers::replica_set::ReplicaSetController;
use klynge_controllers::stateful_set::StatefulSetController;
use klynge_controllers::taint_eviction::TaintEvictionController;
use klynge_controllers::{Presence, Seen, Silence};
use serde_json::{Value, json};
use simulation::{Cluster, condition, merge};

const HEALTHY: Seen = Seen { presence: Presence::Healthy, flapping: false, held: false };

fn silent(silence: Silence) -> Seen {
    Seen { presence: Presence::Silent(silence), ..HEALTHY }
}

fn node(name: &str) -> Value {
    json!({"kind": "Node", "metadata": {"name": name}, "spec": {}, "status": {"conditions": [
        {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]}})
}

/// A node says again that it is ready.
fn reports(cluster: &mut Cluster, name: &str) {
    let now = cluster.now;
    cluster.change(
        "Node",
        "",
        name,
        json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now}]}}),
    );
}

fn pod(name: &str, changes: Value) -> Value {
    let mut pod = json!({"kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
        "spec": {"nodeName": "node-a", "containers": [{"name": "main", "image": "web"}]}});
    merge(&mut pod, &changes);
    pod
}

fn state(cluster: &Cluster, name: &str) -> String {
    let node = cluster.get("Node", "", name).unwrap();
    let ready = condition(node, "Ready").unwrap();
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let mut taints: Vec<String> = taints
        .iter()
        .map(|taint| {
            let key = taint["key"].as_str().unwrap();
            format!("{}:{}", key.rsplit('/').next().unwrap(), taint["effect"].as_str().unwrap())
        })
        .collect();
    taints.sort();
    format!("{} {} {}", ready["status"].as_str().unwrap(), ready["reason"].as_str().unwrap(), taints.join(","))
}

fn ready_endpoints(cluster: &Cluster) -> usize {
    let slices = cluster.all("EndpointSlice");
    let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default());
    endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true).count()
}

fn names(cluster: &Cluster) -> Vec<String> {
    let gone = |pod: &&&Value| pod["metadata"]["deletionTimestamp"].is_null();
    let pods = cluster.all("Pod");
    pods.iter().filter(gone).map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

fn cluster(nodes: &[&str]) -> Cluster {
    let mut cluster = Cluster::new()
        .with::<NodeLifecycleController>()
        .with::<TaintEvictionController>()
        .with::<EndpointSliceController>()
        .with::<FastFailoverController>()
        .with::<ReplicaSetController>()
        .with::<StatefulSetController>()
        .with::<PodGarbageCollector>();
    for name in nodes {
        cluster.apply(node(name));
        cluster.see(name, HEALTHY);
    }
    cluster.apply(json!({"kind": "Service", "metadata": {"name": "web", "namespace": "default"}, "spec": {
        "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "TCP"}]}}));
    cluster
}

#[test]
fn each_state_has_its_condition_taints_and_endpoints() {
    let unreachable = "unreachable:NoSchedule";
    let both = "unreachable:NoExecute,unreachable:NoSchedule";
    let cases = [
        (HEALTHY, "True KubeletReady ".to_owned(), 1),
        (Seen { presence: Presence::AgentHung, ..HEALTHY }, "Unknown AgentHung not-ready:NoSchedule".to_owned(), 1),
        (
            Seen { presence: Presence::AgentAway { by_lease: false }, ..HEALTHY },
            "Unknown AgentStopped not-ready:NoSchedule".to_owned(),
            1,
        ),
        (silent(Silence::Fresh), format!("Unknown NodeStatusUnknown {unreachable}"), 0),
        (silent(Silence::Replace), format!("Unknown NodeStatusUnknown {unreachable}"), 0),
        (silent(Silence::Evict), format!("Unknown NodeStatusUnknown {both}"), 0),
        (Seen { held: true, ..silent(Silence::Evict) }, "Unknown NodeStatusUnknown ".to_owned(), 1),
    ];
    for (seen, expected, endpoints) in cases {
        let mut cluster = cluster(&["node-a", "node-b", "node-c"]);
        cluster.apply(pod("web", json!({"spec": {"tolerations": [{"operator": "Exists"}]}})));
        cluster.settle();
        assert_eq!(ready_endpoints(&cluster), 1);
        cluster.see("node-a", seen);
        cluster.settle();
        assert_eq!((state(&cluster, "node-a"), ready_endpoints(&cluster)), (expected, endpoints), "{seen:?}");
        assert_eq!(state(&cluster, "node-b"), "True KubeletReady ");
        // Whatever it was: it beats again, and nothing is lifted before it has spoken.
        let before = state(&cluster, "node-a");
        cluster.see("node-a", HEALTHY);
        cluster.settle();
        assert_eq!(state(&cluster, "node-a"), before, "{seen:?}");
        reports(&mut cluster, "node-a");
        cluster.settle();
        assert_eq!(state(&cluster, "node-a"), "True KubeletReady ", "{seen:?}");
        let told =
            cluster.messages().iter().any(|message| message == "NodeNotReady: Node node-a status is now: NodeNotReady");
        assert_eq!(told, seen != HEALTHY);
    }
}

#[test]
fn pods_leave_by_their_tolerations_and_never_because_an_agent_is_away() {
    let patient = json!({"spec": {"tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]}});
    let started = || {
        let mut cluster = cluster(&["node-a", "node-b", "node-c"]);
        cluster.apply(pod("patient", patient.clone()));
        cluster.apply(pod("impatient", json!({})));
        cluster.settle();
        cluster
    };
    let mut cluster = started();
    for presence in [Presence::AgentHung, Presence::AgentAway { by_lease: false }] {
        cluster.see("node-a", Seen { presence, ..HEALTHY });
        cluster.settle();
        cluster.pass(4_000);
        assert_eq!(names(&cluster), ["impatient", "patient"]);
    }
    let mut cluster = started();
    cluster.see("node-a", silent(Silence::Replace));
    cluster.settle();
    assert_eq!(names(&cluster), ["impatient", "patient"], "no NoExecute before five seconds");
    cluster.see("node-a", silent(Silence::Evict));
    cluster.settle();
    assert_eq!(names(&cluster), ["patient"]);
    cluster.pass(295);
    assert_eq!(names(&cluster), ["patient"]);
    // It returns in time.
    cluster.see("node-a", HEALTHY);
    reports(&mut cluster, "node-a");
    cluster.settle();
    cluster.pass(600);
    assert_eq!(names(&cluster), ["patient"]);
    // An agent that is away where nobody can ask its host: its Lease tells.
    let mut cluster = started();
    cluster.see("node-a", Seen { presence: Presence::AgentAway { by_lease: true }, ..HEALTHY });
    cluster.settle();
    assert_eq!(state(&cluster, "node-a"), "Unknown AgentStopped not-ready:NoSchedule");
    cluster.pass(45);
    assert_eq!(state(&cluster, "node-a"), "Unknown NodeStatusUnknown unreachable:NoExecute,unreachable:NoSchedule");
}

#[test]
fn fast_failover_replaces_what_may_have_copies_and_nothing_else() {
    let fast = json!({"metadata": {"annotations": {"klynge.io/fast-failover": "true"}}});
    let check = |annotations: Value, spec: Value, expected: usize| {
        let mut cluster = cluster(&["node-a", "node-b", "node-c"]);
        let mut template =
            json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": "web"}]}});
        merge(&mut template["metadata"], &annotations["metadata"]);
        merge(&mut template["spec"], &spec);
        cluster.apply(json!({"kind": "ReplicaSet", "metadata": {"name": "web", "namespace": "default"}, "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template}}));
        cluster.settle();
        let before = names(&cluster);
        assert_eq!(before.len(), 2);
        cluster.see("node-a", silent(Silence::Fresh));
        cluster.settle();
        assert_eq!(names(&cluster), before, "not before a second");
        cluster.see("node-a", silent(Silence::Replace));
        cluster.step();
        let left = names(&cluster).iter().filter(|name| before.contains(name)).count();
        assert_eq!(2 - left, expected, "{annotations} {spec}");
    };
    check(fast.clone(), json!({}), 2);
    check(json!({"metadata": {}}), json!({}), 0);
    let once =
        json!({"metadata": {"annotations": {"klynge.io/fast-failover": "true", "klynge.io/at-most-once": "true"}}});
    check(once, json!({}), 0);
    check(fast.clone(), json!({"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]}), 0);
    // A StatefulSet's pods and pods of nobody stay.
    let mut cluster = cluster(&["node-a", "node-b", "node-c"]);
    cluster.apply(pod("alone", fast));
    cluster.view.settings.fast_failover = true;
    cluster.settle();
    cluster.see("node-a", silent(Silence::Replace));
    cluster.settle();
    assert_eq!(names(&cluster), ["alone"]);
}

#[test]
fn an_identity_is_not_given_away_before_its_pod_is_gone() {
    for grace_seconds in [30, 0] {
        an_identity_stays_one(grace_seconds);
    }
}

fn an_identity_stays_one(grace_seconds: i64) {
    let mut cluster = cluster(&["node-a", "node-b", "node-c"]);
    cluster.apply(json!({"kind": "StatefulSet", "metadata": {"name": "db", "namespace": "default"}, "spec": {
        "replicas": 1, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
        "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"terminationGracePeriodSeconds": grace_seconds, "containers": [{"name": "main", "image": "db"}]}}}}));
    cluster.settle();
    let uid = |cluster: &Cluster| cluster.get("Pod", "default", "db-0").map(|pod| pod["metadata"]["uid"].clone());
    let first = uid(&cluster);
    assert!(first.is_some());
    cluster.unreachable.insert("node-a".into());
    cluster.see("node-a", silent(Silence::Evict));
    cluster.settle();
    cluster.pass(100_000);
    assert!(!cluster.get("Pod", "default", "db-0").unwrap()["metadata"]["deletionTimestamp"].is_null());
    assert_eq!(uid(&cluster), first, "marked, and its name stays taken, for ever");
    // Someone who can know says that the machine is off.
    let taints = json!({"spec": {"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute", "value": "nodeshutdown"}]}});
    cluster.change("Node", "", "node-a", taints);
    let freed = (0..5).any(|_| {
        cluster.step();
        uid(&cluster) != first
    });
    assert!(freed, "freed by fencing");
}

#[test]
fn a_cluster_that_is_lost_in_good_part_evicts_slowly_or_not_at_all() {
    for (nodes, lost, evicting) in [(5, 2, 2), (5, 3, 0), (60, 34, 1), (60, 20, 20)] {
        let all: Vec<String> = (0..nodes).map(|number| format!("node-{number}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let mut cluster = cluster(&all);
        cluster.settle();
        for name in &all[..lost] {
            cluster.see(name, silent(Silence::Fresh));
        }
        cluster.settle();
        for name in &all[..lost] {
            cluster.see(name, silent(Silence::Evict));
        }
        cluster.settle();
        let count = |cluster: &Cluster| all.iter().filter(|name| state(cluster, name).contains("NoExecute")).count();
        assert_eq!(count(&cluster), evicting, "{lost} of {nodes}");
        cluster.pass(20);
        let later = if evicting == 1 { 2..=3 } else { evicting..=evicting };
        assert!(later.contains(&count(&cluster)), "{lost} of {nodes}: {}", count(&cluster));
    }
}

#[test]
fn a_flapping_node_keeps_its_taint_and_is_named_once() {
    let mut cluster = cluster(&["node-a", "node-b", "node-c"]);
    cluster.settle();
    cluster.see("node-a", silent(Silence::Evict));
    cluster.settle();
    cluster.see("node-a", Seen { flapping: true, ..HEALTHY });
    reports(&mut cluster, "node-a");
    cluster.settle();
    cluster.pass(45);
    assert_eq!(state(&cluster, "node-a"), "True KubeletReady unreachable:NoSchedule");
    assert_eq!(cluster.messages().iter().filter(|message| message.starts_with("NodeFlapping")).count(), 1);
    cluster.see("node-a", HEALTHY);
    cluster.settle();
    assert_eq!(state(&cluster, "node-a"), "True KubeletReady ");
}
