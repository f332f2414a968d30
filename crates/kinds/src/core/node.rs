//! Node: a machine.

use crate::row::{PROXY_VERBS, Resource, Role};
use object::GroupVersionKind;

/// The row of Node.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "Node", "nodes")
        .status_on_create()
        .cluster()
        .short(&["no"])
        .status()
        .with_subresource("proxy", Role::Proxy, GroupVersionKind::parse("v1", "NodeProxyOptions"), &PROXY_VERBS)
        .selectable_as("spec.unschedulable", "spec.unschedulable", "false")
}
