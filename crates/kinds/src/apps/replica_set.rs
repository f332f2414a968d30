//! ReplicaSet: a number of equal pods.

use crate::Resource;

/// The row of ReplicaSet.
pub(super) fn row() -> Resource {
    Resource::new("apps", "v1", "ReplicaSet", "replicasets")
        .short(&["rs"])
        .in_all()
        .generation(&["spec"])
        .status()
        .scale(&["spec", "selector"])
        .selectable_as("status.replicas", "status.replicas", "0")
}
