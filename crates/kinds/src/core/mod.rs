//! The kinds of the core group.

mod binding;
mod component_status;
mod config_map;
mod endpoints;
mod event;
mod limit_range;
mod namespace;
mod node;
mod persistent_volume;
mod persistent_volume_claim;
mod pod;
mod pod_template;
mod replication_controller;
mod resource_quota;
mod secret;
mod service;
mod service_account;

use crate::Resource;

/// The rows, in the order of discovery.
pub(crate) fn rows() -> Vec<Resource> {
    vec![
        binding::row(),
        component_status::row(),
        config_map::row(),
        endpoints::row(),
        event::row(),
        limit_range::row(),
        namespace::row(),
        node::row(),
        persistent_volume_claim::row(),
        persistent_volume::row(),
        pod::row(),
        pod_template::row(),
        replication_controller::row(),
        resource_quota::row(),
        secret::row(),
        service_account::row(),
        service::row(),
    ]
}
