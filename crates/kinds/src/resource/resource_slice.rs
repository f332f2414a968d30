//! ResourceSlice: the devices of a node or pool.

use crate::Resource;

/// The row of ResourceSlice.
pub(super) fn row() -> Resource {
    Resource::new("resource.k8s.io", "v1", "ResourceSlice", "resourceslices")
        .cluster()
        .generation(&["spec"])
        .selectable("spec.nodeName")
        .selectable("spec.driver")
}
