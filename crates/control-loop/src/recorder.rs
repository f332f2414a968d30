//! Writes events: repeated ones are counted up instead of written anew, and a chatty object is cut short.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use client::{ClusterClient, PatchKind, Request, Target, Verb, WriteOptions};
use controllers::{Event, EventType};
use jiff::Timestamp;
use object::GroupVersionResource;
use serde_json::json;
use tokio::sync::mpsc;

use crate::convert::to_object_value;
use crate::options::Clock;

/// Events that wait to be written; beyond it new ones are dropped, since no client relies on them.
const WAITING_MAX: usize = 4_096;
/// Events remembered so that repetitions are counted.
const REMEMBERED_MAX: usize = 4_096;
/// As upstream: an object may have this many events at once, and one more every five minutes.
const BURST_PER_OBJECT: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;

/// Hands events to the task that writes them.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    sender: mpsc::Sender<Recorded>,
}

#[derive(Debug)]
struct Recorded {
    component: &'static str,
    event: Event,
}

impl Recorder {
    /// Starts the writing task; it ends when the last recorder is dropped.
    pub(crate) fn start(client: Arc<dyn ClusterClient>, clock: Clock) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        tokio::spawn(write_all(client, clock, receiver));
        Self { sender }
    }

    /// Records without waiting.
    pub(crate) fn record(&self, component: &'static str, event: Event) {
        if self.sender.try_send(Recorded { component, event }).is_err() {
            tracing::debug!(component, "too many events are waiting; one is dropped");
        }
    }
}

#[derive(Debug)]
struct Known {
    name: String,
    count: i64,
}

#[derive(Debug)]
struct Budget {
    tokens: f64,
    at: Timestamp,
}

#[derive(Debug, Default)]
struct Written {
    known: HashMap<String, Known>,
    order: VecDeque<String>,
    budgets: HashMap<String, Budget>,
    serial: u64,
}

impl Written {
    fn allows(&mut self, subject: &str, now: Timestamp) -> bool {
        if self.budgets.len() >= REMEMBERED_MAX {
            self.budgets.retain(|_, budget| {
                budget.tokens < BURST_PER_OBJECT - 1.0 && now.duration_since(budget.at).as_hours() < 2
            });
        }
        let budget = self.budgets.entry(subject.to_owned()).or_insert(Budget { tokens: BURST_PER_OBJECT, at: now });
        let refill = now.duration_since(budget.at).as_secs_f64() * REFILL_PER_SECOND;
        budget.tokens = (budget.tokens + refill.max(0.0)).min(BURST_PER_OBJECT);
        budget.at = now;
        if budget.tokens < 1.0 {
            return false;
        }
        budget.tokens -= 1.0;
        true
    }

    fn remember(&mut self, identity: String, name: String) {
        if self.order.len() >= REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(identity.clone());
        self.known.insert(identity, Known { name, count: 1 });
    }
}

async fn write_all(client: Arc<dyn ClusterClient>, clock: Clock, mut receiver: mpsc::Receiver<Recorded>) {
    let mut written = Written::default();
    while let Some(recorded) = receiver.recv().await {
        write(&*client, &mut written, &recorded, clock()).await;
    }
}

async fn write(client: &dyn ClusterClient, written: &mut Written, recorded: &Recorded, now: Timestamp) {
    let Recorded { component, event } = recorded;
    let regarding = &event.regarding;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let subject =
        format!("{component}/{}/{}/{}", text(&regarding.kind), text(&regarding.namespace), text(&regarding.name));
    if !written.allows(&subject, now) {
        return;
    }
    // Events about cluster-scoped objects live in `default`, as upstream's do.
    let namespace =
        regarding.namespace.clone().filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| "default".into());
    let target = |name: &str| Target {
        resource: GroupVersionResource::new("", "v1", "events"),
        namespace: namespace.as_str().into(),
        name: name.into(),
        subresource: "".into(),
    };
    let seconds = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let identity = format!("{subject}/{}/{}/{}", text(&regarding.uid), event.reason, event.message);
    if let Some(known) = written.known.get_mut(&identity) {
        known.count += 1;
        let patch = to_object_value(&json!({"count": known.count, "lastTimestamp": seconds}));
        let request = Request {
            target: target(&known.name),
            verb: Verb::Patch(PatchKind::Merge, patch, WriteOptions::default()),
        };
        match client.call(request).await {
            Ok(_) => return,
            Err(status) if status.is_not_found() => {
                // It has expired: it starts anew.
                written.known.remove(&identity);
                written.order.retain(|known| *known != identity);
            }
            Err(status) => return tracing::debug!(%status.message, "an event could not be counted up"),
        }
    }
    written.serial += 1;
    let nanoseconds = u64::try_from(now.as_nanosecond()).unwrap_or(0).wrapping_add(written.serial);
    let name = format!("{}.{nanoseconds:x}", text(&regarding.name));
    let object = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": regarding,
        "reason": event.reason, "message": event.message,
        "type": match event.event_type { EventType::Normal => "Normal", EventType::Warning => "Warning" },
        "source": {"component": component}, "reportingComponent": component, "reportingInstance": "",
        "firstTimestamp": seconds, "lastTimestamp": seconds, "count": 1
    });
    let request = Request { target: target(""), verb: Verb::Create(to_object_value(&object), WriteOptions::default()) };
    match client.call(request).await {
        Ok(_) => written.remember(identity, name),
        // In a namespace that is going away nothing can be created, which is no news.
        Err(status) => tracing::debug!(%status.message, reason = %event.reason, "an event could not be written"),
    }
}
