//! LimitRange: bounds and defaults for resources in a namespace.

use crate::Resource;

/// The row of LimitRange.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "LimitRange", "limitranges").short(&["limits"]).creatable_by_update()
}
