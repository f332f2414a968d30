//! CSIStorageCapacity: how much storage a topology segment has left.

use crate::Resource;
use crate::cells;
use object::table::Column;

/// The row of CSIStorageCapacity.
pub(super) fn row() -> Resource {
    Resource::new("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities").with_columns(vec![
        Column::name(),
        Column::new("StorageClassName", |capacity, _| cells::text(capacity, &["storageClassName"])),
        Column::new("Capacity", |capacity, _| cells::text_or(capacity, &["capacity"], "<unset>")),
    ])
}
