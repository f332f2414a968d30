//! Fast failover: pods that want it leave a silent node after a second, so that their controller starts others beside them.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::action::{Action, Event, Plan};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::pods;
use crate::presence::Silence;
use crate::view::{Key, Typed, View};

/// On a pod or a namespace; `klynge server --fast-failover` wants it for all.
const FAST_FAILOVER: &str = "klynge.io/fast-failover";

/// The fast failover controller. Its keys are nodes.
#[derive(Debug)]
pub struct FastFailoverController;

impl Controller for FastFailoverController {
    const NAME: &'static str = "node-controller";
    const COMPONENT: &'static str = "fast-failover-controller";
    type Memory = ();

    fn keys(_view: &View, change: Change<'_>) -> Vec<Key> {
        match (change.old, change.new) {
            (None, Some(Typed::Pod(pod))) => {
                Some(Key::new("", pods::node_name(pod))).filter(|key| !key.name.is_empty()).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn seen(_view: &View, node: &str) -> Vec<Key> {
        vec![Key::new("", node)]
    }

    fn plan(view: &View, key: &Key, _memory: &mut (), now: Timestamp) -> Plan {
        let silence = view.settings.seen.get(&key.name).and_then(|seen| seen.silence());
        if !matches!(silence, Some(Silence::Replace | Silence::Evict)) {
            return Plan::nothing();
        }
        let leaving = view
            .pods
            .indexed(&key.name)
            .filter(|pod| pods::is_active(pod) && is_wanted(view, pod) && may_have_several(view, pod));
        let why = format!("Fast failover: node {} is silent", key.name);
        let actions = leaving.flat_map(|pod| {
            let told =
                format!("Node {} is silent; a replacement is started without waiting for tolerationSeconds", key.name);
            let [condition, deletion] = pods::disrupt(pod, &why, now);
            [Action::Event(Event::normal(&**pod, "FastFailover", told)), condition, deletion]
        });
        Plan::of(actions.collect())
    }
}

fn is_wanted(view: &View, pod: &Pod) -> bool {
    let asked = |metadata| meta::annotation(metadata, FAST_FAILOVER);
    let namespace = view.namespaces.get("", meta::namespace(&pod.metadata));
    let wish = asked(&pod.metadata).or_else(|| namespace.and_then(|namespace| asked(&namespace.metadata)));
    wish.map_or(view.settings.fast_failover, |wish| wish == "true")
}

/// Whether a copy beside the old pod does no harm: its controller says so, and nothing that only one may have is used.
fn may_have_several(view: &View, pod: &Pod) -> bool {
    let Some(owner) = meta::controller_of(&pod.metadata) else { return false };
    let namespace = meta::namespace(&pod.metadata);
    let by_kind = match owner.kind.as_str() {
        "ReplicaSet" | "ReplicationController" => true,
        "Job" => {
            let spec = view.jobs.get(namespace, &owner.name).and_then(|job| job.spec.as_ref());
            spec.is_some_and(|spec| spec.backoff_limit_per_index.is_none())
        }
        _ => false,
    };
    by_kind && !pods::is_at_most_once(view, pod)
}
