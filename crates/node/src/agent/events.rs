//! Event objects: counted when they repeat, gathered when they are many alike, limited per object; written beside the work, never in it.

use super::api::{Api, target};
use super::tasks::Tasks;
use crate::lifecycle::{Report, Severity};
use client::PatchKind;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use std::collections::HashMap;
use tokio::sync::mpsc;

/// Reports that wait to be written; more are dropped, the oldest kept.
const QUEUE: usize = 4096;
/// Events that are remembered for counting.
const REMEMBERED_MAX: usize = 4096;
/// Upstream's limits: a burst of 25 for each object, then one in five minutes.
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;
/// So many events alike in ten minutes become one that stands for them.
const ALIKE_MAX: u32 = 10;
const ALIKE_WITHIN_SECONDS: i64 = 600;

struct Item {
    about: ObjectReference,
    report: Report,
    at: Timestamp,
}

/// Writes events; a cheap handle.
#[derive(Clone)]
pub struct Recorder(mpsc::Sender<Item>);

struct Written {
    namespace: String,
    name: String,
    count: i32,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

/// A reference to a pod, or to one of its containers.
fn about_pod(pod: &Pod, container: &str) -> ObjectReference {
    let field_path = (!container.is_empty()).then(|| {
        let spec = pod.spec.as_ref();
        let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
        let ephemeral = spec.and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or_default();
        let list = if init.iter().any(|one| one.name == container) {
            "initContainers"
        } else if ephemeral.iter().any(|one| one.name == container) {
            "ephemeralContainers"
        } else {
            "containers"
        };
        format!("spec.{list}{{{container}}}")
    });
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

impl Recorder {
    /// Starts the writer.
    #[must_use]
    pub fn start(tasks: &Tasks, api: Api, node: String) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tasks.spawn(write_all(api, node, receiver));
        Recorder(sender)
    }

    /// An event about a pod or one of its containers.
    pub fn pod(&self, pod: &Pod, report: Report) {
        let about = about_pod(pod, &report.container);
        let _ = self.0.try_send(Item { about, report, at: Timestamp::now() });
    }

    /// A warning about a Service.
    pub fn service(&self, service: &Service, reason: &str, message: String) {
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Service".into()),
            namespace: service.metadata.namespace.clone(),
            name: service.metadata.name.clone(),
            uid: service.metadata.uid.clone(),
            resource_version: service.metadata.resource_version.clone(),
            field_path: None,
        };
        let report = Report { severity: Severity::Warning, reason: reason.into(), message, container: String::new() };
        let _ = self.0.try_send(Item { about, report, at: Timestamp::now() });
    }

    /// An event about the node.
    pub fn node(&self, node: &str, severity: Severity, reason: &str, message: String) {
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some(node.into()),
            uid: Some(node.into()),
            ..ObjectReference::default()
        };
        let report = Report { severity, reason: reason.into(), message, container: String::new() };
        let _ = self.0.try_send(Item { about, report, at: Timestamp::now() });
    }
}

async fn write_all(api: Api, node: String, mut queue: mpsc::Receiver<Item>) {
    let mut written: HashMap<String, Written> = HashMap::new();
    let mut alike: HashMap<String, (u32, Timestamp)> = HashMap::new();
    let mut buckets: HashMap<String, Bucket> = HashMap::new();
    while let Some(mut item) = queue.recv().await {
        for full in [written.len(), alike.len(), buckets.len()] {
            if full > REMEMBERED_MAX {
                written.clear();
                alike.clear();
                buckets.clear();
            }
        }
        let object = format!("{:?}/{:?}/{:?}", item.about.kind, item.about.uid, item.about.field_path);
        let bucket = buckets.entry(object.clone()).or_insert(Bucket { tokens: BURST, at: item.at });
        let passed = item.at.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed * REFILL_PER_SECOND).min(BURST);
        bucket.at = item.at;
        if bucket.tokens < 1.0 {
            continue;
        }
        bucket.tokens -= 1.0;
        let kind = format!("{object}/{}", item.report.reason);
        let (count, since) = alike.entry(kind.clone()).or_insert((0, item.at));
        if item.at.duration_since(*since).as_secs() > ALIKE_WITHIN_SECONDS {
            (*count, *since) = (0, item.at);
        }
        *count += 1;
        let mut key = format!("{kind}/{}", item.report.message);
        if *count > ALIKE_MAX && !written.contains_key(&key) {
            key = format!("{kind}/combined");
            item.report.message = format!("(combined from similar events): {}", item.report.message);
        }
        write(&api, &node, &mut written, key, item).await;
    }
}

async fn write(api: &Api, node: &str, written: &mut HashMap<String, Written>, key: String, item: Item) {
    let now = Time(item.at);
    if let Some(before) = written.get_mut(&key) {
        before.count = before.count.saturating_add(1);
        let patch = json!({"count": before.count, "lastTimestamp": now, "message": item.report.message});
        let target = target("", "events", &before.namespace, &before.name, "");
        match api.patch(target, PatchKind::Merge, patch).await {
            Err(status) if status.is_not_found() => drop(written.remove(&key)), // it expired: a new one is made below
            _ => return,
        }
    }
    let namespace = item.about.namespace.clone().unwrap_or_else(|| "default".into());
    let nanoseconds = item.at.as_nanosecond();
    let name = format!("{}.{nanoseconds:x}", item.about.name.as_deref().unwrap_or_default());
    let event = Event {
        metadata: ObjectMeta { name: Some(name.clone()), namespace: Some(namespace.clone()), ..ObjectMeta::default() },
        involved_object: item.about,
        reason: Some(item.report.reason),
        message: Some(item.report.message),
        type_: Some(match item.report.severity {
            Severity::Normal => "Normal".into(),
            Severity::Warning => "Warning".into(),
        }),
        source: Some(EventSource { component: Some("kubelet".into()), host: Some(node.into()) }),
        reporting_component: Some("kubelet".into()),
        reporting_instance: Some(node.into()),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..Event::default()
    };
    let created: Result<serde_json::Value, _> = api.create(target("", "events", &namespace, "", ""), &event).await;
    match created {
        Ok(_) => drop(written.insert(key, Written { namespace, name, count: 1 })),
        Err(error) => tracing::debug!(%error, "an event could not be written"),
    }
}
