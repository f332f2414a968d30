//! The kinds of node.k8s.io.

mod runtime_class;

use crate::Resource;

/// The rows, in the order of discovery.
pub(crate) fn rows() -> Vec<Resource> {
    vec![runtime_class::row()]
}
