//! The kinds of discovery.k8s.io.

mod endpoint_slice;

use crate::Resource;

/// The rows, in the order of discovery.
pub(crate) fn rows() -> Vec<Resource> {
    vec![endpoint_slice::row()]
}
