//! The whole loop over a store in memory: from a Deployment to bound pods, through a rollout and back.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod store;

use std::sync::Arc;
use std::time::{Duration, Instant};

use klynge_control_loop::{ControlLoop, Handle, Options};
use serde_json::{Value, json};
use store::Store;

const DEADLINE: Duration = Duration::from_secs(20);

fn start(store: &Store) -> Handle {
    ControlLoop::run(Options {
        client: Arc::new(store.clone()),
        seed: 1,
        clock: Arc::new(jiff::Timestamp::now),
        root_ca: "PEM".into(),

        signer: None,
        pod_ranges: Vec::new(),
        other_resources: Vec::new(),
        leadership: None,
        heartbeats: None,
        fast_failover: false,
    })
}

/// Waits until the store is as wanted; meanwhile a node runs what is bound to it.
async fn until(store: &Store, what: &str, wanted: impl Fn(&Store) -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !wanted(store) {
        if Instant::now() > deadline {
            let events: Vec<String> =
                store.all("events").iter().map(|event| format!("{}: {}", event["reason"], event["message"])).collect();
            panic!("not reached in time: {what}; events: {events:#?}; pods: {:#?}", store.all("pods"));
        }
        run_pods(store);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn run_pods(store: &Store) {
    for mut pod in store.all("pods") {
        let (namespace, name) = (
            pod["metadata"]["namespace"].as_str().unwrap().to_owned(),
            pod["metadata"]["name"].as_str().unwrap().to_owned(),
        );
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            let held = pod["metadata"]["finalizers"].as_array().is_some_and(|held| !held.is_empty());
            if !held {
                store.remove("pods", &namespace, &name);
            }
        } else if !pod["spec"]["nodeName"].is_null()
            && (pod["status"]["phase"].is_null() || pod["status"]["phase"] == "Pending")
        {
            let number = store.revision();
            let ip = format!("10.1.{}.{}", number / 250, number % 250);
            let done = pod["spec"]["containers"][0]["image"] == "done";
            pod["status"] = json!({"phase": if done { "Succeeded" } else { "Running" }, "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [
                {"type": "Ready", "status": if done { "False" } else { "True" }, "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
            store.put("pods", pod);
        }
    }
}

fn add_nodes(store: &Store, count: usize) {
    for index in 0..count {
        let name = format!("node-{index}");
        store.put("nodes", json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}, "conditions": [{"type": "Ready", "status": "True"}]}}));
    }
}

fn deployment(replicas: i32, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "progressDeadlineSeconds": 600,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": image}]}}}})
}

fn ready_pods(store: &Store, image: &str) -> usize {
    let pods = store.all("pods");
    pods.iter()
        .filter(|pod| {
            pod["spec"]["containers"][0]["image"] == image
                && pod["status"]["phase"] == "Running"
                && pod["metadata"]["deletionTimestamp"].is_null()
        })
        .count()
}

