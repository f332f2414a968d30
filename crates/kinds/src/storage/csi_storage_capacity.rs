//! CSIStorageCapacity: how much storage a topology segment has left.

use crate::Resource;

/// The row of CSIStorageCapacity.
pub(super) fn row() -> Resource {
    Resource::new("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities")
}
