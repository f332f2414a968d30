//! Tables of clusters, pods and the decisions they must lead to.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;

use klynge_scheduler::{Decision, Parameters, Snapshot, place};
use serde_json::{Value, json};

fn node(name: &str, changes: Value) -> Value {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}
    });
    merge(&mut node, changes);
    node
}

fn pod(name: &str, changes: Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": "web"}]}
    });
    merge(&mut pod, changes);
    pod
}

fn merge(target: &mut Value, changes: Value) {
    match (target, changes) {
        (Value::Object(target), Value::Object(changes)) => {
            for (key, value) in changes {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, changes) => *target = changes,
    }
}

fn cpu(amount: &str) -> Value {
    json!({"spec": {"containers": [{"name": "main", "image": "web", "resources": {"requests": {"cpu": amount}}}]}})
}

fn snapshot(nodes: Vec<Value>, placed: Vec<Value>) -> Snapshot {
    let mut snapshot = Snapshot::new();
    for node in nodes {
        snapshot.set_node(Arc::new(serde_json::from_value(node).unwrap()));
    }
    for pod in placed {
        snapshot.set_pod(Arc::new(serde_json::from_value(pod).unwrap()));
    }
    snapshot
}

fn decide(snapshot: &Snapshot, pods: Vec<Value>, seed: u64) -> Vec<Decision> {
    let pods: Vec<_> = pods.into_iter().map(|pod| Arc::new(serde_json::from_value(pod).unwrap())).collect();
    place(snapshot, &pods, Parameters { seed })
}

fn outcome(decision: &Decision) -> String {
    match decision {
        Decision::Bind { node, .. } => node.to_string(),
        Decision::Unschedulable { message, .. } => message.to_string(),
        Decision::Gated { .. } => "gated".into(),
    }
}

fn check(case: &str, nodes: Vec<Value>, placed: Vec<Value>, wanted: Value, expected: &str) {
    let snapshot = snapshot(nodes, placed);
    // The answer must not depend on the seed where the cluster leaves only one choice.
    for seed in 0..8 {
        let decisions = decide(&snapshot, vec![wanted.clone()], seed);
        assert_eq!(outcome(&decisions[0]), expected, "{case}, seed {seed}");
    }
}

const NOT_HELPFUL: &str =
    "no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
const NO_VICTIMS: &str =
    "no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";

#[test]
fn filters_refuse_in_upstreams_words() {
    let taint = |effect: &str| json!({"spec": {"taints": [{"key": "dedicated", "value": "db", "effect": effect}]}});
    let refused = |case: &str, node: Value, placed: Vec<Value>, pod: Value, reason: &str, preemption: &str| {
        check(case, vec![node], placed, pod, &format!("0/1 nodes are available: 1 {reason}. {preemption}"));
    };
    check("empty cluster", vec![], vec![], pod("a", json!({})), "no nodes available to schedule pods");
    check("one node", vec![node("n", json!({}))], vec![], pod("a", json!({})), "n");
    refused(
        "cordoned",
        node("n", json!({"spec": {"unschedulable": true}})),
        vec![],
        pod("a", json!({})),
        "node(s) were unschedulable",
        NOT_HELPFUL,
    );
    refused(
        "tainted",
        node("n", taint("NoSchedule")),
        vec![],
        pod("a", json!({})),
        "node(s) had untolerated taint(s)",
        NOT_HELPFUL,
    );
    refused(
        "executing taint",
        node("n", taint("NoExecute")),
        vec![],
        pod("a", json!({})),
        "node(s) had untolerated taint(s)",
        NOT_HELPFUL,
    );
    let tolerant = json!({"spec": {"tolerations": [{"key": "dedicated", "operator": "Equal", "value": "db", "effect": "NoSchedule"}]}});
    check("tolerated", vec![node("n", taint("NoSchedule"))], vec![], pod("a", tolerant), "n");
    let selector = json!({"spec": {"nodeSelector": {"disk": "ssd"}}});
    refused(
        "selector",
        node("n", json!({})),
        vec![],
        pod("a", selector.clone()),
        "node(s) didn't match Pod's node affinity/selector",
        NOT_HELPFUL,
    );
    check(
        "selected",
        vec![node("n", json!({})), node("s", json!({"metadata": {"labels": {"disk": "ssd"}}}))],
        vec![],
        pod("a", selector),
        "s",
    );
    let by_field = json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]}}}}});
    check("by field", vec![node("a", json!({})), node("b", json!({}))], vec![], pod("p", by_field), "b");
    let port = |name: &str, node: Option<&str>| {
        let ports = json!([{"name": "main", "ports": [{"containerPort": 80, "hostPort": 80}]}]);
        pod(name, json!({"spec": {"nodeName": node, "containers": ports}}))
    };
    refused(
        "port taken",
        node("n", json!({})),
        vec![port("a", Some("n"))],
        port("b", None),
        "node(s) didn't have free ports for the requested pod ports",
        NO_VICTIMS,
    );
    refused("too large", node("n", json!({})), vec![], pod("a", cpu("5")), "Insufficient cpu", NOT_HELPFUL);
    let mut occupant = pod("a", cpu("3"));
    occupant["spec"]["nodeName"] = json!("n");
    refused(
        "occupied",
        node("n", json!({})),
        vec![occupant.clone()],
        pod("b", cpu("2")),
        "Insufficient cpu",
        NO_VICTIMS,
    );
    occupant["status"] = json!({"phase": "Succeeded"});
    check("an ended pod holds nothing", vec![node("n", json!({}))], vec![occupant], pod("b", cpu("2")), "n");
    refused(
        "full",
        node("n", json!({"status": {"allocatable": {"pods": "0"}}})),
        vec![],
        pod("a", json!({})),
        "Too many pods",
        NO_VICTIMS,
    );
    let device = json!({"spec": {"containers": [{"name": "m", "resources": {"requests": {"example.com/gpu": "1"}}}]}});
    refused("device", node("n", json!({})), vec![], pod("a", device), "Insufficient example.com/gpu", NOT_HELPFUL);
    let gated = json!({"spec": {"schedulingGates": [{"name": "wait"}]}});
    check("gated", vec![node("n", json!({}))], vec![], pod("a", gated), "gated");
    let never = json!({"spec": {"preemptionPolicy": "Never", "nodeName": "", "nodeSelector": {"x": "y"}}});
    refused(
        "never preempts",
        node("n", json!({})),
        vec![],
        pod("a", never),
        "node(s) didn't match Pod's node affinity/selector",
        "no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.",
    );
}

