//! The entry point: pending pods in, decisions out, in queue order.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::batch::Batch;
use crate::snapshot::Snapshot;

/// What placement depends on besides the snapshot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parameters {
    /// Breaks ties between equally good nodes; the same seed and snapshot give the same decisions.
    pub seed: u64,
}

/// What should happen to one pending pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Bind the pod to the node.
    Bind {
        /// The pod.
        pod: Arc<Pod>,
        /// The node's name.
        node: Arc<str>,
    },
    /// No node can take the pod now.
    Unschedulable {
        /// The pod.
        pod: Arc<Pod>,
        /// The message of the FailedScheduling event and of the PodScheduled condition, in upstream's words.
        message: Arc<str>,
        /// On how many nodes each reason stands.
        reasons: Arc<BTreeMap<String, usize>>,
    },
    /// The pod carries scheduling gates and is not considered until they are gone.
    Gated {
        /// The pod.
        pod: Arc<Pod>,
    },
}

impl Decision {
    /// The pod that is decided on.
    pub fn pod(&self) -> &Arc<Pod> {
        match self {
            Self::Bind { pod, .. } | Self::Unschedulable { pod, .. } | Self::Gated { pod } => pod,
        }
    }
}

/// Decides for each pending pod where it goes. Pods are taken by priority, then by age; each sees the places that the
/// pods before it received. Nothing is changed in the snapshot: the caller assumes what it commits.
pub fn place(snapshot: &Snapshot, pods: &[Arc<Pod>], parameters: Parameters) -> Vec<Decision> {
    let mut queue: Vec<&Arc<Pod>> = pods.iter().collect();
    let priority = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
    queue.sort_by(|left, right| {
        let by_priority = priority(right).cmp(&priority(left));
        by_priority.then_with(|| left.metadata.creation_timestamp.cmp(&right.metadata.creation_timestamp))
    });
    let mut batch = Batch::new(snapshot, parameters.seed);
    queue
        .into_iter()
        .map(|pod| if is_gated(pod) { Decision::Gated { pod: pod.clone() } } else { batch.decide(pod) })
        .collect()
}

fn is_gated(pod: &Pod) -> bool {
    let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref());
    gates.is_some_and(|gates| !gates.is_empty())
}