fn change_image(store: &Store, image: &str) {
    let mut web = store.get("deployments", "default", "web").unwrap();
    web["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
    store.put("deployments", web);
}

#[tokio::test]
async fn a_deployment_runs_rolls_out_and_back() {
    let store = Store::new();
    add_nodes(&store, 3);
    let handle = start(&store);
    store.put("deployments", deployment(3, "v1"));
    until(&store, "three pods run and the status says so", |store| {
        ready_pods(store, "v1") == 3
            && store.get("deployments", "default", "web").unwrap()["status"]["availableReplicas"] == 3
    })
    .await;
    let mut nodes: Vec<String> =
        store.all("pods").iter().map(|pod| pod["spec"]["nodeName"].as_str().unwrap().to_owned()).collect();
    nodes.sort();
    assert_eq!(nodes, ["node-0", "node-1", "node-2"], "equal pods are spread");
    until(&store, "events tell it", |store| {
        let events = store.all("events");
        let has = |reason: &str| events.iter().filter(|event| event["reason"] == reason).count();
        has("ScalingReplicaSet") == 1 && has("SuccessfulCreate") == 3 && has("Scheduled") == 3
    })
    .await;
    change_image(&store, "v2");
    until(&store, "the new version runs", |store| ready_pods(store, "v2") == 3 && store.all("pods").len() == 3).await;
    // The history must survive a restart of the loop, and of its watches.
    handle.stop().await;
    store.compact();
    let handle = start(&store);
    change_image(&store, "v1");
    until(&store, "the old version runs again", |store| {
        ready_pods(store, "v1") == 3
            && store.all("pods").len() == 3
            && store.get("deployments", "default", "web").unwrap()["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"
    })
    .await;
    assert_eq!(store.all("replicasets").len(), 2);
    handle.stop().await;
}

#[tokio::test]
async fn an_expired_watch_lists_again_and_misses_nothing() {
    let store = Store::new();
    add_nodes(&store, 1);
    let handle = start(&store);
    store.put("deployments", deployment(2, "v1"));
    until(&store, "two pods run", |store| ready_pods(store, "v1") == 2).await;
    store.compact();
    let name = store.all("pods")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    store.remove("pods", "default", &name);
    until(&store, "the lost pod is replaced", |store| ready_pods(store, "v1") == 2).await;
    handle.stop().await;
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_says_why_and_is_bound_when_a_node_comes() {
    let store = Store::new();
    let handle = start(&store);
    store.put("pods", json!({"metadata": {"name": "lonely", "namespace": "default"}, "spec": {"containers": [{"name": "main", "image": "x"}]}}));
    until(&store, "the refusal is told", |store| {
        let pod = store.get("pods", "default", "lonely").unwrap();
        let condition = &pod["status"]["conditions"][0];
        condition["type"] == "PodScheduled"
            && condition["reason"] == "Unschedulable"
            && condition["message"] == "no nodes available to schedule pods"
    })
    .await;
    until(&store, "an event tells it", |store| {
        store.all("events").iter().any(|event| event["reason"] == "FailedScheduling")
    })
    .await;
    add_nodes(&store, 1);
    until(&store, "it is bound", |store| {
        store.get("pods", "default", "lonely").unwrap()["spec"]["nodeName"] == "node-0"
    })
    .await;
    handle.stop().await;
}

#[tokio::test]
async fn only_a_leader_plans() {
    let store = Store::new();
    add_nodes(&store, 1);
    let (lead, leadership) = tokio::sync::watch::channel(false);
    let handle = ControlLoop::run(Options {
        client: Arc::new(store.clone()),
        seed: 1,
        clock: Arc::new(jiff::Timestamp::now),
        root_ca: String::new(),

        signer: None,
        pod_ranges: Vec::new(),
        other_resources: Vec::new(),
        leadership: Some(leadership),
        heartbeats: None,
        fast_failover: false,
    });
    store.put("deployments", deployment(1, "v1"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(store.all("replicasets").is_empty());
    lead.send_replace(true);
    until(&store, "the new leader acts", |store| ready_pods(store, "v1") == 1).await;
    handle.stop().await;
}

#[tokio::test]
async fn the_loop_rests_when_there_is_nothing_to_do() {
    let store = Store::new();
    add_nodes(&store, 1);
    let handle = start(&store);
    store.put("deployments", deployment(1, "v1"));
    until(&store, "it runs", |store| {
        ready_pods(store, "v1") == 1
            && store.get("deployments", "default", "web").unwrap()["status"]["availableReplicas"] == 1
    })
    .await;
    // Whatever is still under way ends; then nothing may be written any more.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let revision = store.revision();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(store.revision(), revision);
    handle.stop().await;
}

#[tokio::test]
async fn a_job_completes_and_a_service_has_endpoints() {
    let store = Store::new();
    add_nodes(&store, 1);
    let handle = start(&store);
    store.put("jobs", json!({"metadata": {"name": "work", "namespace": "default"}, "spec": {"parallelism": 2, "completions": 3, "backoffLimit": 6,
        "template": {"metadata": {}, "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "done"}]}}}}));
    store.put("services", json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "TCP"}]}}));
    store.put("deployments", deployment(2, "v1"));
    until(&store, "the job is complete", |store| {
        let status = store.get("jobs", "default", "work").unwrap()["status"].clone();
        status["succeeded"] == 3
            && status["conditions"].as_array().into_iter().flatten().any(|condition| condition["type"] == "Complete")
    })
    .await;
    until(&store, "two endpoints are ready", |store| {
        let slices = store.all("endpointslices");
        let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default());
        endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true).count() == 2
            && store.get("endpoints", "default", "web").is_some_and(|endpoints| {
                endpoints["subsets"][0]["addresses"].as_array().is_some_and(|list| list.len() == 2)
            })
    })
    .await;
    handle.stop().await;
}

#[tokio::test]
async fn a_namespace_is_furnished_and_its_deletion_finishes() {
    let store = Store::new();
    add_nodes(&store, 2);
    let handle = start(&store);
    store.put(
        "namespaces",
        json!({"metadata": {"name": "default"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
    );
    until(&store, "account and certificate are there", |store| {
        store.get("serviceaccounts", "default", "default").is_some()
            && store.get("configmaps", "default", "kube-root-ca.crt").is_some()
    })
    .await;
    store.put("deployments", deployment(4, "v1"));
    until(&store, "the deployment runs", |store| ready_pods(store, "v1") == 4).await;
    let target = client::Target {
        resource: object::GroupVersionResource::new("", "v1", "namespaces"),
        namespace: "".into(),
        name: "default".into(),
        subresource: "".into(),
    };
    let request = client::Request { target, verb: client::Verb::Delete(client::DeleteOptions::default()) };
    client::ClusterClient::call(&store, request).await.unwrap();
    until(&store, "namespace and content are gone", |store| {
        let rest = ["deployments", "replicasets", "pods", "serviceaccounts", "configmaps"];
        store.get("namespaces", "", "default").is_none() && rest.iter().all(|plural| store.all(plural).is_empty())
    })
    .await;
    handle.stop().await;
}
