//! RuntimeClass: how containers are run.

use crate::Resource;

/// The row of RuntimeClass.
pub(super) fn row() -> Resource {
    Resource::new("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses").cluster()
}
