//! The kinds of policy.

mod pod_disruption_budget;

use crate::Resource;

/// The rows, in the order of discovery.
pub(crate) fn rows() -> Vec<Resource> {
    vec![pod_disruption_budget::row()]
}
