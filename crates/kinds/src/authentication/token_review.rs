//! TokenReview: asks whom a token belongs to.

use crate::Resource;

/// The row of TokenReview.
pub(super) fn row() -> Resource {
    Resource::new("authentication.k8s.io", "v1", "TokenReview", "tokenreviews").cluster().create_only()
}
