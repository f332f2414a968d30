//! Node lifecycle: a silent node becomes unknown, conditions become taints, and pods of a lost node stop being ready.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;

use crate::action::{Action, Event, Plan};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::pods;
use crate::presence::{Presence, Seen, Silence};
use crate::view::{Key, Typed, View};

const LEASES: &str = "kube-node-lease";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Reasons of the Ready condition: nothing is heard, nothing was ever heard, the agent alone is at fault.
const SILENT: &str = "NodeStatusUnknown";
const NEVER: &str = "NodeStatusNeverUpdated";
const AGENT_HUNG: &str = "AgentHung";
const AGENT_STOPPED: &str = "AgentStopped";
/// Upstream's numbers for a cluster that is lost in good part.
const DISRUPTION_NODES_MIN: usize = 2;
const DISRUPTION_PERCENT: usize = 55;
const LARGE_CLUSTER_NODES: usize = 50;
const EVICTION_EVERY: SignedDuration = SignedDuration::from_secs(10);
/// How often a flapping node is looked at.
const FLAPPING_LOOK: SignedDuration = SignedDuration::from_secs(10);
/// Upstream's grace where the Lease does not say how long it lasts.
const GRACE_SECONDS: i64 = 40;
/// Taints that follow a condition of the same meaning, with the status that sets them.
const CONDITION_TAINTS: [(&str, &str, &str); 4] = [
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];

/// The node lifecycle controller.
#[derive(Debug)]
pub struct NodeLifecycleController;

/// The last sign of life, and when it was first seen here. The node's own clock is not trusted.
#[derive(Debug, Default)]
pub struct Memory {
    sign: (Option<Timestamp>, Option<Timestamp>),
    seen_at: Option<Timestamp>,
    flapping_told: bool,
    /// Name and uid of the node that was seen, until its removal was told.
    registered: Option<Node>,
}

impl Controller for NodeLifecycleController {
    const NAME: &'static str = "node-controller";
    type Memory = Memory;

    fn keys(_view: &View, change: Change<'_>) -> Vec<Key> {
        let keys = change.sides().filter_map(|side| match side {
            Typed::Node(node) => Some(Key::new("", meta::name(&node.metadata))),
            Typed::Lease(lease) if meta::namespace(&lease.metadata) == LEASES => {
                Some(Key::new("", meta::name(&lease.metadata)))
            }
            Typed::Pod(pod) if change.old.is_none() => {
                Some(Key::new("", pods::node_name(pod))).filter(|key| !key.name.is_empty())
            }
            _ => None,
        });
        keys.collect()
    }

    fn seen(_view: &View, node: &str) -> Vec<Key> {
        vec![Key::new("", node)]
    }

    fn keeps(memory: &Memory) -> bool {
        memory.registered.is_some()
    }

    fn plan(view: &View, key: &Key, memory: &mut Memory, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let node = view.nodes.at(key);
        plan.actions.extend(membership(&key.name, node.map(|node| &**node), &mut memory.registered));
        let Some(node) = node else { return plan };
        let seen = view.settings.seen.get(&key.name).copied();
        let verdict = judge(view, key, node, seen, memory, now, &mut plan);
        let mut node = (**node).clone();
        let was_ready = condition(&node, "Ready").is_some_and(|ready| ready.status == "True");
        let unknown = match verdict {
            Verdict::Alive => false,
            Verdict::Agent(reason, message) => mark_unknown(&mut node, reason, message, now),
            Verdict::Silent { .. } => mark_unknown(&mut node, SILENT, "Kubelet stopped posting node status.", now),
        };
        // A pod on a node that says itself that it is not ready, or of which nothing is heard, gets no traffic.
        let unready = match verdict {
            Verdict::Silent { held, .. } => !held,
            _ => condition(&node, "Ready").is_some_and(|ready| ready.status == "False"),
        };
        if unknown {
            plan.actions.push(Action::update_status(&node));
            if was_ready {
                let message = format!("Node {} status is now: NodeNotReady", key.name);
                plan.actions.push(Action::Event(Event::normal(&node, "NodeNotReady", message)));
            }
        }
        if unready {
            let ready_pods: Vec<_> =
                view.pods.indexed(&key.name).filter(|pod| pods::is_ready(pod) && pods::is_active(pod)).collect();
            plan.actions.extend(ready_pods.iter().map(|pod| mark_not_ready(pod, now)));
            plan.actions.extend(
                ready_pods
                    .iter()
                    .map(|pod| Action::Event(Event::warning(&***pod, "NodeNotReady", "Node is not ready"))),
            );
        }
        if unknown {
            // Taints are planned when the new status is seen: both carry what they were planned for.
            return plan;
        }
        let flapping = seen.is_some_and(|seen| seen.flapping);
        if flapping {
            if !std::mem::replace(&mut memory.flapping_told, true) {
                let message = format!(
                    "Node {} comes and goes, or two machines have its identity; it gets no new pods until it was there for a minute",
                    key.name
                );
                plan.actions.push(Action::Event(Event::warning(&node, "NodeFlapping", message)));
            }
            plan.requeue_at(now.checked_add(FLAPPING_LOOK).unwrap_or(now));
        } else {
            memory.flapping_told = false;
        }
        plan.actions.extend(taint(view, &node, verdict, flapping, now, &mut plan.requeue_at));
        plan
    }
}

