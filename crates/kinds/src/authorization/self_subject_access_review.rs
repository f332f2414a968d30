//! SelfSubjectAccessReview: asks whether one may do something.

use crate::Resource;

/// The row of SelfSubjectAccessReview.
pub(super) fn row() -> Resource {
    Resource::new("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews")
        .cluster()
        .create_only()
}
