//! The kinds of storagemigration.k8s.io.

mod storage_version_migration;

use crate::Resource;

/// The rows, in the order of discovery.
pub(crate) fn rows() -> Vec<Resource> {
    vec![storage_version_migration::row()]
}
