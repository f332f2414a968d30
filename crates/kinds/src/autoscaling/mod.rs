//! The kinds of autoscaling.

mod horizontal_pod_autoscaler;
mod targets;

use crate::Resource;

/// The rows, in the order of discovery.
pub(crate) fn rows() -> Vec<Resource> {
    vec![horizontal_pod_autoscaler::row()]
}
