//! Which pods stand behind a Service, and by which ports: shared by Endpoints and EndpointSlices.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use scheduler::selector::Selector;

use crate::controller::Change;
use crate::meta;
use crate::pods;
use crate::view::{Key, Typed, View};

/// A Service's own label on what belongs to a headless Service.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

pub(crate) fn selector(service: &Service) -> Option<Selector> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|selector| !selector.is_empty()).map(Selector::from_labels)
}

pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

pub(crate) fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

/// Pods that a Service selects, that have an address and have not ended.
pub(crate) fn backends(view: &View, service: &Service, selector: &Selector) -> Vec<Arc<Pod>> {
    let pods = view.pods.in_namespace(meta::namespace(&service.metadata));
    let behind = pods.filter(|pod| {
        selector.matches(pod.metadata.labels.as_ref()) && !scheduler::is_terminal(pod) && address(pod, false).is_some()
    });
    behind.cloned().collect()
}

/// The pod's address of a family (IPv6 if `v6`); its first address if only that one is known.
pub(crate) fn address(pod: &Pod, v6: bool) -> Option<&str> {
    let status = pod.status.as_ref()?;
    let listed = status.pod_ips.iter().flatten().map(|address| address.ip.as_str());
    let mut all = listed.chain(status.pod_ip.as_deref()).filter(|address| !address.is_empty());
    if v6 { all.find(|address| address.contains(':')) } else { all.find(|address| !address.contains(':')) }
}

/// The pod's name in the Service's domain, if it has one.
pub(crate) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let in_domain = spec.subdomain.as_deref() == service.metadata.name.as_deref();
    spec.hostname.clone().filter(|hostname| in_domain && !hostname.is_empty())
}

/// The number that a Service's port leads to in this pod.
pub(crate) fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => named_port(pod, name, port.protocol.as_deref().unwrap_or("TCP")),
    }
}

fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars =
        spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports =
        spec.containers.iter().chain(sidecars).flat_map(|container: &Container| container.ports.iter().flatten());
    let mut named = ports
        .filter(|port| port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol);
    named.next().map(|port| port.container_port)
}

/// The Services that a change of a Service or a pod concerns.
pub(crate) fn services_concerned(view: &View, change: Change<'_>) -> Vec<Key> {
    if let (Some(Typed::Pod(old)), Some(Typed::Pod(new))) = (change.old, change.new)
        && same_to_services(old, new)
    {
        return Vec::new();
    }
    let mut keys = Vec::new();
    for side in change.sides() {
        match side {
            Typed::Service(service) => keys.push(Key::of(&service.metadata)),
            Typed::Pod(pod) => {
                let services = view.services.in_namespace(meta::namespace(&pod.metadata));
                let selecting = services.filter(|service| {
                    selector(service).is_some_and(|selector| selector.matches(pod.metadata.labels.as_ref()))
                });
                keys.extend(selecting.map(|service| Key::of(&service.metadata)));
            }
            _ => {}
        }
    }
    keys
}

fn same_to_services(old: &Pod, new: &Pod) -> bool {
    let addresses = |pod: &Pod| pod.status.as_ref().map(|status| (status.pod_ip.clone(), status.pod_ips.clone()));
    old.metadata.labels == new.metadata.labels
        && old.metadata.uid == new.metadata.uid
        && meta::is_deleting(&old.metadata) == meta::is_deleting(&new.metadata)
        && scheduler::is_terminal(old) == scheduler::is_terminal(new)
        && pods::is_ready(old) == pods::is_ready(new)
        && pods::node_name(old) == pods::node_name(new)
        && addresses(old) == addresses(new)
}
