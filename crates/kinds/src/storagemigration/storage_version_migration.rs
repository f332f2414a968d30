//! StorageVersionMigration: rewrites stored objects in the storage version.

use crate::Resource;

/// The row of StorageVersionMigration.
pub(super) fn row() -> Resource {
    Resource::new("storagemigration.k8s.io", "v1", "StorageVersionMigration", "storageversionmigrations")
        .cluster()
        .status()
}
