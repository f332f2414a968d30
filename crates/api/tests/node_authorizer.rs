//! What a node may read, and which tokens it may ask for: what its own pods lead to, and nothing else.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use client::{ClusterClient, DeleteOptions, PatchKind, Query, Request, Verb, WriteOptions};
use object::Value;
use std::sync::Arc;
use support::{parse, start, target};

type Client = Arc<dyn ClusterClient>;

async fn create(client: &Client, place: client::Target, text: &str) -> Result<Value, String> {
    let verb = Verb::Create(parse(text), WriteOptions::default());
    let made = client.call(Request { target: place, verb }).await.map_err(|status| status.message)?;
    Ok(object::json::decode(&made.json, &object::Limits::REQUEST).unwrap().value)
}

async fn get(client: &Client, place: client::Target) -> Result<(), String> {
    client.call(Request { target: place, verb: Verb::Get }).await.map(drop).map_err(|status| status.message)
}

async fn list(client: &Client, place: client::Target, fields: &str) -> Result<(), String> {
    let query = Query { fields: fields.to_owned(), ..Query::default() };
    client.list(place, query).await.map(drop).map_err(|status| status.message)
}

fn core(resource: &str, name: &str) -> client::Target {
    target("", "v1", resource, "default", name)
}

fn pod(name: &str, node: &str, rest: &str) -> String {
    format!("{{metadata: {{name: {name}}}, spec: {{nodeName: {node}, containers: [{{name: c, image: i}}], {rest}}}}}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_reads_what_its_pods_lead_to() {
    let cluster = start().await;
    let (admin, node) = (cluster.admin(), cluster.server.client("system:node:a", &["system:nodes"]));
    let stranger = cluster.server.client("system:node:", &["system:nodes"]);
    create(&admin, core("serviceaccounts", ""), "{metadata: {name: default}}").await.unwrap();
    create(&admin, core("serviceaccounts", ""), "{metadata: {name: other}}").await.unwrap();
    for name in ["mine", "theirs", "late", "volume"] {
        create(&admin, core("secrets", ""), &format!("{{metadata: {{name: {name}}}}}")).await.unwrap();
        create(&admin, core("configmaps", ""), &format!("{{metadata: {{name: {name}}}}}")).await.unwrap();
    }
    create(
        &admin,
        target("", "v1", "persistentvolumes", "", ""),
        "{metadata: {name: pv}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], claimRef: {namespace: default, name: claim}, \
         csi: {driver: d, volumeHandle: h, nodePublishSecretRef: {namespace: default, name: volume}}}}",
    )
    .await
    .unwrap();
    create(
        &admin,
        core("persistentvolumeclaims", ""),
        "{metadata: {name: claim}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}, volumeName: pv}}",
    )
    .await
    .unwrap();
    let volumes = "volumes: [{name: s, secret: {secretName: mine}}, {name: c, configMap: {name: mine}}]";
    create(&admin, core("pods", ""), &pod("mine", "a", volumes)).await.unwrap();
    create(&admin, core("pods", ""), &pod("theirs", "b", &volumes.replace("mine", "theirs"))).await.unwrap();

    let unrelated = "no relationship found between node 'a' and this object";
    for kind in ["secrets", "configmaps", "pods"] {
        get(&node, core(kind, "mine")).await.unwrap();
        assert!(get(&node, core(kind, "theirs")).await.unwrap_err().ends_with(unrelated), "{kind}");
        assert!(get(&stranger, core(kind, "mine")).await.is_err(), "{kind}: a user without a node's name");
    }
    let refused = get(&node, core("secrets", "theirs")).await.unwrap_err();
    assert_eq!(
        refused,
        "secrets \"theirs\" is forbidden: User \"system:node:a\" cannot get resource \"secrets\" in API group \"\" in the \
         namespace \"default\": no relationship found between node 'a' and this object"
    );

    // Lists and watches of one object are as good as reading it; all others are refused.
    list(&node, core("secrets", ""), "metadata.name=mine").await.unwrap();
    assert!(list(&node, core("secrets", ""), "metadata.name=theirs").await.unwrap_err().ends_with(unrelated));
    assert!(list(&node, core("secrets", ""), "").await.unwrap_err().ends_with("No Object name found"));
    let everywhere = target("", "v1", "secrets", "", "");
    assert!(list(&node, everywhere, "").await.unwrap_err().ends_with("can only read namespaced object of this type"));
    let pods = || target("", "v1", "pods", "", "");
    list(&node, pods(), "spec.nodeName=a").await.unwrap();
    // Lists of all pods are a role's, for whoever enforces network policies; reading a single foreign pod is nobody's.
    list(&node, pods(), "").await.unwrap();
    assert!(get(&node, core("pods", "theirs")).await.is_err());

    // Through a claim to a volume, and from it to the volume's own Secret.
    let volume = || target("", "v1", "persistentvolumes", "", "pv");
    assert!(get(&node, volume()).await.is_err());
    assert!(get(&node, core("secrets", "volume")).await.is_err());
    let claims = "volumes: [{name: v, persistentVolumeClaim: {claimName: claim}}]";
    create(&admin, core("pods", ""), &pod("claimer", "a", claims)).await.unwrap();
    get(&node, core("persistentvolumeclaims", "claim")).await.unwrap();
    get(&node, volume()).await.unwrap();
    get(&node, core("secrets", "volume")).await.unwrap();

    // A relation begins and ends with its pod.
    assert!(get(&node, core("secrets", "late")).await.is_err());
    create(&admin, core("pods", ""), &pod("late", "a", &volumes.replace("mine", "late"))).await.unwrap();
    get(&node, core("secrets", "late")).await.unwrap();
    let verb = Verb::Delete(DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() });
    admin.call(Request { target: core("pods", "late"), verb }).await.unwrap();
    assert!(get(&node, core("secrets", "late")).await.unwrap_err().ends_with(unrelated));
    get(&node, core("secrets", "mine")).await.unwrap();

    // Writing is not reading.
    let verb = Verb::Patch(PatchKind::Merge, parse("{data: {a: eA==}}"), WriteOptions::default());
    let refused = node.call(Request { target: core("secrets", "mine"), verb }).await.map(drop).unwrap_err().message;
    assert!(refused.ends_with("can only read resources of this type"), "{refused}");
    cluster.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_asks_for_tokens_of_its_pods_alone() {
    let cluster = start().await;
    let (admin, node) = (cluster.admin(), cluster.server.client("system:node:a", &["system:nodes"]));
    for name in ["default", "other"] {
        create(&admin, core("serviceaccounts", ""), &format!("{{metadata: {{name: {name}}}}}")).await.unwrap();
    }
    let audience = "volumes: [{name: t, projected: {sources: [{serviceAccountToken: {audience: vault, path: t}}]}}]";
    let mine = create(&admin, core("pods", ""), &pod("mine", "a", audience)).await.unwrap();
    let theirs = create(&admin, core("pods", ""), &pod("theirs", "b", "")).await.unwrap();
    let uid = |pod: &Value| pod.str_at(&["metadata", "uid"]).unwrap().to_owned();
    let bound = |name: &str, uid: &str, audiences: &str| {
        format!(
            "{{spec: {{audiences: [{audiences}], boundObjectRef: {{apiVersion: v1, kind: Pod, name: {name}, uid: '{uid}'}}}}}}"
        )
    };
    let (my_uid, their_uid) = (uid(&mine), uid(&theirs));
    let cases = [
        ("default", bound("mine", &my_uid, ""), Ok(())),
        ("default", bound("mine", &my_uid, "vault"), Ok(())),
        ("default", bound("mine", &my_uid, "elsewhere"), Err("audience \"elsewhere\" not found in pod spec volume")),
        ("default", bound("mine", &my_uid, "vault, vault"), Err("node may only request 0 or 1 audiences")),
        ("default", "{spec: {}}".to_owned(), Err("node requested token not bound to a pod")),
        ("default", bound("mine", "", ""), Err("node requested token with a pod binding without a uid")),
        ("default", bound("mine", &their_uid, ""), Err("does not match the UID in record")),
        ("default", bound("theirs", &their_uid, ""), Err("bound to a pod scheduled on a different node")),
        ("default", bound("nobody", &my_uid, ""), Err("pods \"nobody\" not found")),
        ("other", bound("mine", &my_uid, ""), Err("no relationship found between node 'a' and this object")),
    ];
    for (account, text, wanted) in cases {
        let said = create(&node, core("serviceaccounts/token", account), &text).await.map(drop);
        let as_wanted = match (&said, &wanted) {
            (Ok(()), Ok(())) => true,
            (Err(said), Err(wanted)) => said.contains(wanted),
            _ => false,
        };
        assert!(as_wanted, "{account} {text}: {said:?}, wanted {wanted:?}");
    }
    // Whoever is no node is not held to this.
    create(&admin, core("serviceaccounts/token", "other"), "{spec: {audiences: [x]}}").await.unwrap();
    cluster.server.stop().await;
}
