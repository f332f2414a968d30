//! Pod: containers that share a network and a fate.

use crate::row::{PROXY_VERBS, Resource, Role};
use object::GroupVersionKind;

/// The row of Pod.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "Pod", "pods")
        .short(&["po"])
        .in_all()
        .generation(&["spec"])
        .status()
        .own_subresource("ephemeralcontainers", Role::EphemeralContainers)
        .own_subresource("resize", Role::Resize)
        .with_subresource("attach", Role::Attach, GroupVersionKind::parse("v1", "PodAttachOptions"), &["create", "get"])
        .with_subresource("binding", Role::Binding, GroupVersionKind::parse("v1", "Binding"), &["create"])
        .with_subresource("eviction", Role::Eviction, GroupVersionKind::parse("policy/v1", "Eviction"), &["create"])
        .with_subresource("exec", Role::Exec, GroupVersionKind::parse("v1", "PodExecOptions"), &["create", "get"])
        .with_subresource("log", Role::Log, GroupVersionKind::parse("v1", "Pod"), &["get"])
        .with_subresource(
            "portforward",
            Role::PortForward,
            GroupVersionKind::parse("v1", "PodPortForwardOptions"),
            &["create", "get"],
        )
        .with_subresource("proxy", Role::Proxy, GroupVersionKind::parse("v1", "PodProxyOptions"), &PROXY_VERBS)
        .selectable("spec.nodeName")
        .selectable("spec.restartPolicy")
        .selectable("spec.schedulerName")
        .selectable("spec.serviceAccountName")
        .selectable_as("spec.hostNetwork", "spec.hostNetwork", "false")
        .selectable("status.phase")
        .selectable("status.podIP")
        .selectable("status.nominatedNodeName")
}
