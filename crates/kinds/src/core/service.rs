//! Service: one address for many pods.

use super::service_columns::columns;
use super::service_rules::{default_service, keep_allocated, validate_service, validate_service_update};
use crate::Hooks;
use crate::row::{NameRule, PROXY_VERBS, Resource, Role};
use object::GroupVersionKind;
use object::{Cause, Value};

/// The row of Service.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "Service", "services")
        .short(&["svc"])
        .in_all()
        .names(NameRule::Label1035)
        .creatable_by_update()
        .status()
        .with_subresource("proxy", Role::Proxy, GroupVersionKind::parse("v1", "ServiceProxyOptions"), &PROXY_VERBS)
        .selectable_as("spec.clusterIP", "spec.clusterIP", "")
        .selectable_as("spec.type", "spec.type", "")
        .with_columns(columns())
        .with_hooks(Service)
}

struct Service;

impl Hooks for Service {
    fn default(&self, service: &mut Value) {
        default_service(service);
    }

    fn prepare_create(&self, service: &mut Value) {
        service.set(&["status"], crate::edit::empty());
        service.set(&["status", "loadBalancer"], crate::edit::empty());
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        keep_allocated(new, old);
    }

    fn validate(&self, service: &Value) -> Vec<Cause> {
        validate_service(service)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        validate_service_update(new, old)
    }
}
