//! The kinds of flowcontrol.apiserver.k8s.io.

mod flow_schema;
mod priority_level_configuration;

use crate::Resource;

/// The rows, in the order of discovery.
pub(crate) fn rows() -> Vec<Resource> {
    vec![flow_schema::row(), priority_level_configuration::row()]
}
