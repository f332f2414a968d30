//! VolumeAttributesClass: changeable attributes of volumes.

use crate::Resource;

/// The row of VolumeAttributesClass.
pub(super) fn row() -> Resource {
    Resource::new("storage.k8s.io", "v1", "VolumeAttributesClass", "volumeattributesclasses").cluster().short(&["vac"])
}
