//! The kinds of coordination.k8s.io.

mod lease;

use crate::Resource;

/// The rows, in the order of discovery.
pub(crate) fn rows() -> Vec<Resource> {
    vec![lease::row()]
}