/// Tells of nodes that have come and gone. One that was made again under the same name has come anew.
fn membership(name: &str, node: Option<&Node>, registered: &mut Option<Node>) -> Vec<Action> {
    let uid = |node: &Node| node.metadata.uid.clone();
    if registered.as_ref().map(uid) == node.map(uid) {
        return Vec::new();
    }
    let tell = |node: &Node, reason: &str, what: String| {
        Action::Event(Event::normal(node, reason, format!("Node {name} event: {what}")))
    };
    let identity = |node: &Node| {
        let metadata = ObjectMeta { name: node.metadata.name.clone(), uid: uid(node), ..ObjectMeta::default() };
        Node { metadata, ..Node::default() }
    };
    let gone = std::mem::replace(registered, node.map(identity));
    let removing = gone.map(|node| tell(&node, "RemovingNode", format!("Removing Node {name} from Controller")));
    let coming = node.map(|node| tell(node, "RegisteredNode", format!("Registered Node {name} in Controller")));
    removing.into_iter().chain(coming).collect()
}

/// What is thought of a node.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    /// It speaks for itself.
    Alive,
    /// Its host lives and its pods run on; reason and message say what its agent does.
    Agent(&'static str, &'static str),
    /// Nothing is heard of it.
    Silent {
        /// It has lasted long enough for `NoExecute`.
        evict: bool,
        /// The server itself is cut off: nothing follows.
        held: bool,
    },
}

fn judge(
    view: &View,
    key: &Key,
    node: &Node,
    seen: Option<Seen>,
    memory: &mut Memory,
    now: Timestamp,
    plan: &mut Plan,
) -> Verdict {
    let away = Verdict::Agent(AGENT_STOPPED, "The agent has stopped; its host and its containers go on.");
    let without_lease = match seen.map(|seen| (seen.presence, seen.held)) {
        Some((Presence::Healthy, _)) => Some(Verdict::Alive),
        Some((Presence::AgentHung, _)) => {
            Some(Verdict::Agent(AGENT_HUNG, "The agent does not answer; its host and its containers go on."))
        }
        Some((Presence::AgentAway { by_lease: false }, _)) => Some(away),
        Some((Presence::Silent(silence), held)) => Some(Verdict::Silent { evict: silence == Silence::Evict, held }),
        Some((Presence::AgentAway { by_lease: true }, _)) | None => None,
    };
    if let Some(verdict) = without_lease {
        memory.seen_at = None;
        return verdict;
    }
    let lease = view.leases.get(LEASES, &key.name).and_then(|lease| lease.spec.as_ref());
    let renewed = lease.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
    let heartbeat = condition(node, "Ready").and_then(|ready| ready.last_heartbeat_time.as_ref()).map(|time| time.0);
    // Both are the node's clock, which may be wrong, and may be set back: only that one changes counts, at the time of this server's clock.
    let sign = (renewed, heartbeat);
    if memory.seen_at.is_none() || memory.sign != sign {
        (memory.sign, memory.seen_at) = (sign, Some(now));
    }
    let seconds = lease.and_then(|spec| spec.lease_duration_seconds).map_or(GRACE_SECONDS, i64::from);
    let silent_at = memory.seen_at.unwrap_or(now).checked_add(SignedDuration::from_secs(seconds)).unwrap_or(now);
    if now >= silent_at {
        return Verdict::Silent { evict: true, held: false };
    }
    plan.requeue_at(silent_at);
    if seen.is_some() { away } else { Verdict::Alive }
}

fn condition<'a>(node: &'a Node, condition_type: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == condition_type)
}

/// Says of every condition that the node reports itself that nobody knows, and why. `false` if that is said already.
fn mark_unknown(node: &mut Node, reason: &str, message: &str, now: Timestamp) -> bool {
    let created = node.metadata.creation_timestamp.clone();
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for condition_type in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        match conditions.iter_mut().find(|condition| condition.type_ == condition_type) {
            Some(condition)
                if condition.status != "Unknown"
                    || !matches!(condition.reason.as_deref(), Some(known) if known == reason || known == NEVER) =>
            {
                if condition.status != "Unknown" {
                    condition.last_transition_time = Some(Time(now));
                }
                condition.status = "Unknown".into();
                condition.reason = Some(reason.into());
                condition.message = Some(message.into());
                changed = true;
            }
            Some(_) => {}
            None => {
                conditions.push(NodeCondition {
                    type_: condition_type.into(),
                    status: "Unknown".into(),
                    reason: Some(NEVER.into()),
                    message: Some("Kubelet never posted node status.".into()),
                    last_heartbeat_time: created.clone(),
                    last_transition_time: Some(Time(now)),
                });
                changed = true;
            }
        }
    }
    changed
}

