//! The kinds of apiextensions.k8s.io.

mod custom_resource_definition;

use crate::Resource;

/// The rows, in the order of discovery.
pub(crate) fn rows() -> Vec<Resource> {
    vec![custom_resource_definition::row()]
}
