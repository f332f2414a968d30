//! SelfSubjectReview: asks who one is.

use crate::Resource;

/// The row of SelfSubjectReview.
pub(super) fn row() -> Resource {
    Resource::new("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews").cluster().create_only()
}
