//! The kinds of resource.k8s.io.

mod device_class;
mod device_taint_rule;
mod resource_claim;
mod resource_claim_template;
mod resource_slice;

use crate::Resource;

/// The rows, in the order of discovery.
pub(crate) fn rows() -> Vec<Resource> {
    vec![
        device_class::row(),
        device_taint_rule::row(),
        resource_claim::row(),
        resource_claim_template::row(),
        resource_slice::row(),
    ]
}
