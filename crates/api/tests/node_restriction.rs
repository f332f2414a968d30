//! What a node may write: its own Node, Lease and pods.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use client::{ClusterClient, DeleteOptions, PatchKind, Request, Verb, WriteOptions};
use std::sync::Arc;
use support::{parse, start, target};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_writes_what_is_its_own() {
    let cluster = start().await;
    let (admin, node) = (cluster.admin(), cluster.server.client("system:node:a", &["system:nodes"]));
    let create = |text: &str| Verb::Create(parse(text), WriteOptions::default());
    let patch = |text: &str| Verb::Patch(PatchKind::Merge, parse(text), WriteOptions::default());
    let delete = || Verb::Delete(DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() });
    let call = async |client: &Arc<dyn ClusterClient>, place, verb| {
        client.call(Request { target: place, verb }).await.map(drop).map_err(|status| status.message)
    };
    let pods = |name: &str| target("", "v1", "pods", "default", name);
    let nodes = |name: &str| target("", "v1", "nodes", "", name);
    call(&admin, target("", "v1", "serviceaccounts", "default", ""), create("{metadata: {name: default}}"))
        .await
        .unwrap();
    call(&admin, nodes(""), create("{metadata: {name: b}}")).await.unwrap();
    for (name, on) in [("mine", "a"), ("other", "b")] {
        let text =
            format!("{{metadata: {{name: {name}}}, spec: {{nodeName: {on}, containers: [{{name: c, image: i}}]}}}}");
        call(&admin, pods(""), create(&text)).await.unwrap();
    }
    let status = |name: &str| target("", "v1", "pods/status", "default", name);
    let lease = |namespace: &str, name: &str| target("coordination.k8s.io", "v1", "leases", namespace, name);
    let message = "{status: {message: x}}";
    let cases = [
        (nodes(""), create("{metadata: {name: a, labels: {team: x, kubernetes.io/os: linux}}}"), Ok(())),
        (nodes(""), create("{metadata: {name: c}}"), Err("node \"a\" is not allowed to modify node \"c\"")),
        (nodes("b"), patch("{metadata: {labels: {x: why}}}"), Err("node \"a\" is not allowed to modify node \"b\"")),
        (nodes("a"), patch("{metadata: {labels: {x: why}}}"), Ok(())),
        (
            nodes("a"),
            patch("{metadata: {labels: {node-role.kubernetes.io/control-plane: ''}}}"),
            Err("is not allowed to modify labels: node-role.kubernetes.io/control-plane"),
        ),
        (nodes("a"), patch("{spec: {taints: []}}"), Err("node \"a\" is not allowed to modify taints")),
        (target("", "v1", "nodes/status", "", "a"), patch("{status: {nodeInfo: {osImage: x}}}"), Ok(())),
        (
            target("", "v1", "nodes/status", "", "b"),
            patch("{status: {nodeInfo: {osImage: x}}}"),
            Err("modify node \"b\""),
        ),
        (status("mine"), patch(message), Ok(())),
        (status("other"), patch(message), Err("can only update pod status for pods with spec.nodeName set to itself")),
        (
            pods(""),
            create("{metadata: {name: new}, spec: {nodeName: a, containers: [{name: c, image: i}]}}"),
            Err("node \"a\" can only create mirror pods"),
        ),
        (pods("other"), delete(), Err("node \"a\" can only delete pods with spec.nodeName set to itself")),
        (pods("mine"), delete(), Ok(())),
        (lease("kube-node-lease", ""), create("{metadata: {name: a}}"), Ok(())),
        (
            lease("kube-node-lease", ""),
            create("{metadata: {name: b}}"),
            Err("with the same name as the requesting node"),
        ),
        (
            lease("default", ""),
            create("{metadata: {name: a}}"),
            Err("can only access leases in the \"kube-node-lease\""),
        ),
    ];
    for (index, (place, verb, wanted)) in cases.into_iter().enumerate() {
        let said = call(&node, place, verb).await;
        let as_wanted = match (&said, &wanted) {
            (Ok(()), Ok(())) => true,
            (Err(said), Err(wanted)) => said.contains(wanted),
            _ => false,
        };
        assert!(as_wanted, "case {index}: {said:?}, wanted {wanted:?}");
    }
    cluster.server.stop().await;
}
