//! ControllerRevision: an earlier state of a DaemonSet or StatefulSet.

use crate::Resource;

/// The row of ControllerRevision.
pub(super) fn row() -> Resource {
    Resource::new("apps", "v1", "ControllerRevision", "controllerrevisions")
}
