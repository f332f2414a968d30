//! FlowSchema: which requests share a flow.

use crate::Resource;

/// The row of FlowSchema.
pub(super) fn row() -> Resource {
    Resource::new("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas")
        .cluster()
        .generation(&["spec"])
        .status()
}
