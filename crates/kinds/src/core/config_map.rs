//! ConfigMap: configuration as text.

use crate::Resource;

/// The row of ConfigMap.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "ConfigMap", "configmaps").short(&["cm"])
}
