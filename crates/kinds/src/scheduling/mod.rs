//! The kinds of scheduling.k8s.io.

mod priority_class;

use crate::Resource;

/// The rows, in the order of discovery.
pub(crate) fn rows() -> Vec<Resource> {
    vec![priority_class::row()]
}
