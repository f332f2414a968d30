//! VolumeAttachment: a volume attached to a node.

use crate::Resource;

/// The row of VolumeAttachment.
pub(super) fn row() -> Resource {
    Resource::new("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments").cluster().status()
}
