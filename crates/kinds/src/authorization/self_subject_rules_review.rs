//! SelfSubjectRulesReview: asks what one may do in a namespace.

use crate::Resource;

/// The row of SelfSubjectRulesReview.
pub(super) fn row() -> Resource {
    Resource::new("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews")
        .cluster()
        .create_only()
}
