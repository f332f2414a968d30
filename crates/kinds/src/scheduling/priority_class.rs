//! PriorityClass: a named priority of pods.

use crate::Resource;

/// The row of PriorityClass.
pub(super) fn row() -> Resource {
    Resource::new("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses").cluster().short(&["pc"])
}
