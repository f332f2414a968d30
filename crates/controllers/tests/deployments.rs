//! Deployments and ReplicaSets from creation to rollback, in a simulated cluster.
#![expect(clippy::unwrap_used, reason = "tests")]

mod simulation;

use klynge_controllers::deployment::DeploymentController;
use klynge_controllers::replica_set::ReplicaSetController;
use klynge_controllers::replication_controller::ReplicationControllerController;
use serde_json::{Value, json};
use simulation::{Cluster, condition, ready};

fn cluster() -> Cluster {
    Cluster::new()
        .with::<DeploymentController>()
        .with::<ReplicaSetController>()
        .with::<ReplicationControllerController>()
}

fn deployment(replicas: i32, image: &str) -> Value {
    json!({"kind": "Deployment", "metadata": {"name": "web", "namespace": "default"}, "spec": {
        "replicas": replicas, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10,
        "selector": {"matchLabels": {"app": "web"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": image}]}}}})
}

/// (size, image) of every ReplicaSet that has pods.
fn active_sets(cluster: &Cluster) -> Vec<(i64, String)> {
    let sets = cluster.all("ReplicaSet").into_iter().filter(|set| set["spec"]["replicas"] != 0);
    let mut active: Vec<(i64, String)> = sets
        .map(|set| {
            (
                set["spec"]["replicas"].as_i64().unwrap(),
                set["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    active.sort();
    active
}

fn set_of<'a>(cluster: &'a Cluster, image: &str) -> &'a Value {
    cluster
        .all("ReplicaSet")
        .into_iter()
        .find(|set| set["spec"]["template"]["spec"]["containers"][0]["image"] == image)
        .unwrap()
}

fn reason<'a>(object: &'a Value, condition_type: &str) -> &'a str {
    condition(object, condition_type).and_then(|condition| condition["reason"].as_str()).unwrap_or("none")
}

#[test]
fn three_replicas_come_up_and_the_status_says_so() {
    let mut cluster = cluster();
    cluster.apply(deployment(3, "v1"));
    cluster.settle();
    let web = cluster.get("Deployment", "default", "web").unwrap();
    let status = &web["status"];
    for (count, expected) in [
        ("replicas", 3),
        ("updatedReplicas", 3),
        ("readyReplicas", 3),
        ("availableReplicas", 3),
        ("observedGeneration", 1),
    ] {
        assert_eq!(status[count], expected, "{count}: {status}");
    }
    assert_eq!(status.get("unavailableReplicas"), None);
    assert_eq!(reason(web, "Available"), "MinimumReplicasAvailable");
    assert_eq!(reason(web, "Progressing"), "NewReplicaSetAvailable");
    assert_eq!(web["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
    let set = set_of(&cluster, "v1");
    let name = set["metadata"]["name"].as_str().unwrap();
    let hash = set["metadata"]["labels"]["pod-template-hash"].as_str().unwrap();
    assert_eq!(name, format!("web-{hash}"));
    assert_eq!(set["spec"]["selector"]["matchLabels"]["pod-template-hash"], hash);
    let messages = cluster.messages();
    assert!(messages.contains(&format!("ScalingReplicaSet: Scaled up replica set {name} from 0 to 3")), "{messages:?}");
    assert_eq!(
        messages
            .iter()
            .filter(|message| message.starts_with(&format!("SuccessfulCreate: Created pod: {name}-")))
            .count(),
        3
    );
    for pod in cluster.all("Pod") {
        assert_eq!(pod["metadata"]["labels"]["pod-template-hash"], hash);
        assert_eq!(pod["metadata"]["ownerReferences"][0]["name"], name);
    }
}

#[test]
fn a_rollout_keeps_its_bounds_and_undo_reuses_the_old_set() {
    let mut cluster = cluster();
    cluster.apply(deployment(8, "v1"));
    cluster.settle();
    (cluster.pods_seen_max, cluster.ready_seen_min) = (0, usize::MAX);
    cluster.apply(deployment(8, "v2"));
    cluster.settle();
    assert_eq!(active_sets(&cluster), [(8, "v2".to_owned())]);
    assert!(cluster.pods_seen_max <= 10, "surge of 25% of 8 is 2, seen {}", cluster.pods_seen_max);
    assert!(cluster.ready_seen_min >= 6, "2 may be unavailable, ready {}", cluster.ready_seen_min);
    let old_name = set_of(&cluster, "v1")["metadata"]["name"].clone();
    // kubectl rollout undo puts the old template back.
    cluster.apply(deployment(8, "v1"));
    cluster.settle();
    assert_eq!(active_sets(&cluster), [(8, "v1".to_owned())]);
    let set = set_of(&cluster, "v1");
    assert_eq!(set["metadata"]["name"], old_name);
    assert_eq!(set["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
    assert_eq!(set["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"], "1");
    let web = cluster.get("Deployment", "default", "web").unwrap();
    assert_eq!(web["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
    assert_eq!(cluster.all("ReplicaSet").len(), 2);
}

#[test]
fn a_broken_image_stalls_the_rollout_and_then_misses_its_deadline() {
    let mut cluster = cluster();
    cluster.never_ready.insert("broken".into());
    cluster.apply(deployment(4, "v1"));
    cluster.settle();
    cluster.apply(deployment(4, "broken"));
    cluster.settle();
    assert_eq!(active_sets(&cluster), [(2, "broken".to_owned()), (3, "v1".to_owned())]);
    let web = cluster.get("Deployment", "default", "web").unwrap();
    assert_eq!(reason(web, "Progressing"), "ReplicaSetUpdated");
    assert_eq!(web["status"]["unavailableReplicas"], 2);
    cluster.pass(601);
    let web = cluster.get("Deployment", "default", "web").unwrap();
    assert_eq!(reason(web, "Progressing"), "ProgressDeadlineExceeded");
    assert_eq!(condition(web, "Progressing").unwrap()["status"], "False");
    cluster.apply(deployment(4, "v3"));
    cluster.settle();
    assert_eq!(active_sets(&cluster), [(4, "v3".to_owned())]);
    assert_eq!(reason(cluster.get("Deployment", "default", "web").unwrap(), "Progressing"), "NewReplicaSetAvailable");
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_proportional() {
    let mut cluster = cluster();
    cluster.never_ready.insert("broken".into());
    cluster.apply(deployment(8, "v1"));
    cluster.settle();
    cluster.apply(deployment(8, "broken"));
    cluster.settle();
    assert_eq!(active_sets(&cluster), [(4, "broken".to_owned()), (6, "v1".to_owned())]);
    cluster.apply(deployment(16, "broken"));
    cluster.step();
    // 20 pods are allowed: both sets double.
    assert_eq!(active_sets(&cluster), [(8, "broken".to_owned()), (12, "v1".to_owned())]);
}

#[test]
fn recreate_lets_the_old_pods_end_first() {
    let mut cluster = cluster();
    let with_recreate = |image: &str| {
        let mut object = deployment(3, image);
        object["spec"]["strategy"] = json!({"type": "Recreate"});
        object
    };
    cluster.apply(with_recreate("v1"));
    cluster.settle();
    cluster.pods_seen_max = 0;
    cluster.apply(with_recreate("v2"));
    cluster.settle();
    assert_eq!(active_sets(&cluster), [(3, "v2".to_owned())]);
    assert_eq!(cluster.pods_seen_max, 3);
}

#[test]
fn pause_holds_a_rollout_and_history_is_trimmed() {
    let mut cluster = cluster();
    let mut paused = deployment(2, "v1");
    cluster.apply(paused.clone());
    cluster.settle();
    paused["spec"]["paused"] = json!(true);
    paused["spec"]["template"]["spec"]["containers"][0]["image"] = json!("v2");
    cluster.apply(paused);
    cluster.settle();
    assert_eq!(active_sets(&cluster), [(2, "v1".to_owned())]);
    assert_eq!(reason(cluster.get("Deployment", "default", "web").unwrap(), "Progressing"), "DeploymentPaused");
    for image in ["v2", "v3", "v4", "v5"] {
        let mut next = deployment(2, image);
        next["spec"]["revisionHistoryLimit"] = json!(1);
        next["spec"]["paused"] = json!(false);
        cluster.apply(next);
        cluster.settle();
    }
    let mut images: Vec<&str> = cluster
        .all("ReplicaSet")
        .into_iter()
        .map(|set| set["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap())
        .collect();
    images.sort_unstable();
    assert_eq!(images, ["v4", "v5"]);
}

#[test]
fn a_lost_pod_is_replaced_and_a_relabelled_one_released() {
    let mut cluster = cluster();
    cluster.apply(deployment(3, "v1"));
    cluster.settle();
    let name = cluster.all("Pod")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.delete("Pod", "default", &name);
    cluster.settle();
    assert_eq!(cluster.all("Pod").len(), 3);
    let name = cluster.all("Pod")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.change("Pod", "default", &name, json!({"metadata": {"labels": {"app": "debug"}}}));
    cluster.settle();
    assert_eq!(cluster.all("Pod").len(), 4);
    let released = cluster.get("Pod", "default", &name).unwrap();
    assert!(released["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty));
    // Given its label back it is adopted, and one too many is deleted.
    cluster.change("Pod", "default", &name, json!({"metadata": {"labels": {"app": "web"}}}));
    cluster.settle();
    assert_eq!(cluster.all("Pod").len(), 3);
}

#[test]
fn creates_that_are_refused_stand_in_the_conditions() {
    let mut cluster = cluster();
    cluster.refuse_create.insert("Pod".into());
    cluster.apply(deployment(2, "v1"));
    for _ in 0..6 {
        cluster.step();
    }
    let web = cluster.get("Deployment", "default", "web").unwrap();
    assert_eq!(reason(web, "ReplicaFailure"), "FailedCreate");
    assert_eq!(reason(web, "Available"), "MinimumReplicasUnavailable");
    assert!(cluster.messages().contains(&"FailedCreate: Error creating: Forbidden".to_owned()));
    cluster.refuse_create.clear();
    cluster.settle();
    let web = cluster.get("Deployment", "default", "web").unwrap();
    assert_eq!((reason(web, "ReplicaFailure"), web["status"]["readyReplicas"].as_i64()), ("none", Some(2)));
}

#[test]
fn scaling_down_takes_the_pods_that_matter_least() {
    let mut cluster = cluster();
    cluster.never_ready.insert("slow".into());
    cluster.apply(json!({"kind": "ReplicationController", "metadata": {"name": "rc", "namespace": "default"}, "spec": {
        "replicas": 3, "selector": {"app": "rc"},
        "template": {"metadata": {"labels": {"app": "rc"}}, "spec": {"containers": [{"name": "main", "image": "ok"}]}}}}));
    cluster.settle();
    cluster.change(
        "ReplicationController",
        "default",
        "rc",
        json!({"spec": {"replicas": 5, "template": {"spec": {"containers": [{"name": "main", "image": "slow"}]}}}}),
    );
    cluster.settle();
    assert_eq!(cluster.all("Pod").len(), 5);
    cluster.change("ReplicationController", "default", "rc", json!({"spec": {"replicas": 3}}));
    cluster.settle();
    assert!(cluster.all("Pod").iter().all(|pod| ready(pod)));
    assert_eq!(cluster.get("ReplicationController", "default", "rc").unwrap()["status"]["readyReplicas"], 3);
}

#[test]
fn min_ready_seconds_delays_availability() {
    let mut cluster = cluster();
    let mut slow = deployment(2, "v1");
    slow["spec"]["minReadySeconds"] = json!(30);
    cluster.apply(slow);
    cluster.settle();
    let available = |cluster: &Cluster| {
        cluster.get("Deployment", "default", "web").unwrap()["status"]["availableReplicas"].as_i64().unwrap_or(0)
    };
    assert_eq!(available(&cluster), 0);
    cluster.pass(31);
    assert_eq!(available(&cluster), 2);
}
