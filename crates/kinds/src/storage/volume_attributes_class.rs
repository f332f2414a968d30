//! VolumeAttributesClass: changeable attributes of volumes.

use crate::Resource;
use crate::cells;
use object::table::Column;

/// The row of VolumeAttributesClass.
pub(super) fn row() -> Resource {
    Resource::new("storage.k8s.io", "v1", "VolumeAttributesClass", "volumeattributesclasses")
        .cluster()
        .short(&["vac"])
        .with_columns(vec![
            Column::name(),
            Column::new("DriverName", |class, _| cells::text(class, &["driverName"])),
            Column::age(),
        ])
}
