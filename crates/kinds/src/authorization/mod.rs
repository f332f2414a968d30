//! The kinds of authorization.k8s.io.

mod local_subject_access_review;
mod self_subject_access_review;
mod self_subject_rules_review;
mod subject_access_review;

use crate::Resource;

/// The rows, in the order of discovery.
pub(crate) fn rows() -> Vec<Resource> {
    vec![
        local_subject_access_review::row(),
        self_subject_access_review::row(),
        self_subject_rules_review::row(),
        subject_access_review::row(),
    ]
}
