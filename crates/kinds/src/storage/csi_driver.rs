//! CSIDriver: a storage driver.

use crate::Resource;

/// The row of CSIDriver.
pub(super) fn row() -> Resource {
    Resource::new("storage.k8s.io", "v1", "CSIDriver", "csidrivers").cluster()
}