#[test]
fn reasons_are_counted_and_sorted() {
    let tainted = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    let nodes = vec![node("a", tainted), node("b", json!({})), node("c", json!({}))];
    check(
        "mixed",
        nodes,
        vec![],
        pod("p", cpu("100")),
        "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. \
         no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
    );
}

#[test]
fn init_containers_sidecars_and_overhead_count() {
    let request = |name: &str, cpu: &str, restart: Option<&str>| json!({"name": name, "restartPolicy": restart, "resources": {"requests": {"cpu": cpu}}});
    let spec = json!({"spec": {
        "overhead": {"cpu": "100m"},
        "initContainers": [request("first", "3", None), request("side", "1", Some("Always")), request("last", "2500m", None)],
        "containers": [request("main", "2", None)]
    }});
    let parsed = serde_json::from_value(pod("p", spec)).unwrap();
    // The peak is the last init container beside the sidecar: 2.5 + 1, plus overhead.
    assert_eq!(klynge_scheduler::pod_requests(&parsed).cpu_milli, 3600);
}

#[test]
fn scores_choose_the_better_node() {
    let mut busy = pod("busy", cpu("2"));
    busy["spec"]["nodeName"] = json!("a");
    let two = || vec![node("a", json!({})), node("b", json!({}))];
    check("least allocated", two(), vec![busy.clone()], pod("p", cpu("1")), "b");
    let prefers = json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 100, "preference": {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["a"]}]}}]}}}});
    check("preferred", two(), vec![busy], pod("p", prefers), "a");
    let disliked = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    check("disliked", vec![node("a", disliked), node("b", json!({}))], vec![], pod("p", json!({})), "b");
    let image = json!({"status": {"images": [{"names": ["web:latest"], "sizeBytes": 900_000_000}]}});
    check("image", vec![node("a", json!({})), node("b", image)], vec![], pod("p", json!({})), "b");
}

