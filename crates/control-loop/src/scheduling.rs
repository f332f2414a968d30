//! The scheduler's side of the loop: which pods wait, when they are tried, and what becomes of decisions.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use client::Verb;
use controllers::{Event, Target, Typed};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use object::Status;
use scheduler::{Decision, Parameters, Snapshot, place};
use serde_json::json;

use crate::convert::to_object_value;
use crate::execute::Executor;

/// The component and the identity of the scheduler.
pub(crate) const COMPONENT: &str = "default-scheduler";
pub(crate) const USER: &str = "system:kube-scheduler";
/// Pods decided on in one go; more wait for the next round, so that the loop stays responsive.
const BATCH_MAX: usize = 512;
const BACKOFF_MIN: SignedDuration = SignedDuration::from_secs(1);
const BACKOFF_MAX: SignedDuration = SignedDuration::from_secs(10);

#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// Waits for the next batch.
    Active,
    /// A binding is under way.
    Binding,
    /// No node takes it until the cluster changes.
    Parked,
    /// Tried again at a time.
    BackingOff(Timestamp),
}

#[derive(Debug)]
struct Pending {
    pod: Arc<Pod>,
    standing: Standing,
    attempts: u32,
    last_try: Timestamp,
}

/// A pod's binding or refusal has been written, or not.
#[derive(Debug)]
pub(crate) struct Settled {
    uid: String,
    bound: bool,
    failed: bool,
}

/// Pods that wait, and the snapshot they are placed on.
#[derive(Debug)]
pub(crate) struct Scheduling {
    snapshot: Snapshot,
    pending: HashMap<String, Pending>,
    active: BTreeSet<String>,
    timers: BTreeSet<(Timestamp, String)>,
    seed: u64,
    round: u64,
}

impl Scheduling {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            snapshot: Snapshot::new(),
            pending: HashMap::new(),
            active: BTreeSet::new(),
            timers: BTreeSet::new(),
            seed,
            round: 0,
        }
    }

    /// Takes in a change of the cluster.
    pub(crate) fn observe(&mut self, old: Option<&Typed>, new: Option<&Typed>, now: Timestamp) {
        match (old, new) {
            (_, Some(Typed::Pod(pod))) => self.observe_pod(pod, now),
            (Some(Typed::Pod(pod)), None) => {
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                self.drop_pending(&uid);
                self.snapshot.remove_pod(&uid);
                self.retry_parked(now);
            }
            (old, Some(Typed::Node(node))) => {
                let heartbeat = matches!(old, Some(Typed::Node(old)) if same_to_scheduler(old, node));
                self.snapshot.set_node(node.clone());
                if !heartbeat {
                    self.retry_parked(now);
                }
            }
            (Some(Typed::Node(node)), None) => {
                self.snapshot.remove_node(node.metadata.name.as_deref().unwrap_or_default())
            }
            (_, Some(Typed::Namespace(namespace))) => {
                let labels = namespace.metadata.labels.clone().unwrap_or_default();
                self.snapshot.set_namespace(namespace.metadata.name.as_deref().unwrap_or_default(), labels);
            }
            (Some(Typed::Namespace(namespace)), None) => {
                self.snapshot.remove_namespace(namespace.metadata.name.as_deref().unwrap_or_default());
            }
            (old, new @ (Some(Typed::Service(_)) | None)) => {
                if let Some(Typed::Service(service)) = new.or(old) {
                    let selector = new.and(service.spec.as_ref()).and_then(|spec| spec.selector.as_ref());
                    let (namespace, name) = (service.metadata.namespace.as_deref(), service.metadata.name.as_deref());
                    self.snapshot.set_service(namespace.unwrap_or_default(), name.unwrap_or_default(), selector);
                }
            }
            _ => {}
        }
    }

    fn observe_pod(&mut self, pod: &Arc<Pod>, now: Timestamp) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let ended = scheduler::is_terminal(pod);
        let freed = ended && self.snapshot.node_of(&uid).is_some();
        self.snapshot.set_pod(pod.clone());
        if freed {
            self.retry_parked(now);
        }
        let spec = pod.spec.as_ref();
        let bound = spec.and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty());
        let ours = spec
            .and_then(|spec| spec.scheduler_name.as_deref())
            .is_none_or(|name| name.is_empty() || name == COMPONENT);
        if ended || bound || !ours || pod.metadata.deletion_timestamp.is_some() {
            if !bound {
                self.snapshot.forget(&uid);
            }
            return self.drop_pending(&uid);
        }
        match self.pending.get_mut(&uid) {
            Some(pending) => {
                let changed = pending.pod.spec != pod.spec || pending.pod.metadata.labels != pod.metadata.labels;
                pending.pod = pod.clone();
                if changed && pending.standing == Standing::Parked {
                    pending.standing = Standing::Active;
                    self.active.insert(uid);
                }
            }
            None => {
                self.active.insert(uid.clone());
                self.pending
                    .insert(uid, Pending { pod: pod.clone(), standing: Standing::Active, attempts: 0, last_try: now });
            }
        }
    }

    fn drop_pending(&mut self, uid: &str) {
        if let Some(pending) = self.pending.remove(uid) {
            self.active.remove(uid);
            if let Standing::BackingOff(at) = pending.standing {
                self.timers.remove(&(at, uid.to_owned()));
            }
        }
    }

    /// The cluster changed in a way that may help: what is parked is tried again, though not sooner than its back-off allows.
    fn retry_parked(&mut self, now: Timestamp) {
        for (uid, pending) in &mut self.pending {
            if pending.standing != Standing::Parked {
                continue;
            }
            let wait = BACKOFF_MIN.saturating_mul(1 << pending.attempts.saturating_sub(1).min(6)).min(BACKOFF_MAX);
            let at = pending.last_try.checked_add(wait).unwrap_or(now);
            if at <= now {
                pending.standing = Standing::Active;
                self.active.insert(uid.clone());
            } else {
                pending.standing = Standing::BackingOff(at);
                self.timers.insert((at, uid.clone()));
            }
        }
    }

    /// Pods whose time has come are tried again.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        while let Some((at, uid)) = self.timers.first().cloned() {
            if at > now {
                return;
            }
            self.timers.remove(&(at, uid.clone()));
            if let Some(pending) = self.pending.get_mut(&uid) {
                pending.standing = Standing::Active;
                self.active.insert(uid);
            }
        }
    }

    /// When `tick` is next worth calling.
    pub(crate) fn next_tick(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Whether another round has something to decide.
    pub(crate) fn has_work(&self) -> bool {
        !self.active.is_empty()
    }

    /// Decides for the next pods and assumes what it binds.
    pub(crate) fn decide(&mut self, now: Timestamp) -> Vec<Decision> {
        let uids: Vec<String> = self.active.iter().take(BATCH_MAX).cloned().collect();
        let mut batch = Vec::with_capacity(uids.len());
        for uid in uids {
            self.active.remove(&uid);
            if let Some(pending) = self.pending.get_mut(&uid) {
                pending.attempts = pending.attempts.saturating_add(1);
                pending.last_try = now;
                batch.push(pending.pod.clone());
            }
        }
        self.round = self.round.wrapping_add(1);
        let decisions = place(&self.snapshot, &batch, Parameters { seed: self.seed ^ self.round });
        for decision in &decisions {
            let uid = decision.pod().metadata.uid.clone().unwrap_or_default();
            let standing = match decision {
                Decision::Bind { pod, node } => {
                    self.snapshot.assume(pod, node);
                    Standing::Binding
                }
                Decision::Unschedulable { .. } | Decision::Gated { .. } => Standing::Parked,
            };
            if let Some(pending) = self.pending.get_mut(&uid) {
                pending.standing = standing;
            }
        }
        decisions
    }

    /// A decision has been written, or not.
    pub(crate) fn settled(&mut self, settled: Settled, now: Timestamp) {
        if !settled.failed {
            return;
        }
        if settled.bound {
            self.snapshot.forget(&settled.uid);
        }
        let Some(pending) = self.pending.get_mut(&settled.uid) else { return };
        let wait = BACKOFF_MIN.saturating_mul(1 << pending.attempts.saturating_sub(1).min(6)).min(BACKOFF_MAX);
        let at = now.checked_add(wait).unwrap_or(now);
        if pending.standing == Standing::Binding {
            pending.standing = Standing::BackingOff(at);
            self.timers.insert((at, settled.uid));
        }
    }
}

