//! DaemonSet: a pod on every node.

use crate::Resource;

/// The row of DaemonSet.
pub(super) fn row() -> Resource {
    Resource::new("apps", "v1", "DaemonSet", "daemonsets")
        .short(&["ds"])
        .in_all()
        .generation(&["spec"])
        .status()
}
