//! NetworkPolicy: who may talk to a pod.

use crate::Resource;

/// The row of NetworkPolicy.
pub(super) fn row() -> Resource {
    Resource::new("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
        .short(&["netpol"])
        .generation(&["spec"])
}
