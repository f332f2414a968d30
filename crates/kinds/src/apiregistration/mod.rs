//! The kinds of apiregistration.k8s.io.

mod api_service;

use crate::Resource;

/// The rows, in the order of discovery.
pub(crate) fn rows() -> Vec<Resource> {
    vec![api_service::row()]
}
