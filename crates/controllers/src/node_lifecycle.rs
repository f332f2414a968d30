//! Node lifecycle: a silent node becomes unknown, conditions become taints, and pods of a lost node stop being ready.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use crate::action::{Action, Event, Plan};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::pods;
use crate::view::{Key, Typed, View};

const LEASES: &str = "kube-node-lease";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
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
    sign: Option<Timestamp>,
    seen_at: Option<Timestamp>,
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

    fn plan(view: &View, key: &Key, memory: &mut Memory, now: Timestamp) -> Plan {
        let Some(node) = view.nodes.at(key) else { return Plan::nothing() };
        let lease = view.leases.get(LEASES, &key.name).and_then(|lease| lease.spec.as_ref());
        let renewed = lease.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
        let heartbeat =
            condition(node, "Ready").and_then(|ready| ready.last_heartbeat_time.as_ref()).map(|time| time.0);
        let sign = renewed.max(heartbeat);
        if memory.seen_at.is_none() || memory.sign != sign {
            (memory.sign, memory.seen_at) = (sign, Some(now));
        }
        let seconds = lease.and_then(|spec| spec.lease_duration_seconds).map_or(GRACE_SECONDS, i64::from);
        let silent_at = memory.seen_at.unwrap_or(now).checked_add(SignedDuration::from_secs(seconds)).unwrap_or(now);
        let mut plan = Plan::default();
        let mut node = (**node).clone();
        if now >= silent_at {
            let changed = mark_unknown(&mut node, now);
            if changed {
                plan.actions.push(Action::update_status(&node));
                plan.actions.push(Action::Event(Event::normal(
                    &node,
                    "NodeNotReady",
                    format!("Node {} status is now: NodeNotReady", key.name),
                )));
                // What follows from it is planned when the new status is seen.
                return plan;
            }
        } else {
            plan.requeue_at(silent_at);
        }
        plan.actions.extend(taint(&node, now));
        if condition(&node, "Ready").is_some_and(|ready| ready.status != "True") {
            let ready_pods = view.pods.indexed(&key.name).filter(|pod| pods::is_ready(pod) && pods::is_active(pod));
            plan.actions.extend(ready_pods.flat_map(|pod| mark_not_ready(pod, now)));
        }
        plan
    }
}

fn condition<'a>(node: &'a Node, condition_type: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == condition_type)
}

/// Says of every condition that the node reports itself that nobody knows. `false` if that is said already.
fn mark_unknown(node: &mut Node, now: Timestamp) -> bool {
    let created = node.metadata.creation_timestamp.clone();
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for condition_type in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        match conditions.iter_mut().find(|condition| condition.type_ == condition_type) {
            Some(condition) if condition.status != "Unknown" => {
                condition.status = "Unknown".into();
                condition.reason = Some("NodeStatusUnknown".into());
                condition.message = Some("Kubelet stopped posting node status.".into());
                condition.last_transition_time = Some(Time(now));
                changed = true;
            }
            Some(_) => {}
            None => {
                conditions.push(NodeCondition {
                    type_: condition_type.into(),
                    status: "Unknown".into(),
                    reason: Some("NodeStatusNeverUpdated".into()),
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
fn taint(node: &Node, now: Timestamp) -> Option<Action> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match condition(node, "Ready").map(|ready| ready.status.as_str()) {
        Some("False") => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        Some("Unknown") => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
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
    let known = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
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

/// A pod on a lost node gets no traffic any more.
fn mark_not_ready(pod: &Pod, now: Timestamp) -> Vec<Action> {
    let mut conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    for ready in conditions.iter_mut().filter(|condition| condition.type_ == "Ready") {
        ready.status = "False".into();
        ready.last_transition_time = Some(Time(now));
    }
    let patch = Action::patch_unchanged(pod, "status", json!({"status": {"conditions": conditions}}));
    vec![patch, Action::Event(Event::warning(pod, "NodeNotReady", "Node is not ready"))]
}