#[test]
fn equal_pods_of_one_owner_spread_over_hosts_and_zones() {
    let owned = |index: usize| {
        let owner =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "w", "uid": "owner", "controller": true}]);
        pod(&format!("p{index}"), json!({"metadata": {"ownerReferences": owner}}))
    };
    let zoned =
        |name: &str, zone: &str| node(name, json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}}));
    let snapshot = snapshot(vec![zoned("a", "1"), zoned("b", "1"), zoned("c", "2"), zoned("d", "2")], vec![]);
    for seed in 0..4 {
        let decisions = decide(&snapshot, (0..8).map(owned).collect(), seed);
        let mut per_node: BTreeMap<String, usize> = BTreeMap::new();
        for decision in &decisions {
            *per_node.entry(outcome(decision)).or_default() += 1;
        }
        assert_eq!(per_node.values().copied().collect::<Vec<_>>(), [2, 2, 2, 2], "seed {seed}: {per_node:?}");
    }
}

#[test]
fn hard_spread_constraints_bound_the_skew() {
    let constraint = |policy: &str| {
        json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": policy,
            "labelSelector": {"matchLabels": {"app": "web"}}}]}})
    };
    let zoned = |name: &str, zone: &str, pods: &str| {
        node(name, json!({"metadata": {"labels": {"zone": zone}}, "status": {"allocatable": {"pods": pods}}}))
    };
    let nodes = vec![zoned("a", "1", "10"), zoned("b", "2", "1"), node("unlabelled", json!({}))];
    let snapshot = snapshot(nodes, vec![]);
    let pods = (0..4).map(|index| pod(&format!("p{index}"), constraint("DoNotSchedule"))).collect();
    let outcomes: Vec<String> = decide(&snapshot, pods, 1).iter().map(outcome).collect();
    let bound = |name: &str| outcomes.iter().filter(|outcome| *outcome == name).count();
    assert_eq!((bound("a"), bound("b"), bound("unlabelled")), (2, 1, 0), "{outcomes:?}");
    let refused = "0/3 nodes are available: 1 Too many pods, 1 node(s) didn't match pod topology spread constraints, \
                   1 node(s) didn't match pod topology spread constraints (missing required label). \
                   no new claims to deallocate, preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod.";
    assert_eq!(outcomes[3], refused);
}

#[test]
fn pod_affinity_works_both_ways_and_within_a_batch() {
    let near = json!({"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "kubernetes.io/hostname"});
    let affinity = |kind: &str, term: &Value| json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}});
    let mut database = pod("db", json!({"metadata": {"labels": {"app": "db"}}, "spec": {"nodeName": "b"}}));
    let two = || vec![node("a", json!({})), node("b", json!({}))];
    check("towards", two(), vec![database.clone()], pod("p", affinity("podAffinity", &near)), "b");
    check("away", two(), vec![database.clone()], pod("p", affinity("podAntiAffinity", &near)), "a");
    let dislikes_web =
        json!({"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"});
    merge(&mut database, affinity("podAntiAffinity", &dislikes_web));
    check("an existing pod keeps others away", two(), vec![database], pod("p", json!({})), "a");
    let mut group: Vec<Value> = Vec::new();
    for index in 0..3 {
        group.push(pod(&format!("p{index}"), affinity("podAntiAffinity", &dislikes_web)));
    }
    let outcomes: Vec<String> = decide(&snapshot(two(), vec![]), group, 3).iter().map(outcome).collect();
    assert_ne!(outcomes[0], outcomes[1]);
    assert!(outcomes[2].contains("2 node(s) didn't match pod anti-affinity rules"), "{outcomes:?}");
    let together = json!({"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"});
    let group = (0..3).map(|index| pod(&format!("p{index}"), affinity("podAffinity", &together))).collect();
    let outcomes: Vec<String> = decide(&snapshot(two(), vec![]), group, 3).iter().map(outcome).collect();
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0] && outcome.len() == 1), "{outcomes:?}");
}

