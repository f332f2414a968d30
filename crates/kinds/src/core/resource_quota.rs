//! ResourceQuota: what a namespace may use.

use crate::Resource;

/// The row of ResourceQuota.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "ResourceQuota", "resourcequotas").short(&["quota"]).status().creatable_by_update()
}
