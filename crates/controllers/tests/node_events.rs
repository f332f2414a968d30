//! What controllers tell of nodes: that they have come or gone, and that an eviction is called off.
#![expect(clippy::unwrap_used, reason = "tests")]

mod simulation;

use klynge_controllers::node_lifecycle::NodeLifecycleController;
use klynge_controllers::taint_eviction::TaintEvictionController;
use klynge_controllers::{Presence, Seen};
use serde_json::{Value, json};
use simulation::Cluster;

fn node(name: &str) -> Value {
    json!({"kind": "Node", "metadata": {"name": name}, "spec": {}, "status": {"conditions": [
        {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]}})
}

fn cluster(nodes: &[&str]) -> Cluster {
    let mut cluster = Cluster::new().with::<NodeLifecycleController>().with::<TaintEvictionController>();
    for name in nodes {
        cluster.apply(node(name));
        cluster.see(name, Seen { presence: Presence::Healthy, flapping: false, held: false });
    }
    cluster
}

#[test]
fn nodes_that_come_and_go_are_told_once() {
    let mut cluster = cluster(&["node-a"]);
    cluster.settle();
    let told = |cluster: &Cluster, about: &str| {
        cluster.messages().into_iter().filter(|event| event.contains(about)).collect::<Vec<_>>()
    };
    let registered = "RegisteredNode: Node node-a event: Registered Node node-a in Controller";
    assert_eq!(told(&cluster, "node-a event"), [registered]);
    cluster.change("Node", "", "node-a", json!({"metadata": {"labels": {"a": "b"}}}));
    cluster.settle();
    assert_eq!(told(&cluster, "node-a event").len(), 1, "a change is no news");
    cluster.delete("Node", "", "node-a");
    cluster.settle();
    let removing = "RemovingNode: Node node-a event: Removing Node node-a from Controller";
    assert_eq!(told(&cluster, "node-a event"), [registered, removing]);
    cluster.apply(node("node-a"));
    cluster.settle();
    assert_eq!(told(&cluster, "node-a event"), [registered, removing, registered]);
}

#[test]
fn an_eviction_that_is_called_off_is_told() {
    let mut cluster = cluster(&["node-a", "node-b"]);
    let tolerations =
        json!([{"key": "maintenance", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]);
    cluster.apply(json!({"kind": "Pod", "metadata": {"name": "web", "namespace": "default"}, "spec": {
        "nodeName": "node-a", "containers": [{"name": "main", "image": "web"}], "tolerations": tolerations}}));
    cluster.change("Node", "", "node-a", json!({"spec": {"taints": [{"key": "maintenance", "effect": "NoExecute"}]}}));
    cluster.settle();
    let told = |cluster: &Cluster| cluster.messages().iter().filter(|event| event.starts_with("TaintManager")).count();
    assert_eq!(told(&cluster), 0);
    cluster.change("Node", "", "node-a", json!({"spec": {"taints": []}}));
    cluster.settle();
    let called_off = "TaintManagerEviction: Cancelling deletion of Pod default/web".to_owned();
    assert!(cluster.messages().contains(&called_off), "{:?}", cluster.messages());
    assert!(cluster.get("Pod", "default", "web").unwrap()["metadata"]["deletionTimestamp"].is_null());
}
