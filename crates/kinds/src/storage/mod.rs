//! The kinds of storage.k8s.io.

mod csi_driver;
mod csi_node;
mod csi_storage_capacity;
mod storage_class;
mod volume_attachment;
mod volume_attributes_class;

use crate::Resource;

/// The rows, in the order of discovery.
pub(crate) fn rows() -> Vec<Resource> {
    vec![
        csi_driver::row(),
        csi_node::row(),
        csi_storage_capacity::row(),
        storage_class::row(),
        volume_attachment::row(),
        volume_attributes_class::row(),
    ]
}