#[test]
fn priority_and_then_age_order_the_queue_and_a_seed_replays() {
    let snapshot = snapshot(vec![node("n", json!({"status": {"allocatable": {"pods": "1"}}}))], vec![]);
    let low = pod("low", json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}}));
    let high =
        pod("high", json!({"metadata": {"creationTimestamp": "2026-01-02T00:00:00Z"}, "spec": {"priority": 10}}));
    let decisions = decide(&snapshot, vec![low, high], 0);
    assert_eq!(decisions[0].pod().metadata.name.as_deref(), Some("high"));
    assert_eq!(outcome(&decisions[0]), "n");
    assert!(outcome(&decisions[1]).starts_with("0/1 nodes are available: 1 Too many pods."));

    let many: Vec<Value> = (0..50).map(|index| node(&format!("n{index}"), json!({}))).collect();
    let snapshot = self::snapshot(many, vec![]);
    let pods: Vec<Value> = (0..100).map(|index| pod(&format!("p{index}"), json!({}))).collect();
    assert_eq!(decide(&snapshot, pods.clone(), 9), decide(&snapshot, pods.clone(), 9));
    assert_ne!(decide(&snapshot, pods.clone(), 9), decide(&snapshot, pods, 10));
}

#[test]
fn the_snapshot_forgets_what_leaves() {
    let mut snapshot = snapshot(vec![node("n", json!({"status": {"allocatable": {"pods": "1"}}}))], vec![]);
    let first = Arc::new(serde_json::from_value(pod("a", json!({}))).unwrap());
    snapshot.assume(&first, "n");
    assert_eq!(snapshot.node_of("uid-a"), Some("n"));
    // An update that does not show the binding yet must not free the place.
    snapshot.set_pod(first.clone());
    assert_eq!(snapshot.placed_pods(), 1);
    snapshot.forget("uid-a");
    assert_eq!(snapshot.placed_pods(), 0);
    let bound = Arc::new(serde_json::from_value(pod("a", json!({"spec": {"nodeName": "n"}}))).unwrap());
    snapshot.set_pod(bound);
    snapshot.forget("uid-a");
    assert_eq!(snapshot.placed_pods(), 1, "a pod seen bound is a fact, not an assumption");
    snapshot.remove_node("n");
    assert_eq!((snapshot.nodes(), snapshot.placed_pods()), (0, 1));
    snapshot.set_node(Arc::new(serde_json::from_value(node("n", json!({}))).unwrap()));
    let second = decide(&snapshot, vec![pod("b", json!({}))], 0);
    assert_eq!(outcome(&second[0]), "n");
    // A pod may be seen before its node; meanwhile others are placed as if the node were not there.
    let early = Arc::new(serde_json::from_value(pod("early", json!({"spec": {"nodeName": "later"}}))).unwrap());
    snapshot.set_pod(early);
    assert_eq!(outcome(&decide(&snapshot, vec![pod("c", json!({}))], 0)[0]), "n");
    snapshot.remove_pod("uid-early");
    snapshot.remove_pod("uid-a");
    assert_eq!((snapshot.nodes(), snapshot.placed_pods()), (1, 0));
}
