//! ReplicationController: the replicas of a pod, in the form before ReplicaSet.

use crate::Resource;

/// The row of ReplicationController.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "ReplicationController", "replicationcontrollers")
        .short(&["rc"])
        .in_all()
        .generation(&["spec"])
        .status()
        .scale(&["spec", "selector"])
        .selectable_as("status.replicas", "status.replicas", "0")
}
