//! A disk that fills, on a machine whose disk is a small tmpfs: pods beyond their limits go, then whoever takes the most, and the
//! node says so; the others run on.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[expect(dead_code, reason = "not every test uses everything")]
mod common;

use common::{IMAGE, MemoryApi, TestMachine, until};
use serde_json::{Value, json};

/// Of these a tenth has to be free.
const DISK_MEGABYTES: u64 = 200;

fn pod(name: &str, script: &str, resources: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d"}, "spec": {
        "nodeName": "n1", "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "resources": resources,
            "command": ["sh", "-c", format!("{script}; sleep 1000")],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "volumes": [{"name": "data", "emptyDir": {}}]}})
}

fn write(path: &str, megabytes: u64) -> String {
    format!("busybox dd if=/dev/zero of={path} bs=1048576 count={megabytes}")
}

fn is(object: Option<&Value>, phase: &str) -> bool {
    object.is_some_and(|object| object["status"]["phase"] == phase)
}

fn condition(object: &Value, kind: &str) -> Option<Value> {
    let all = object["status"]["conditions"].as_array()?;
    all.iter().find(|one| one["type"] == kind).cloned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_costs_the_pod_that_filled_it() {
    let api = MemoryApi::new();
    let mut machine = TestMachine::small("disk", DISK_MEGABYTES).await;
    let node = machine.start(&api).await;
    node.registered().await;
    let limits = |text: &str| json!({"limits": {"ephemeral-storage": text}, "requests": {"ephemeral-storage": "1Mi"}});
    api.create("pods", pod("small", &write("/data/x", 4), json!({})));
    api.create("pods", pod("within", &write("/tmp/x", 4), limits("8Mi")));
    api.create("pods", pod("over", &write("/tmp/x", 12), limits("8Mi")));
    api.wait("pods", "d", "over", |object| is(object, "Failed")).await;
    let over = api.get("pods", "d", "over").unwrap();
    assert_eq!(over["status"]["reason"], "Evicted");
    let message = "Pod ephemeral local storage usage exceeds the total limit of containers 8Mi. ";
    assert_eq!(over["status"]["message"], message);
    assert_eq!(condition(&over, "DisruptionTarget"), None, "it was the pod's own fault");

    api.create("pods", pod("hog", &write("/data/x", DISK_MEGABYTES * 85 / 100), json!({})));
    api.wait("pods", "d", "hog", |object| is(object, "Failed")).await;
    let hog = api.get("pods", "d", "hog").unwrap();
    assert_eq!(hog["status"]["reason"], "Evicted");
    let text = hog["status"]["message"].as_str().unwrap();
    assert!(
        text.starts_with("The node was low on resource: ephemeral-storage. Threshold quantity: 20Mi, available: "),
        "{text}"
    );
    let target = condition(&hog, "DisruptionTarget").expect("a condition that says why");
    assert_eq!(
        (&target["status"], &target["reason"], &target["message"]),
        (&json!("True"), &json!("TerminationByKubelet"), &hog["status"]["message"])
    );
    until("the events", || {
        let has = |reason: &str, message: &str| {
            api.all("events").iter().any(|event| event["reason"] == reason && event["message"] == message)
        };
        has("EvictionThresholdMet", "Attempting to reclaim ephemeral-storage")
            && has("Evicted", text)
            && has("Evicted", message)
    })
    .await;
    api.wait("nodes", "", "n1", |object| {
        object.and_then(|object| condition(object, "DiskPressure")).is_some_and(|one| one["status"] == "True")
    })
    .await;
    // Its files are gone, the others were not touched, and nobody new comes in until the pressure has been away for a while.
    let agent = machine.directory.join("agent");
    until("the room is there again", || {
        let space = rustix::fs::statvfs(&agent).unwrap();
        space.f_bavail > space.f_blocks / 2
    })
    .await;
    for name in ["small", "within"] {
        assert!(is(api.get("pods", "d", name).as_ref(), "Running"), "{name}");
    }
    api.create("pods", pod("late", "true", json!({})));
    api.wait("pods", "d", "late", |object| is(object, "Failed")).await;
    let late = api.get("pods", "d", "late").unwrap();
    assert_eq!(late["status"]["reason"], "Evicted");
    assert_eq!(late["status"]["message"], "Pod was rejected: The node had condition: [DiskPressure]. ");
    for name in ["small", "within", "over", "hog", "late"] {
        api.delete_pod("d", name, 1);
        api.wait("pods", "d", name, |object| object.is_none()).await;
    }
    machine.stop(node).await;
    machine.finish().await;
}
