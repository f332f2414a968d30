//! The downward API: a pod's own fields and resources as text.

use crate::quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

/// What fields need to know beside the object: addresses and what the node offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldContext {
    /// The pod's addresses.
    pub pod_addresses: Vec<IpAddr>,
    /// The node's addresses.
    pub host_addresses: Vec<IpAddr>,
    /// The node's allocatable CPU in thousandths: the limit of a container without one.
    pub cpu_milli: i64,
    /// The node's allocatable memory in bytes.
    pub memory_bytes: i64,
    /// The node's allocatable ephemeral storage in bytes.
    pub ephemeral_bytes: i64,
}

fn map_text(map: Option<&BTreeMap<String, String>>) -> String {
    let mut text = String::new();
    for (key, value) in map.into_iter().flatten() {
        let _ = writeln!(text, "{key}={value:?}");
    }
    text.trim_end().to_owned()
}

/// The text of a field path.
///
/// # Errors
/// A path that is no field of the downward API.
pub fn pod_field(pod: &Pod, path: &str, context: &FieldContext) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    let join = |list: &[IpAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let first = |list: &[IpAddr]| list.first().map(ToString::to_string).unwrap_or_default();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let found = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(format!("unsupported fieldPath: {path}")),
        };
        return Ok(text(found.and_then(|map| map.get(key))));
    }
    Ok(match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => map_text(meta.labels.as_ref()),
        "metadata.annotations" => map_text(meta.annotations.as_ref()),
        "spec.nodeName" => text(spec.and_then(|spec| spec.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
        "status.podIP" => first(&context.pod_addresses),
        "status.podIPs" => join(&context.pod_addresses),
        "status.hostIP" => first(&context.host_addresses),
        "status.hostIPs" => join(&context.host_addresses),
        other => return Err(format!("unsupported fieldPath: {other}")),
    })
}

/// The text of a resource field of `container`, or of the container that the selector names.
///
/// # Errors
/// A container or resource that does not exist.
pub fn resource_field(
    pod: &Pod,
    container: Option<&Container>,
    selector: &ResourceFieldSelector,
    context: &FieldContext,
) -> Result<String, String> {
    let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let container = match (named, container) {
        (Some(name), _) => {
            all.find(|container| container.name == name).ok_or_else(|| format!("container {name} not found"))?
        }
        (None, Some(container)) => container,
        (None, None) => return Err("a resource field of a volume needs a container name".into()),
    };
    let (kind, name) = selector.resource.split_once('.').ok_or_else(|| unsupported(&selector.resource))?;
    let resources = container.resources.clone().unwrap_or_default();
    let found = match kind {
        "limits" => resources.limits.and_then(|map| map.get(name).cloned()),
        "requests" => resources.requests.and_then(|map| map.get(name).cloned()),
        _ => return Err(unsupported(&selector.resource)),
    };
    let cpu = name == "cpu";
    let amount = match (&found, kind, name) {
        (Some(quantity), ..) => {
            quantity::milli(&quantity.0).ok_or_else(|| format!("{:?} is no quantity", quantity.0))?
        }
        (None, "limits", "cpu") => context.cpu_milli,
        (None, "limits", "memory") => context.memory_bytes.saturating_mul(1000),
        (None, "limits", "ephemeral-storage") => context.ephemeral_bytes.saturating_mul(1000),
        (None, "requests", "cpu" | "memory" | "ephemeral-storage") => 0,
        _ => return Err(unsupported(&selector.resource)),
    };
    let divisor =
        selector.divisor.as_ref().and_then(|divisor| quantity::milli(&divisor.0)).filter(|divisor| *divisor > 0);
    let divisor = divisor.unwrap_or(1000);
    let _ = cpu;
    // Upstream rounds up.
    Ok((amount.div_euclid(divisor) + i64::from(amount.rem_euclid(divisor) != 0)).to_string())
}

fn unsupported(resource: &str) -> String {
    format!("unsupported container resource: {resource}")
}
