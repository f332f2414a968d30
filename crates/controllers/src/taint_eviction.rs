//! Taint eviction: pods leave a node whose NoExecute taints they do not tolerate, or not for ever.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

use crate::action::{Action, Event, Plan};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::pods;
use crate::view::{Key, Typed, View};

/// The taint eviction controller. Its keys are pods.
#[derive(Debug)]
pub struct TaintEvictionController;

/// Since when a taint without a time of its own has been seen.
#[derive(Debug, Default)]
pub struct Memory {
    first_seen: Option<Timestamp>,
    /// Whether the pod's eviction is set for a later time.
    pending: bool,
}

impl Controller for TaintEvictionController {
    const NAME: &'static str = "node-controller";
    const COMPONENT: &'static str = "taint-eviction-controller";
    type Memory = Memory;

    fn keys(view: &View, change: Change<'_>) -> Vec<Key> {
        match (change.old, change.new) {
            (old, Some(Typed::Pod(pod))) => {
                let moved = !matches!(old, Some(Typed::Pod(old)) if pods::node_name(old) == pods::node_name(pod) && tolerations(old) == tolerations(pod));
                if moved && !pods::node_name(pod).is_empty() { vec![Key::of(&pod.metadata)] } else { Vec::new() }
            }
            (old, Some(Typed::Node(node))) => {
                let old = match old {
                    Some(Typed::Node(old)) => old.spec.as_ref().and_then(|spec| spec.taints.clone()),
                    _ => None,
                };
                let new = node.spec.as_ref().and_then(|spec| spec.taints.clone());
                if old == new {
                    return Vec::new();
                }
                view.pods.indexed(meta::name(&node.metadata)).map(|pod| Key::of(&pod.metadata)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn plan(view: &View, key: &Key, memory: &mut Memory, now: Timestamp) -> Plan {
        let Some(pod) = view.pods.at(key).filter(|pod| pods::is_active(pod)) else { return Plan::nothing() };
        let Some(node) = view.nodes.get("", pods::node_name(pod)) else { return Plan::nothing() };
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let mut evict_at: Option<Timestamp> = None;
        for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
            let since = taint.time_added.as_ref().map_or_else(|| *memory.first_seen.get_or_insert(now), |time| time.0);
            let Some(at) = tolerated_until(taint, tolerations(pod), since) else { continue };
            evict_at = Some(evict_at.map_or(at, |known| known.min(at)));
        }
        let mut plan = Plan::default();
        match evict_at {
            None => {
                memory.first_seen = None;
                if std::mem::take(&mut memory.pending) {
                    plan.actions.push(tell(pod, "Cancelling deletion of Pod"));
                }
            }
            Some(at) if at > now => {
                memory.pending = true;
                plan.requeue_at(at);
            }
            Some(_) => plan.actions = evict(pod, now),
        }
        plan
    }
}

fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}

/// When the taint drives the pod out; `None` for never.
fn tolerated_until(taint: &Taint, tolerations: &[Toleration], since: Timestamp) -> Option<Timestamp> {
    let matching: Vec<&Toleration> =
        tolerations.iter().filter(|toleration| scheduler::predicate::tolerates(toleration, taint)).collect();
    if matching.is_empty() {
        return Some(Timestamp::MIN);
    }
    let shortest = matching.iter().filter_map(|toleration| toleration.toleration_seconds).min()?;
    Some(since.checked_add(SignedDuration::from_secs(shortest.max(0))).unwrap_or(Timestamp::MAX))
}

fn evict(pod: &Pod, now: Timestamp) -> Vec<Action> {
    let [condition, deletion] = pods::disrupt(pod, "Taint manager: deleting due to NoExecute taint", now);
    vec![tell(pod, "Marking for deletion Pod"), condition, deletion]
}

fn tell(pod: &Pod, what: &str) -> Action {
    let message = format!("{what} {}/{}", meta::namespace(&pod.metadata), meta::name(&pod.metadata));
    Action::Event(Event::normal(pod, "TaintManagerEviction", message))
}
