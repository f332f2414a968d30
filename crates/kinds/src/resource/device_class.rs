//! DeviceClass: a class of devices.

use crate::Resource;

/// The row of DeviceClass.
pub(super) fn row() -> Resource {
    Resource::new("resource.k8s.io", "v1", "DeviceClass", "deviceclasses").cluster().generation(&["spec"])
}