/// Whether nothing changed but what a heartbeat changes.
fn same_to_scheduler(old: &Node, new: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    old.spec == new.spec && old.metadata.labels == new.metadata.labels && allocatable(old) == allocatable(new)
}

/// Writes a decision: a binding, or the reason why not.
pub(crate) async fn carry_out(executor: Executor, decision: Decision, now: Timestamp) -> Settled {
    let pod = decision.pod().clone();
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let target = Target::of(&*pod);
    match decision {
        Decision::Bind { node, .. } => {
            let binding = json!({"apiVersion": "v1", "kind": "Binding",
                "metadata": {"name": target.name, "namespace": target.namespace, "uid": uid},
                "target": {"apiVersion": "v1", "kind": "Node", "name": &*node}});
            let result =
                executor.call(&target, "binding", Verb::Create(to_object_value(&binding), Default::default())).await;
            match &result {
                Ok(_) => {
                    let message = format!("Successfully assigned {}/{} to {node}", target.namespace, target.name);
                    executor.recorder.record(COMPONENT, Event::normal(&*pod, "Scheduled", message));
                }
                Err(status) if status.is_not_found() || status.is_conflict() => {
                    tracing::debug!(pod = %target.name, %status.message, "the pod changed before it was bound");
                }
                Err(status) => {
                    let message = format!("binding rejected: {}", status.message);
                    executor.recorder.record(COMPONENT, Event::warning(&*pod, "FailedScheduling", message));
                }
            }
            Settled { uid, bound: true, failed: result.is_err() }
        }
        Decision::Unschedulable { message, .. } => {
            executor.recorder.record(COMPONENT, Event::warning(&*pod, "FailedScheduling", &*message));
            let result = mark_unschedulable(&executor, &target, &pod, &message, now).await;
            if let Err(status) = &result {
                tracing::debug!(pod = %target.name, %status.message, "the PodScheduled condition could not be written");
            }
            Settled { uid, bound: false, failed: result.is_err() }
        }
        Decision::Gated { .. } => Settled { uid, bound: false, failed: false },
    }
}

async fn mark_unschedulable(
    executor: &Executor,
    target: &Target,
    pod: &Pod,
    message: &str,
    now: Timestamp,
) -> Result<(), Status> {
    let mut conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let known = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
    let same_status = known.is_some_and(|known| known.status == "False");
    if same_status && known.is_some_and(|known| known.message.as_deref() == Some(message)) {
        return Ok(());
    }
    let since = known.filter(|_| same_status).and_then(|known| known.last_transition_time.clone());
    conditions.retain(|condition| condition.type_ != "PodScheduled");
    conditions.push(k8s_openapi::api::core::v1::PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("Unschedulable".into()),
        message: Some(message.into()),
        last_transition_time: since.or(Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now))),
        ..Default::default()
    });
    let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": conditions}});
    let verb = Verb::Patch(client::PatchKind::Strategic, to_object_value(&patch), Default::default());
    executor.call(target, "status", verb).await.map(|_| ())
}
