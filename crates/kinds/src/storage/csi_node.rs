//! CSINode: the storage drivers of a node.

use crate::Resource;

/// The row of CSINode.
pub(super) fn row() -> Resource {
    Resource::new("storage.k8s.io", "v1", "CSINode", "csinodes").cluster()
}
