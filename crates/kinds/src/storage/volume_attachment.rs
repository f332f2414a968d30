//! VolumeAttachment: a volume attached to a node.

use crate::Resource;
use crate::cells;
use object::Value;
use object::table::Column;

/// The row of VolumeAttachment.
pub(super) fn row() -> Resource {
    Resource::new("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments").cluster().status().with_columns(
        vec![
            Column::name(),
            Column::new("Attacher", |one, _| cells::text(one, &["spec", "attacher"])),
            Column::new("PV", |one, _| cells::text(one, &["spec", "source", "persistentVolumeName"])),
            Column::new("Node", |one, _| cells::text(one, &["spec", "nodeName"])),
            Column::new("Attached", |one, _| Value::Bool(cells::flag(one, &["status", "attached"]))).of("boolean"),
            Column::age(),
        ],
    )
}
