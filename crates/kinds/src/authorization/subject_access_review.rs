//! SubjectAccessReview: asks whether somebody may do something.

use crate::Resource;

/// The row of SubjectAccessReview.
pub(super) fn row() -> Resource {
    Resource::new("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews").cluster().create_only()
}
