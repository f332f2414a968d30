//! The kinds of the core group.

mod access_modes;
mod binding;
mod component_status;
mod config_map;
mod data;
mod endpoints;
mod event;
mod event_columns;
mod limit_range;
mod namespace;
mod node;
mod persistent_volume;
mod persistent_volume_claim;
mod pod;
mod pod_columns;
mod pod_defaults;
mod pod_template;
mod pod_validation;
mod replication_controller;
mod resource_quota;
mod secret;
mod service;
mod service_account;
mod service_columns;
mod service_rules;

use crate::Resource;

pub(crate) use event::Event;
pub(crate) use event_columns::columns as event_columns;
pub(crate) use pod_defaults::default_pod_spec;
pub use pod_defaults::{default_toleration_seconds, qos_class};
pub(crate) use pod_validation::validate_pod_spec;
pub(crate) use service_columns::load_balancer;

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
