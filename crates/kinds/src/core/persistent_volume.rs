//! PersistentVolume: a piece of storage.

use crate::Resource;

/// The row of PersistentVolume.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "PersistentVolume", "persistentvolumes").cluster().short(&["pv"]).status()
}
