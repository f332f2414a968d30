//! Binding: assigns a pod to a node.

use crate::Resource;

/// The row of Binding.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "Binding", "bindings").create_only()
}
