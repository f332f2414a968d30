//! ComponentStatus: the health of control plane parts, kept for old clients.

use crate::Resource;

/// The row of ComponentStatus.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "ComponentStatus", "componentstatuses")
        .cluster()
        .short(&["cs"])
        .with_verbs(&["get", "list"])
}
