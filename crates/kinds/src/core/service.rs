//! Service: one address for many pods.

use crate::row::{NameRule, PROXY_VERBS, Resource, Role};
use object::GroupVersionKind;

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
}
