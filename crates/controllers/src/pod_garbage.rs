//! Pods that no node will ever finish: bound to a node that is gone, or deleted before they were bound.

use jiff::{SignedDuration, Timestamp};

use crate::action::{Action, Plan};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::pods;
use crate::view::{Key, Typed, View};

/// A node that was just removed may come back under the same name.
const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The pod garbage collector. Its keys are pods.
#[derive(Debug)]
pub struct PodGarbageCollector;

/// Since when the pod's node has been absent.
#[derive(Debug, Default)]
pub struct Memory {
    absent_since: Option<Timestamp>,
}

impl Controller for PodGarbageCollector {
    const NAME: &'static str = "pod-garbage-collector";
    type Memory = Memory;

    fn keys(view: &View, change: Change<'_>) -> Vec<Key> {
        match (change.old, change.new) {
            (old, Some(Typed::Pod(pod))) if old.is_none() || meta::is_deleting(&pod.metadata) => {
                vec![Key::of(&pod.metadata)]
            }
            (Some(Typed::Node(node)), None) => {
                view.pods.indexed(meta::name(&node.metadata)).map(|pod| Key::of(&pod.metadata)).collect()
            }
            (Some(Typed::Node(old)), Some(Typed::Node(node))) if old.spec != node.spec => view
                .pods
                .indexed(meta::name(&node.metadata))
                .filter(|pod| meta::is_deleting(&pod.metadata))
                .map(|pod| Key::of(&pod.metadata))
                .collect(),
            _ => Vec::new(),
        }
    }

    fn plan(view: &View, key: &Key, memory: &mut Memory, now: Timestamp) -> Plan {
        let Some(pod) = view.pods.at(key) else { return Plan::nothing() };
        let node_name = pods::node_name(pod);
        if node_name.is_empty() {
            let actions = if meta::is_deleting(&pod.metadata) { vec![Action::delete_now(&**pod)] } else { Vec::new() };
            return Plan::of(actions);
        }
        match view.nodes.get("", node_name) {
            None => {
                let since = *memory.absent_since.get_or_insert(now);
                let at = since.checked_add(QUARANTINE).unwrap_or(now);
                let mut plan = Plan::default();
                if at > now {
                    plan.requeue_at(at)
                } else {
                    plan.actions.push(Action::delete_now(&**pod))
                }
                plan
            }
            Some(node) => {
                memory.absent_since = None;
                let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
                let fenced = taints.iter().any(|taint| taint.key == OUT_OF_SERVICE);
                let ready = node
                    .status
                    .iter()
                    .flat_map(|status| status.conditions.iter().flatten())
                    .any(|condition| condition.type_ == "Ready" && condition.status == "True");
                let actions = if fenced && !ready && meta::is_deleting(&pod.metadata) {
                    vec![Action::delete_now(&**pod)]
                } else {
                    Vec::new()
                };
                Plan::of(actions)
            }
        }
    }
}
