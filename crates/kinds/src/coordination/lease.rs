//! Lease: who leads, and until when.

use crate::Resource;

/// The row of Lease.
pub(super) fn row() -> Resource {
    Resource::new("coordination.k8s.io", "v1", "Lease", "leases").creatable_by_update()
}
