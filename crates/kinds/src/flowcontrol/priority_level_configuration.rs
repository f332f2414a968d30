//! PriorityLevelConfiguration: how many requests of a priority run at once.

use crate::Resource;

/// The row of PriorityLevelConfiguration.
pub(super) fn row() -> Resource {
    Resource::new("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations")
        .cluster()
        .generation(&["spec"])
        .status()
}
