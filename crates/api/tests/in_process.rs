//! The in-process client: the same doors as over HTTPS, and what must never happen under concurrency.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use client::{DeleteOptions, EventKind, PatchKind, Query, Request, Verb, WriteOptions};
use futures_util::StreamExt;
use object::{Status, Value};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use support::{parse, start, start_in, target};

fn create(target: client::Target, text: &str) -> Request {
    Request { target, verb: Verb::Create(parse(text), WriteOptions::default()) }
}

fn value(object: &client::Object) -> Value {
    parse(std::str::from_utf8(&object.json).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_address_and_no_node_port_is_given_twice() {
    let cluster = start().await;
    let admin = cluster.admin();
    let mut tasks = Vec::new();
    for at in 0..60 {
        let admin = Arc::clone(&admin);
        tasks.push(tokio::spawn(async move {
            let text = format!("{{metadata: {{name: s{at}}}, spec: {{type: NodePort, ports: [{{port: 80}}]}}}}");
            value(&admin.call(create(target("", "v1", "services", "default", ""), &text)).await.unwrap())
        }));
    }
    let (mut addresses, mut ports) = (HashSet::new(), HashSet::new());
    for task in tasks {
        let service = task.await.unwrap();
        assert!(addresses.insert(service.str_at(&["spec", "clusterIP"]).unwrap().to_owned()));
        let port = service.at(&["spec", "ports"]).and_then(Value::as_array).unwrap()[0].i64_at(&["nodePort"]).unwrap();
        assert!((30_000..=32_767).contains(&port) && ports.insert(port), "{port}");
    }
    // The same address, asked for by many at once, goes to one of them.
    let mut tasks = Vec::new();
    for at in 0..8 {
        let admin = Arc::clone(&admin);
        tasks.push(tokio::spawn(async move {
            let text = format!("{{metadata: {{name: t{at}}}, spec: {{clusterIP: 10.96.77.7, ports: [{{port: 80}}]}}}}");
            admin.call(create(target("", "v1", "services", "default", ""), &text)).await
        }));
    }
    let mut won = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(object) => won.push(value(&object).str_at(&["metadata", "name"]).unwrap().to_owned()),
            Err(status) => assert!(status.message.contains("provided IP is already allocated"), "{status}"),
        }
    }
    assert_eq!(won.len(), 1);
    // Deleting the Service frees the address.
    let delete = Verb::Delete(DeleteOptions::default());
    admin.call(Request { target: target("", "v1", "services", "default", &won[0]), verb: delete }).await.unwrap();
    let text = "{metadata: {name: again}, spec: {clusterIP: 10.96.77.7, ports: [{port: 80}]}}";
    admin.call(create(target("", "v1", "services", "default", ""), text)).await.unwrap();
    cluster.server.stop().await;
}

