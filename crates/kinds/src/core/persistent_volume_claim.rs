//! PersistentVolumeClaim: a wish for storage.

use crate::Resource;

/// The row of PersistentVolumeClaim.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims").short(&["pvc"]).status()
}
