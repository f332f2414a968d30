//! PodTemplate: a stored pod template.

use crate::Resource;

/// The row of PodTemplate.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "PodTemplate", "podtemplates").generation(&["template"])
}