/// Brings the taints that follow from conditions up to date, and touches no other.
fn taint(
    view: &View,
    node: &Node,
    verdict: Verdict,
    flapping: bool,
    now: Timestamp,
    requeue_at: &mut Option<Timestamp>,
) -> Option<Action> {
    let known = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let has = |key: &str, effect: &str| known.iter().any(|taint| taint.key == key && taint.effect == effect);
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    let ready = condition(node, "Ready");
    let reason = ready.and_then(|ready| ready.reason.as_deref());
    match ready.map(|ready| ready.status.as_str()) {
        Some("False") => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        Some("Unknown") if matches!(reason, Some(AGENT_HUNG | AGENT_STOPPED)) => {
            wanted.push((NOT_READY, "NoSchedule"));
        }
        Some("Unknown") => {
            let (may_taint, may_evict) = match verdict {
                Verdict::Silent { evict, held } => (!held, evict && !held),
                _ => (false, false),
            };
            if may_taint || has(UNREACHABLE, "NoSchedule") {
                wanted.push((UNREACHABLE, "NoSchedule"));
            }
            if has(UNREACHABLE, "NoExecute") {
                wanted.push((UNREACHABLE, "NoExecute"));
            } else if may_evict {
                match eviction_at(view, now) {
                    at if at <= now => wanted.push((UNREACHABLE, "NoExecute")),
                    at => *requeue_at = Some(requeue_at.map_or(at, |known| known.min(at))),
                }
            }
        }
        _ if flapping => {
            wanted.extend(
                [NOT_READY, UNREACHABLE].map(|key| (key, "NoSchedule")).iter().filter(|(key, effect)| has(key, effect)),
            );
        }
        _ => {}
    }
    for (condition_type, status, key) in CONDITION_TAINTS {
        if condition(node, condition_type).is_some_and(|condition| condition.status == status) {
            wanted.push((key, "NoSchedule"));
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((scheduler::predicate::TAINT_UNSCHEDULABLE, "NoSchedule"));
    }
    let managed = |taint: &Taint| {
        let by_condition = CONDITION_TAINTS.iter().any(|(_, _, key)| *key == taint.key);
        let by_cordon = taint.key == scheduler::predicate::TAINT_UNSCHEDULABLE;
        ((by_condition || by_cordon) && taint.effect == "NoSchedule")
            || taint.key == NOT_READY
            || taint.key == UNREACHABLE
    };
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<Taint> = known.iter().filter(|taint| !managed(taint) || is_wanted(taint)).cloned().collect();
    for (key, effect) in &wanted {
        if !taints.iter().any(|taint| taint.key == *key && taint.effect == *effect) {
            taints.push(Taint {
                key: (*key).into(),
                effect: (*effect).into(),
                time_added: Some(Time(now)),
                value: None,
            });
        }
    }
    (taints != known).then(|| Action::patch_unchanged(node, "", json!({"spec": {"taints": taints}})))
}

/// When the next silent node may get `NoExecute`, as upstream slows evictions down where much of a cluster is lost: over
/// 55 % of it (and more than two nodes) ten seconds after the last one, and in clusters of up to 50 nodes not at all.
fn eviction_at(view: &View, now: Timestamp) -> Timestamp {
    let not_ready = |node: &&Arc<Node>| condition(node, "Ready").is_none_or(|ready| ready.status != "True");
    let (lost, all) = (view.nodes.all().filter(not_ready).count(), view.nodes.len());
    let fully = lost == all && all > 1;
    if !fully && (lost <= DISRUPTION_NODES_MIN || lost * 100 < all * DISRUPTION_PERCENT) {
        return now;
    }
    let later = now.checked_add(EVICTION_EVERY).unwrap_or(now);
    if fully || all <= LARGE_CLUSTER_NODES {
        return later;
    }
    let taints = view.nodes.all().flat_map(|node| node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()));
    let evicting = taints.filter(|taint| taint.key == UNREACHABLE && taint.effect == "NoExecute");
    let last = evicting.filter_map(|taint| taint.time_added.as_ref()).map(|time| time.0).max();
    last.map_or(now, |last| last.checked_add(EVICTION_EVERY).unwrap_or(now))
}

/// A pod on a lost node gets no traffic any more.
fn mark_not_ready(pod: &Pod, now: Timestamp) -> Action {
    let mut conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    for ready in conditions.iter_mut().filter(|condition| condition.type_ == "Ready") {
        ready.status = "False".into();
        ready.last_transition_time = Some(Time(now));
    }
    Action::patch_unchanged(pod, "status", json!({"status": {"conditions": conditions}}))
}
