//! Why no node takes a pod: reasons per node, counted and worded as upstream does.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;

/// Why one node refuses a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Unschedulable,
    NodeName,
    Taints,
    NodeAffinity,
    Ports,
    TooManyPods,
    /// `never`: the node could not take the pod even if it were empty.
    Insufficient {
        resource: Arc<str>,
        never: bool,
    },
    Spread,
    SpreadLabelMissing,
    PodAffinity,
    PodAntiAffinity,
    ExistingPodAntiAffinity,
}

impl Refusal {
    fn text(&self) -> String {
        match self {
            Self::Unschedulable => "node(s) were unschedulable".into(),
            Self::NodeName => "node(s) didn't match the requested node name".into(),
            Self::Taints => "node(s) had untolerated taint(s)".into(),
            Self::NodeAffinity => "node(s) didn't match Pod's node affinity/selector".into(),
            Self::Ports => "node(s) didn't have free ports for the requested pod ports".into(),
            Self::TooManyPods => "Too many pods".into(),
            Self::Insufficient { resource, .. } => format!("Insufficient {resource}"),
            Self::Spread => "node(s) didn't match pod topology spread constraints".into(),
            Self::SpreadLabelMissing => {
                "node(s) didn't match pod topology spread constraints (missing required label)".into()
            }
            Self::PodAffinity => "node(s) didn't match pod affinity rules".into(),
            Self::PodAntiAffinity => "node(s) didn't match pod anti-affinity rules".into(),
            Self::ExistingPodAntiAffinity => "node(s) didn't satisfy existing pods anti-affinity rules".into(),
        }
    }

    /// Whether removing pods from the node could change the answer.
    fn removing_pods_helps(&self) -> bool {
        match self {
            Self::Unschedulable
            | Self::NodeName
            | Self::Taints
            | Self::NodeAffinity
            | Self::SpreadLabelMissing
            | Self::PodAffinity => false,
            Self::Insufficient { never, .. } => !never,
            Self::Ports | Self::TooManyPods | Self::Spread | Self::PodAntiAffinity | Self::ExistingPodAntiAffinity => {
                true
            }
        }
    }
}

pub(crate) fn explain(
    info: &PodInfo,
    refusals: &[(u32, Vec<Refusal>)],
    snapshot: &Snapshot,
) -> (Arc<str>, Arc<BTreeMap<String, usize>>) {
    if refusals.is_empty() {
        return ("no nodes available to schedule pods".into(), Arc::default());
    }
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for refusal in refusals.iter().flat_map(|(_, refusals)| refusals) {
        *reasons.entry(refusal.text()).or_default() += 1;
    }
    let mut message = available(refusals.len(), &reasons);
    if let Some(preemption) = preemption(info, refusals, snapshot) {
        // Two plug-ins look for a way out: the one for resource claims, of which no pod has any here, and preemption.
        message.push_str(" no new claims to deallocate, preemption: ");
        message.push_str(&preemption);
    }
    (message.into(), Arc::new(reasons))
}

fn available(nodes: usize, reasons: &BTreeMap<String, usize>) -> String {
    let mut parts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}

/// What can be said about preemption. Where victims exist nothing is said, because none are preempted yet.
fn preemption(info: &PodInfo, refusals: &[(u32, Vec<Refusal>)], snapshot: &Snapshot) -> Option<String> {
    let policy = info.pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref());
    if policy == Some("Never") {
        return Some("not eligible due to preemptionPolicy=Never.".into());
    }
    let mut lowest_priority: HashMap<u32, i32> = HashMap::new();
    for placed in snapshot.pods.values() {
        let lowest = lowest_priority.entry(placed.slot).or_insert(i32::MAX);
        *lowest = (*lowest).min(placed.info.priority());
    }
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for (slot, refusals) in refusals {
        let reason = if refusals.iter().any(|refusal| !refusal.removing_pods_helps()) {
            "Preemption is not helpful for scheduling"
        } else if lowest_priority.get(slot).is_some_and(|lowest| *lowest < info.priority()) {
            return None;
        } else {
            "No preemption victims found for incoming pod"
        };
        *reasons.entry(reason.into()).or_default() += 1;
    }
    Some(available(refusals.len(), &reasons))
}
