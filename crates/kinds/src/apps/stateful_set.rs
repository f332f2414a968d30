//! StatefulSet: pods with identities.

use crate::Resource;

/// The row of StatefulSet.
pub(super) fn row() -> Resource {
    Resource::new("apps", "v1", "StatefulSet", "statefulsets")
        .short(&["sts"])
        .in_all()
        .generation(&["spec"])
        .status()
        .scale(&["spec", "selector"])
}
