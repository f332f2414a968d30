//! DeviceTaintRule: taints for devices.

use crate::Resource;

/// The row of DeviceTaintRule.
pub(super) fn row() -> Resource {
    Resource::new("resource.k8s.io", "v1", "DeviceTaintRule", "devicetaintrules")
        .cluster()
        .generation(&["spec"])
        .status()
}
