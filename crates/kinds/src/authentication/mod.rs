//! The kinds of authentication.k8s.io.

mod self_subject_review;
mod token_review;

use crate::Resource;

/// The rows, in the order of discovery.
pub(crate) fn rows() -> Vec<Resource> {
    vec![self_subject_review::row(), token_review::row()]
}
