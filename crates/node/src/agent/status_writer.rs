//! Writes a pod's status: one write at a time, the newest one next, nothing twice. What is on its way to Running may wait
//! a moment, so that a fast start costs one write.

use super::api::{Api, target};
use super::tasks::Tasks;
use client::PatchKind;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::watch;

/// How long a status that says nothing but "on its way" waits for a better one.
const UNHURRIED: Duration = Duration::from_millis(40);
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Default)]
struct Wanted {
    serial: u64,
    patch: Value,
    urgent: bool,
}

/// What has been written (or has nowhere to go), and the API's revision after it.
#[derive(Clone, Copy, Default)]
struct Written {
    serial: u64,
    revision: u64,
}

/// The writer of one pod; its task ends with it.
pub(super) struct StatusWriter {
    wanted: watch::Sender<Wanted>,
    written: watch::Receiver<Written>,
    last: Value,
}

/// The patch for a status; what vanished from it is taken away by null.
fn patch_of(uid: &str, status: &PodStatus) -> Value {
    let mut status = serde_json::to_value(status).unwrap_or_default();
    let null_where_missing = |value: &mut Value, names: &[&str]| {
        if let Some(map) = value.as_object_mut() {
            for name in names {
                map.entry(*name).or_insert(Value::Null);
            }
        }
    };
    null_where_missing(&mut status, &["reason", "message"]);
    if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        for condition in conditions {
            null_where_missing(condition, &["reason", "message"]);
        }
    }
    // Their merge key is the address itself: merged, the address of a sandbox that is gone would stay beside the new one.
    for name in ["podIPs", "hostIPs"] {
        if let Some(list) = status.get_mut(name).and_then(Value::as_array_mut) {
            list.insert(0, json!({"$patch": "replace"}));
        }
    }
    json!({"metadata": {"uid": uid}, "status": status})
}

impl StatusWriter {
    /// Starts the writer of one pod.
    pub(super) fn start(tasks: &Tasks, api: Api, namespace: String, name: String) -> Self {
        let (wanted, receiver) = watch::channel(Wanted::default());
        let (done, written) = watch::channel(Written::default());
        tasks.spawn(write_all(api, namespace, name, receiver, done));
        StatusWriter { wanted, written, last: Value::Null }
    }

    /// Wants this status written; returns true where it differs from the last one.
    pub(super) fn set(&mut self, uid: &str, status: &PodStatus) -> bool {
        let patch = patch_of(uid, status);
        if patch == self.last {
            return false;
        }
        self.last.clone_from(&patch);
        let waits =
            status.container_statuses.iter().chain(&status.init_container_statuses).flatten().all(|container| {
                let reason = container.state.as_ref().and_then(|state| state.waiting.as_ref()?.reason.as_deref());
                matches!(reason, Some("ContainerCreating" | "PodInitializing"))
            });
        let urgent = status.phase.as_deref() != Some("Pending") || !waits;
        self.wanted.send_modify(|wanted| *wanted = Wanted { serial: wanted.serial + 1, patch, urgent });
        true
    }

    /// Forgets what was written, if somebody else has changed whether the pod is ready since: the next status is written
    /// whatever it says. That is how a node that was taken for lost sets its pods right when it returns.
    pub(super) fn compare(&mut self, pod: &Pod) {
        let written = *self.written.borrow();
        let revision = pod.metadata.resource_version.as_ref().and_then(|text| text.parse::<u64>().ok());
        let settled = written.serial == self.wanted.borrow().serial;
        if !settled || revision.is_none_or(|revision| revision <= written.revision) {
            return;
        }
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let told = conditions.iter().find(|condition| condition.type_ == "Ready").map(|ready| ready.status.as_str());
        let ours = self.last["status"]["conditions"].as_array();
        let ours = ours.and_then(|all| all.iter().find(|condition| condition["type"] == "Ready"));
        if ours.is_some_and(|ours| ours["status"].as_str() != told) {
            self.last = Value::Null;
        }
    }

    /// A receiver that knows when everything set so far is written (or has nowhere to go).
    pub(super) fn flushed(&self) -> impl Future<Output = ()> + Send + 'static {
        let serial = self.wanted.borrow().serial;
        let mut written = self.written.clone();
        async move {
            let _ = written.wait_for(|written| written.serial >= serial).await;
        }
    }
}

async fn write_all(
    api: Api,
    namespace: String,
    name: String,
    mut wanted: watch::Receiver<Wanted>,
    done: watch::Sender<Written>,
) {
    let mut wait = RETRY_MIN;
    while wanted.changed().await.is_ok() {
        loop {
            if !wanted.borrow_and_update().urgent {
                let _ = tokio::time::timeout(UNHURRIED, wanted.wait_for(|wanted| wanted.urgent)).await;
            }
            let Wanted { serial, patch, .. } = wanted.borrow_and_update().clone();
            let mut revision = done.borrow().revision;
            match api.patch(target("", "pods", &namespace, &name, "status"), PatchKind::Strategic, patch).await {
                Ok(now) => revision = now,
                // The pod is gone, or another one has its name: nobody is left to tell.
                Err(status) if status.is_not_found() || status.is_conflict() => {}
                Err(status) if matches!(status.code, 400 | 403 | 422) => {
                    tracing::warn!(%namespace, %name, error = %status, "the API refuses a pod's status");
                }
                Err(status) => {
                    tracing::debug!(%namespace, %name, error = %status, "a pod's status is written again later");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_MAX);
                    continue;
                }
            }
            wait = RETRY_MIN;
            let _ = done.send(Written { serial, revision });
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{HostIP, PodIP};

    #[test]
    fn addresses_replace_what_was_there() {
        let status = PodStatus {
            host_ips: Some(vec![HostIP { ip: "192.0.2.1".into() }]),
            pod_ips: Some(vec![PodIP { ip: "10.0.0.3".into() }]),
            ..PodStatus::default()
        };
        let patch = patch_of("u", &status);
        assert_eq!(patch["status"]["podIPs"], json!([{"$patch": "replace"}, {"ip": "10.0.0.3"}]));
        assert_eq!(patch["status"]["hostIPs"], json!([{"$patch": "replace"}, {"ip": "192.0.2.1"}]));
        assert_eq!(patch_of("u", &PodStatus::default())["status"].get("podIPs"), None);
    }
}
