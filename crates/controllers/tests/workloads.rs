//! Jobs, DaemonSets and StatefulSets in a simulated cluster.
#![expect(clippy::unwrap_used, reason = "tests")]

mod simulation;

use klynge_controllers::cron_job::CronJobController;
use klynge_controllers::daemon_set::DaemonSetController;
use klynge_controllers::garbage::GarbageCollector;
use klynge_controllers::job::{JobController, TtlAfterFinishedController};
use klynge_controllers::stateful_set::StatefulSetController;
use serde_json::{Value, json};
use simulation::{Cluster, condition, merge};

fn jobs() -> Cluster {
    Cluster::new().with::<JobController>().with::<TtlAfterFinishedController>()
}

fn job(image: &str, changes: Value) -> Value {
    let mut job = json!({"kind": "Job", "metadata": {"name": "work", "namespace": "default"}, "spec": {
        "parallelism": 1, "completions": 1, "backoffLimit": 6,
        "template": {"metadata": {}, "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": image}]}}}});
    merge(&mut job, &changes);
    job
}

fn status(cluster: &Cluster) -> &Value {
    &cluster.get("Job", "default", "work").unwrap()["status"]
}

fn has(cluster: &Cluster, condition_type: &str) -> Option<String> {
    let job = cluster.get("Job", "default", "work")?;
    let found = condition(job, condition_type).filter(|condition| condition["status"] == "True")?;
    Some(found["reason"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn jobs_end_as_documented() {
    let check = |case: &str, image: &str, changes: Value, ended: &str, reason: &str, succeeded: i64, failed: i64| {
        let mut cluster = jobs();
        cluster.succeeding.insert("good".into());
        cluster.failing.insert("bad".into());
        cluster.apply(job(image, changes));
        cluster.settle();
        cluster.pass(3600);
        assert_eq!(has(&cluster, ended).as_deref(), Some(reason), "{case}: {:#}", status(&cluster));
        let count = |field: &str| status(&cluster)[field].as_i64().unwrap_or(0);
        assert_eq!(
            (count("succeeded"), count("failed"), count("active")),
            (succeeded, failed, 0),
            "{case}: {:#}",
            status(&cluster)
        );
        let held = cluster
            .all("Pod")
            .into_iter()
            .filter(|pod| pod["metadata"]["finalizers"].as_array().is_some_and(|held| !held.is_empty()))
            .count();
        assert_eq!(held, 0, "{case}: every pod is released");
        assert_eq!(
            cluster.get("Job", "default", "work").unwrap()["status"]["uncountedTerminatedPods"],
            json!({}),
            "{case}"
        );
    };
    check("one pod", "good", json!({}), "Complete", "CompletionsReached", 1, 0);
    check(
        "many",
        "good",
        json!({"spec": {"completions": 7, "parallelism": 3}}),
        "Complete",
        "CompletionsReached",
        7,
        0,
    );
    check(
        "work queue",
        "good",
        json!({"spec": {"completions": null, "parallelism": 3}}),
        "Complete",
        "CompletionsReached",
        3,
        0,
    );
    check(
        "indexed",
        "good",
        json!({"spec": {"completions": 5, "parallelism": 2, "completionMode": "Indexed"}}),
        "Complete",
        "CompletionsReached",
        5,
        0,
    );
    check("back-off", "bad", json!({"spec": {"backoffLimit": 2}}), "Failed", "BackoffLimitExceeded", 0, 3);
    check("deadline", "stays", json!({"spec": {"activeDeadlineSeconds": 60}}), "Failed", "DeadlineExceeded", 0, 1);
    check("nothing to do", "good", json!({"spec": {"completions": 0}}), "Complete", "CompletionsReached", 0, 0);
}

#[test]
fn indexes_are_given_once_each_and_told_to_the_pods() {
    let mut cluster = jobs();
    cluster.succeeding.insert("good".into());
    cluster.apply(job("good", json!({"spec": {"completions": 4, "parallelism": 2, "completionMode": "Indexed"}})));
    cluster.settle();
    assert_eq!(status(&cluster)["completedIndexes"], "0-3");
    let mut seen: Vec<(String, String)> = Vec::new();
    for pod in cluster.all("Pod") {
        let index = pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"].as_str().unwrap().to_owned();
        assert_eq!(pod["spec"]["containers"][0]["env"][0], json!({"name": "JOB_COMPLETION_INDEX", "value": index}));
        seen.push((index, pod["spec"]["hostname"].as_str().unwrap().to_owned()));
    }
    seen.sort();
    let expected: Vec<(String, String)> = (0..4).map(|index| (index.to_string(), format!("work-{index}"))).collect();
    assert_eq!(seen, expected);
}

#[test]
fn failures_back_off_and_a_suspended_job_runs_nothing() {
    let mut cluster = jobs();
    cluster.failing.insert("bad".into());
    cluster.apply(job("bad", json!({})));
    cluster.settle();
    assert_eq!(cluster.all("Pod").len(), 1, "the next try waits ten seconds");
    cluster.pass(11);
    assert_eq!(cluster.all("Pod").len(), 2);
    cluster.pass(11);
    assert_eq!(cluster.all("Pod").len(), 2, "and then twenty");
    cluster.pass(10);
    assert_eq!(cluster.all("Pod").len(), 3);

    let mut cluster = jobs();
    cluster.apply(job("stays", json!({"spec": {"suspend": true}})));
    cluster.settle();
    assert_eq!((cluster.all("Pod").len(), has(&cluster, "Suspended").as_deref()), (0, Some("JobSuspended")));
    cluster.change("Job", "default", "work", json!({"spec": {"suspend": false}}));
    cluster.settle();
    assert_eq!((cluster.all("Pod").len(), status(&cluster)["active"].as_i64()), (1, Some(1)));
    assert_eq!(has(&cluster, "Suspended"), None);
    cluster.change("Job", "default", "work", json!({"spec": {"suspend": true}}));
    cluster.settle();
    assert_eq!(cluster.all("Pod").len(), 0);
}

#[test]
fn failure_rules_end_a_job_or_forgive_a_failure() {
    let rule = |action: &str| json!({"spec": {"podFailurePolicy": {"rules": [{"action": action, "onPodConditions": [{"type": "Ready", "status": "False"}]}]}, "backoffLimit": 0}});
    let mut cluster = jobs();
    cluster.failing.insert("bad".into());
    cluster.apply(job("bad", rule("FailJob")));
    cluster.settle();
    assert_eq!(has(&cluster, "Failed").as_deref(), Some("PodFailurePolicy"));
    let mut cluster = jobs();
    cluster.failing.insert("bad".into());
    cluster.apply(job("bad", rule("Ignore")));
    for _ in 0..5 {
        cluster.step();
    }
    assert_eq!((has(&cluster, "Failed"), status(&cluster)["failed"].as_i64()), (None, None));
}

#[test]
fn a_finished_job_is_deleted_after_its_time_and_its_pods_with_it() {
    let mut cluster = jobs().with::<GarbageCollector>();
    let resources = klynge_controllers::View::resources();
    cluster.view.settings.mirrored =
        resources.into_iter().map(|resource| ((resource.group.clone(), resource.kind.clone()), resource)).collect();
    cluster.succeeding.insert("good".into());
    cluster.apply(job("good", json!({"spec": {"ttlSecondsAfterFinished": 100}})));
    cluster.settle();
    assert_eq!(has(&cluster, "Complete").as_deref(), Some("CompletionsReached"));
    cluster.pass(99);
    assert_eq!(cluster.all("Job").len(), 1);
    cluster.pass(2);
    assert_eq!((cluster.all("Job").len(), cluster.all("Pod").len()), (0, 0));
}

fn node(name: &str, changes: Value) -> Value {
    let mut node =
        json!({"kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {}});
    merge(&mut node, &changes);
    node
}

fn daemon(image: &str) -> Value {
    json!({"kind": "DaemonSet", "metadata": {"name": "agent", "namespace": "kube-system"}, "spec": {
        "selector": {"matchLabels": {"app": "agent"}}, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
        "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "main", "image": image}]}}}})
}

fn daemon_nodes(cluster: &Cluster, image: &str) -> Vec<String> {
    let pods = cluster.all("Pod").into_iter().filter(|pod| pod["spec"]["containers"][0]["image"] == image);
    let mut nodes: Vec<String> = pods.map(|pod| pod["spec"]["nodeName"].as_str().unwrap().to_owned()).collect();
    nodes.sort();
    nodes
}

#[test]
fn a_daemon_runs_on_every_node_that_is_meant() {
    let mut cluster = Cluster::new().with::<DaemonSetController>();
    cluster.apply(node("a", json!({})));
    cluster.apply(node("cordoned", json!({"spec": {"unschedulable": true, "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}})));
    cluster.apply(node("tainted", json!({"spec": {"taints": [{"key": "dedicated", "effect": "NoSchedule"}]}})));
    cluster.apply(daemon("v1"));
    cluster.settle();
    assert_eq!(daemon_nodes(&cluster, "v1"), ["a", "cordoned"]);
    cluster.apply(node("b", json!({})));
    cluster.settle();
    assert_eq!(daemon_nodes(&cluster, "v1"), ["a", "b", "cordoned"]);
    let status = cluster.get("DaemonSet", "kube-system", "agent").unwrap()["status"].clone();
    for (field, expected) in [
        ("desiredNumberScheduled", 3),
        ("currentNumberScheduled", 3),
        ("numberReady", 3),
        ("updatedNumberScheduled", 3),
        ("numberAvailable", 3),
        ("numberMisscheduled", 0),
    ] {
        assert_eq!(status[field], expected, "{field}: {status}");
    }
    cluster.change("Node", "", "b", json!({"spec": {"taints": [{"key": "gone", "effect": "NoExecute"}]}}));
    cluster.settle();
    assert_eq!(daemon_nodes(&cluster, "v1"), ["a", "cordoned"]);
    let failed = cluster.all("Pod")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.change("Pod", "kube-system", &failed, json!({"status": {"phase": "Failed"}}));
    cluster.settle();
    assert_eq!(daemon_nodes(&cluster, "v1"), ["a", "cordoned"]);
    assert!(
        cluster
            .messages()
            .iter()
            .any(|message| message.starts_with("FailedDaemonPod: Found failed daemon pod kube-system/agent-"))
    );
}

#[test]
fn a_daemon_rolls_node_by_node_or_surges_and_remembers_revisions() {
    let check = |strategy: Value, ready_min: usize, pods_max: usize| {
        let mut cluster = Cluster::new().with::<DaemonSetController>();
        for name in ["a", "b", "c"] {
            cluster.apply(node(name, json!({})));
        }
        let version = |image: &str| {
            let mut set = daemon(image);
            set["spec"]["updateStrategy"]["rollingUpdate"] = strategy.clone();
            set
        };
        cluster.apply(version("v1"));
        cluster.settle();
        (cluster.ready_seen_min, cluster.pods_seen_max) = (usize::MAX, 0);
        cluster.apply(version("v2"));
        cluster.settle();
        assert_eq!(daemon_nodes(&cluster, "v2"), ["a", "b", "c"], "{strategy}");
        assert_eq!((cluster.ready_seen_min, cluster.pods_seen_max), (ready_min, pods_max), "{strategy}");
        cluster.apply(version("v1"));
        cluster.settle();
        assert_eq!(daemon_nodes(&cluster, "v1"), ["a", "b", "c"], "{strategy}");
        let mut revisions: Vec<i64> =
            cluster.all("ControllerRevision").iter().map(|revision| revision["revision"].as_i64().unwrap()).collect();
        revisions.sort_unstable();
        assert_eq!(revisions, [2, 3], "the first template became the newest revision again");
    };
    check(json!({"maxUnavailable": 1}), 2, 3);
    check(json!({"maxUnavailable": 2}), 1, 3);
    check(json!({"maxUnavailable": 0, "maxSurge": 1}), 3, 4);
}

#[test]
fn a_broken_daemon_stops_after_its_budget() {
    let mut cluster = Cluster::new().with::<DaemonSetController>();
    for name in ["a", "b", "c"] {
        cluster.apply(node(name, json!({})));
    }
    cluster.never_ready.insert("broken".into());
    cluster.apply(daemon("v1"));
    cluster.settle();
    cluster.apply(daemon("broken"));
    cluster.settle();
    assert_eq!(daemon_nodes(&cluster, "v1").len(), 2);
}

fn stateful(replicas: i32, image: &str, changes: Value) -> Value {
    let mut set = json!({"kind": "StatefulSet", "metadata": {"name": "db", "namespace": "default"}, "spec": {
        "replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}}, "podManagementPolicy": "OrderedReady",
        "updateStrategy": {"type": "RollingUpdate"}, "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}],
        "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "main", "image": image}]}}}});
    merge(&mut set, &changes);
    set
}

fn stateful_pods(cluster: &Cluster) -> Vec<(String, String)> {
    let pods = cluster.all("Pod").into_iter();
    pods.map(|pod| {
        (
            pod["metadata"]["name"].as_str().unwrap().to_owned(),
            pod["spec"]["containers"][0]["image"].as_str().unwrap().to_owned(),
        )
    })
    .collect()
}

fn named(pods: &[(&str, &str)]) -> Vec<(String, String)> {
    pods.iter().map(|(name, image)| ((*name).to_owned(), (*image).to_owned())).collect()
}

#[test]
fn a_stateful_set_keeps_names_order_and_storage() {
    let mut cluster = Cluster::new().with::<StatefulSetController>();
    cluster.apply(stateful(3, "v1", json!({})));
    cluster.step();
    assert_eq!(cluster.all("Pod").len(), 1, "one after the other");
    cluster.settle();
    assert_eq!(stateful_pods(&cluster), named(&[("db-0", "v1"), ("db-1", "v1"), ("db-2", "v1")]));
    let pod = cluster.get("Pod", "default", "db-1").unwrap();
    assert_eq!(
        (
            &pod["spec"]["hostname"],
            &pod["spec"]["subdomain"],
            &pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"]
        ),
        (&json!("db-1"), &json!("db"), &json!("1"))
    );
    assert_eq!(pod["spec"]["volumes"][0], json!({"name": "data", "persistentVolumeClaim": {"claimName": "data-db-1"}}));
    assert!(cluster.messages().contains(&"SuccessfulCreate: create Pod db-0 in StatefulSet db successful".to_owned()));
    cluster.delete("Pod", "default", "db-1");
    cluster.settle();
    assert_eq!(stateful_pods(&cluster).len(), 3);
    cluster.change("StatefulSet", "default", "db", json!({"spec": {"replicas": 1}}));
    cluster.settle();
    assert_eq!(stateful_pods(&cluster), named(&[("db-0", "v1")]));
    assert_eq!(cluster.all("PersistentVolumeClaim").len(), 3, "storage outlives its pods");
    let status = &cluster.get("StatefulSet", "default", "db").unwrap()["status"];
    assert_eq!(
        (&status["replicas"], &status["readyReplicas"], status["currentRevision"] == status["updateRevision"]),
        (&json!(1), &json!(1), true)
    );
}

#[test]
fn a_stateful_set_updates_from_above_down_to_its_partition() {
    let check = |changes: Value, ready_min: usize, expected: &[(&str, &str)]| {
        let mut cluster = Cluster::new().with::<StatefulSetController>();
        cluster.apply(stateful(3, "v1", changes.clone()));
        cluster.settle();
        cluster.ready_seen_min = usize::MAX;
        cluster.apply(stateful(3, "v2", changes.clone()));
        cluster.settle();
        assert_eq!(stateful_pods(&cluster), named(expected), "{changes}");
        assert_eq!(cluster.ready_seen_min, ready_min, "{changes}");
    };
    check(json!({}), 2, &[("db-0", "v2"), ("db-1", "v2"), ("db-2", "v2")]);
    check(json!({"spec": {"podManagementPolicy": "Parallel"}}), 2, &[("db-0", "v2"), ("db-1", "v2"), ("db-2", "v2")]);
    check(
        json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 2}}}}),
        2,
        &[("db-0", "v1"), ("db-1", "v1"), ("db-2", "v2")],
    );
    check(
        json!({"spec": {"updateStrategy": {"type": "OnDelete"}}}),
        3,
        &[("db-0", "v1"), ("db-1", "v1"), ("db-2", "v1")],
    );
}

#[test]
fn a_broken_update_stops_and_a_pod_below_the_partition_keeps_its_revision() {
    let mut cluster = Cluster::new().with::<StatefulSetController>();
    cluster.never_ready.insert("broken".into());
    cluster.apply(stateful(3, "v1", json!({})));
    cluster.settle();
    cluster.apply(stateful(3, "broken", json!({})));
    cluster.settle();
    assert_eq!(stateful_pods(&cluster), named(&[("db-0", "v1"), ("db-1", "v1"), ("db-2", "broken")]));
    let mut cluster = Cluster::new().with::<StatefulSetController>();
    let partition = json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 2}}}});
    cluster.apply(stateful(3, "v1", partition.clone()));
    cluster.settle();
    cluster.apply(stateful(3, "v2", partition));
    cluster.settle();
    cluster.delete("Pod", "default", "db-0");
    cluster.settle();
    assert_eq!(stateful_pods(&cluster), named(&[("db-0", "v1"), ("db-1", "v1"), ("db-2", "v2")]));
}

#[test]
fn a_cron_job_runs_on_time_and_obeys_its_policies() {
    let check = |changes: Value, image: &str, minutes: i64, jobs: usize, active: usize| {
        let mut cluster = Cluster::new().with::<JobController>().with::<CronJobController>();
        cluster.succeeding.insert("good".into());
        let mut cron = json!({"kind": "CronJob", "metadata": {"name": "tick", "namespace": "default"}, "spec": {
            "schedule": "*/5 * * * *", "successfulJobsHistoryLimit": 2, "jobTemplate": {"spec": {"parallelism": 1, "completions": 1,
            "template": {"metadata": {}, "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": image}]}}}}}});
        merge(&mut cron, &changes);
        cluster.apply(cron);
        cluster.settle();
        for _ in 0..minutes {
            cluster.pass(60);
        }
        let status = cluster.get("CronJob", "default", "tick").unwrap()["status"].clone();
        let listed = status["active"].as_array().map_or(0, Vec::len);
        assert_eq!((cluster.all("Job").len(), listed), (jobs, active), "{changes}: {status:#}");
    };
    check(json!({}), "good", 4, 0, 0);
    check(json!({}), "good", 6, 1, 0);
    check(json!({}), "good", 31, 2, 0);
    check(json!({"spec": {"suspend": true}}), "good", 31, 0, 0);
    check(json!({}), "stays", 11, 2, 2);
    check(json!({"spec": {"concurrencyPolicy": "Forbid"}}), "stays", 16, 1, 1);
    check(json!({"spec": {"concurrencyPolicy": "Replace"}}), "stays", 16, 1, 1);
    check(json!({"spec": {"schedule": "nonsense"}}), "good", 10, 0, 0);
}