const POD: &str = "{metadata: {name: p}, spec: {containers: [{name: c, image: i}]}}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_bound_once_and_deleted_gracefully() {
    let cluster = start().await;
    let admin = cluster.admin();
    admin
        .call(create(target("", "v1", "serviceaccounts", "default", ""), "{metadata: {name: default}}"))
        .await
        .unwrap();
    let pods = |name: &str| target("", "v1", "pods", "default", name);
    let pod = value(&admin.call(create(pods(""), POD)).await.unwrap());
    assert_eq!(pod.str_at(&["spec", "serviceAccountName"]), Some("default"));
    assert_eq!(pod.str_at(&["status", "phase"]), Some("Pending"));
    let from = admin.list(pods(""), Query::default()).await.unwrap();
    assert_eq!(from.objects.len(), 1);
    let mut watch = admin.watch(pods(""), Query::default(), from.revision).await.unwrap();
    let binding = "{metadata: {name: p}, target: {kind: Node, name: n1}}";
    let bind = || create(target("", "v1", "pods/binding", "default", "p"), binding);
    admin.call(bind()).await.unwrap();
    let again = admin.call(bind()).await.err().unwrap();
    assert_eq!(
        again.message,
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
    );
    let delete = |seconds| Request {
        target: pods("p"),
        verb: Verb::Delete(DeleteOptions { grace_period_seconds: seconds, ..DeleteOptions::default() }),
    };
    let marked = value(&admin.call(delete(None)).await.unwrap());
    assert_eq!(marked.i64_at(&["metadata", "deletionGracePeriodSeconds"]), Some(30));
    assert!(admin.call(Request { target: pods("p"), verb: Verb::Get }).await.is_ok());
    admin.call(delete(Some(0))).await.unwrap();
    let gone = admin.call(Request { target: pods("p"), verb: Verb::Get }).await.err().unwrap();
    assert!(gone.is_not_found());
    let mut kinds = Vec::new();
    while kinds.last() != Some(&EventKind::Deleted) {
        let event = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(
            value(&event.object).str_at(&["metadata", "resourceVersion"]),
            Some(event.object.revision.to_string().as_str())
        );
        kinds.push(event.kind);
    }
    assert_eq!(kinds, [EventKind::Modified, EventKind::Modified, EventKind::Deleted]);
    cluster.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disruption_budget_holds_evictions_back() {
    let cluster = start().await;
    let admin = cluster.admin();
    admin
        .call(create(target("", "v1", "serviceaccounts", "default", ""), "{metadata: {name: default}}"))
        .await
        .unwrap();
    for name in ["a", "b"] {
        let text = format!(
            "{{metadata: {{name: {name}, labels: {{app: x}}}}, spec: {{nodeName: n, containers: [{{name: c, image: i}}]}}}}"
        );
        admin.call(create(target("", "v1", "pods", "default", ""), &text)).await.unwrap();
        let status = parse("{status: {phase: Running, conditions: [{type: Ready, status: 'True'}]}}");
        let patch = Verb::Patch(PatchKind::Merge, status, WriteOptions::default());
        admin.call(Request { target: target("", "v1", "pods/status", "default", name), verb: patch }).await.unwrap();
    }
    let budget = "{metadata: {name: b}, spec: {minAvailable: 1, selector: {matchLabels: {app: x}}}}";
    admin.call(create(target("policy", "v1", "poddisruptionbudgets", "default", ""), budget)).await.unwrap();
    let status = parse(
        "{status: {observedGeneration: 1, disruptionsAllowed: 1, currentHealthy: 2, desiredHealthy: 1, expectedPods: 2}}",
    );
    let patch = Verb::Patch(PatchKind::Merge, status, WriteOptions::default());
    let budget_status = target("policy", "v1", "poddisruptionbudgets/status", "default", "b");
    admin.call(Request { target: budget_status, verb: patch }).await.unwrap();
    let evict = |name: &str| {
        create(target("", "v1", "pods/eviction", "default", name), &format!("{{metadata: {{name: {name}}}}}"))
    };
    admin.call(evict("a")).await.unwrap();
    let refused: Status = admin.call(evict("b")).await.err().unwrap();
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (429, "Cannot evict pod as it would violate the pod's disruption budget.")
    );
    assert_eq!(refused.causes[0].message, "The disruption budget b needs 1 healthy pods and has 2 currently");
    cluster.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_patches_all_arrive_and_no_change_writes_nothing() {
    let cluster = start().await;
    let admin = cluster.admin();
    let maps = |name: &str| target("", "v1", "configmaps", "default", name);
    admin.call(create(maps(""), "{metadata: {name: m}, data: {a: b}}")).await.unwrap();
    let mut tasks = Vec::new();
    for at in 0..8 {
        let admin = Arc::clone(&admin);
        let patch = Verb::Patch(PatchKind::Merge, parse(&format!("{{data: {{k{at}: v}}}}")), WriteOptions::default());
        let request = Request { target: maps("m"), verb: patch };
        tasks.push(tokio::spawn(async move { admin.call(request).await.unwrap() }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let object = admin.call(Request { target: maps("m"), verb: Verb::Get }).await.unwrap();
    assert_eq!(value(&object).get("data").and_then(Value::as_object).map(object::Map::len), Some(9));
    let same = Verb::Patch(PatchKind::Merge, parse("{data: {a: b}}"), WriteOptions::default());
    let again = admin.call(Request { target: maps("m"), verb: same }).await.unwrap();
    assert_eq!(again.revision, object.revision);
    cluster.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_start_gives_back_what_the_server_keeps_itself() {
    let cluster = start().await;
    let admin = cluster.admin();
    const RBAC: &str = "rbac.authorization.k8s.io";
    let view = || target(RBAC, "v1", "clusterroles", "", "system:aggregate-to-view");
    let discovery = || target(RBAC, "v1", "clusterrolebindings", "", "system:discovery");
    let catch_all = || target("flowcontrol.apiserver.k8s.io", "v1", "flowschemas", "", "catch-all");
    let apps = || target("apiregistration.k8s.io", "v1", "apiservices", "", "v1.apps");
    let patch = |target, text: &str| Request {
        target,
        verb: Verb::Patch(PatchKind::Merge, parse(text), WriteOptions::default()),
    };
    let get = |target| Request { target, verb: Verb::Get };
    let count = |object: &Value, member: &str| object.get(member).and_then(Value::as_array).map_or(0, <[Value]>::len);
    let before = value(&admin.call(get(view())).await.unwrap());
    let schema = value(&admin.call(get(catch_all())).await.unwrap());
    assert_eq!(schema.i64_at(&["spec", "matchingPrecedence"]), Some(10_000));
    assert_eq!(schema.at(&["status", "conditions"]).and_then(Value::as_array).map(<[Value]>::len), Some(1));
    let service = value(&admin.call(get(apps())).await.unwrap());
    let condition = service.at(&["status", "conditions"]).and_then(Value::as_array).unwrap()[0].clone();
    assert_eq!((condition.str_at(&["type"]), condition.str_at(&["status"])), (Some("Available"), Some("True")));

    let own = r#"{rules: [{verbs: [get], apiGroups: [example.com], resources: [things]}]}"#;
    admin.call(patch(view(), own)).await.unwrap();
    admin.call(patch(discovery(), "{subjects: []}")).await.unwrap();
    admin.call(patch(catch_all(), "{spec: {matchingPrecedence: 9999}}")).await.unwrap();
    admin.call(patch(apps(), "{spec: {versionPriority: 99}}")).await.unwrap();
    let kept = target(RBAC, "v1", "clusterroles", "", "system:aggregate-to-edit");
    let left_alone = r#"{metadata: {annotations: {rbac.authorization.kubernetes.io/autoupdate: "false"}}, rules: []}"#;
    admin.call(patch(kept.clone(), left_alone)).await.unwrap();
    drop(admin);
    let directory = cluster.directory;
    cluster.server.stop().await;

    let cluster = start_in(directory).await;
    let admin = cluster.admin();
    let after = value(&admin.call(get(view())).await.unwrap());
    assert!(
        count(&after, "rules") > count(&before, "rules"),
        "the default rules are back beside the one that was added"
    );
    let first = after.get("rules").and_then(Value::as_array).unwrap()[0].clone();
    assert!(String::from_utf8_lossy(&object::json::encode(&first)).contains("example.com"));
    let binding = value(&admin.call(get(discovery())).await.unwrap());
    assert_eq!(count(&binding, "subjects"), 1);
    let schema = value(&admin.call(get(catch_all())).await.unwrap());
    assert_eq!(schema.i64_at(&["spec", "matchingPrecedence"]), Some(10_000));
    let service = value(&admin.call(get(apps())).await.unwrap());
    assert_eq!(service.i64_at(&["spec", "versionPriority"]), Some(15));
    let untouched = value(&admin.call(get(kept)).await.unwrap());
    assert_eq!(count(&untouched, "rules"), 0);
    cluster.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_everything_and_writes_the_first_objects_once() {
    let cluster = start().await;
    let admin = cluster.admin();
    admin.call(create(target("", "v1", "configmaps", "default", ""), "{metadata: {name: m}}")).await.unwrap();
    let services = || target("", "v1", "services", "default", "kubernetes");
    let uid = |object: &client::Object| value(object).str_at(&["metadata", "uid"]).unwrap().to_owned();
    let before = uid(&admin.call(Request { target: services(), verb: Verb::Get }).await.unwrap());
    let support::Cluster { server, directory, .. } = cluster;
    server.stop().await;
    drop(admin);
    let cluster = start_in(directory).await;
    let admin = cluster.admin();
    let get = |target| Request { target, verb: Verb::Get };
    admin.call(get(target("", "v1", "configmaps", "default", "m"))).await.unwrap();
    assert_eq!(uid(&admin.call(get(services())).await.unwrap()), before);
    let bob = admin.acting_as("bob", &[]).unwrap();
    let refused = bob.call(get(services())).await.err().unwrap();
    assert_eq!(refused.code, 403);
    cluster.server.stop().await;
}
