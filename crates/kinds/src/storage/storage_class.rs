//! StorageClass: how volumes are provisioned.

use crate::Resource;

/// The row of StorageClass.
pub(super) fn row() -> Resource {
    Resource::new("storage.k8s.io", "v1", "StorageClass", "storageclasses")
        .cluster()
        .short(&["sc"])
        .creatable_by_update()
}
