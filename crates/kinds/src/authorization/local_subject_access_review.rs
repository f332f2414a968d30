//! LocalSubjectAccessReview: asks whether somebody may do something in a namespace.

use crate::Resource;

/// The row of LocalSubjectAccessReview.
pub(super) fn row() -> Resource {
    Resource::new("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews").create_only()
}
