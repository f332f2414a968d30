//! The node's own checks before it takes a pod, the pod's requests, and its QoS class.

use super::model::Terminal;
use crate::quantity;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use std::collections::BTreeMap;

/// What a pod asks for: CPU in thousandths, memory and ephemeral storage in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Thousandths of a CPU.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory_bytes: i64,
    /// Bytes.
    pub ephemeral_bytes: i64,
}

/// What the node offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocatable {
    /// The sums.
    pub requests: Requests,
    /// Number of pods.
    pub pods: i64,
}

/// The answer to a pod.
pub type Verdict = Result<(), Terminal>;

fn of_container(resources: Option<&ResourceRequirements>) -> Requests {
    let get = |name: &str| resources.and_then(|resources| resources.requests.as_ref()).and_then(|map| map.get(name));
    Requests {
        cpu_milli: get("cpu").and_then(|text| quantity::milli(&text.0)).unwrap_or(0),
        memory_bytes: get("memory").and_then(|text| quantity::value(&text.0)).unwrap_or(0),
        ephemeral_bytes: get("ephemeral-storage").and_then(|text| quantity::value(&text.0)).unwrap_or(0),
    }
}

fn join(a: Requests, b: Requests, by: fn(i64, i64) -> i64) -> Requests {
    Requests {
        cpu_milli: by(a.cpu_milli, b.cpu_milli),
        memory_bytes: by(a.memory_bytes, b.memory_bytes),
        ephemeral_bytes: by(a.ephemeral_bytes, b.ephemeral_bytes),
    }
}

impl Requests {
    /// What a pod needs at its highest: the sum of containers and sidecars, or an init container with the sidecars before it.
    #[must_use]
    pub fn of_pod(spec: &PodSpec) -> Self {
        let add = i64::saturating_add;
        let mut sidecars = Requests::default();
        let mut peak = Requests::default();
        for init in spec.init_containers.iter().flatten() {
            let own = of_container(init.resources.as_ref());
            if init.restart_policy.as_deref() == Some("Always") {
                sidecars = join(sidecars, own, add);
                peak = join(peak, sidecars, i64::max);
            } else {
                peak = join(peak, join(sidecars, own, add), i64::max);
            }
        }
        let apps = spec
            .containers
            .iter()
            .fold(sidecars, |sum, container| join(sum, of_container(container.resources.as_ref()), add));
        let overhead = of_container(Some(&ResourceRequirements {
            requests: spec.overhead.clone(),
            ..ResourceRequirements::default()
        }));
        join(join(peak, apps, i64::max), overhead, add)
    }

    /// The sum with another.
    #[must_use]
    pub fn plus(self, other: Requests) -> Self {
        join(self, other, i64::saturating_add)
    }
}

/// Takes or refuses `pod` beside the pods that the node has admitted already (`used`, `count`).
///
/// # Errors
/// The failure that becomes the pod's reason and message, as upstream words it.
pub fn admit(
    pod: &Pod,
    node_labels: &BTreeMap<String, String>,
    offered: Allocatable,
    used: Requests,
    count: i64,
) -> Verdict {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let refuse = |reason: &str, message: String| Err(Terminal::new(reason, format!("Pod was rejected: {message}")));
    for (key, value) in spec.node_selector.iter().flatten() {
        if node_labels.get(key) != Some(value) {
            return refuse(
                "NodeAffinity",
                "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".into(),
            );
        }
    }
    if let Some(os) = spec.os.as_ref().filter(|os| os.name != "linux") {
        return refuse(
            "PodOSNotSupported",
            format!("Failed to admit pod as the OS field doesn't match node OS ({})", os.name),
        );
    }
    if count >= offered.pods {
        let capacity = offered.pods;
        return refuse(
            "OutOfpods",
            format!("Node didn't have enough resource: pods, requested: 1, used: {count}, capacity: {capacity}"),
        );
    }
    let wanted = Requests::of_pod(spec);
    let all = [
        ("cpu", wanted.cpu_milli, used.cpu_milli, offered.requests.cpu_milli),
        ("memory", wanted.memory_bytes, used.memory_bytes, offered.requests.memory_bytes),
        ("ephemeral-storage", wanted.ephemeral_bytes, used.ephemeral_bytes, offered.requests.ephemeral_bytes),
    ];
    for (name, wanted, used, capacity) in all {
        if wanted > 0 && wanted > capacity.saturating_sub(used) {
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}"
            );
            return refuse(&format!("OutOf{name}"), message);
        }
    }
    Ok(())
}

/// Guaranteed, Burstable or BestEffort by the requests and limits of CPU and memory.
#[must_use]
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let all: Vec<&Container> = spec.init_containers.iter().flatten().chain(&spec.containers).collect();
    let amount = |map: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
                  name: &str| {
        map.and_then(|map| map.get(name)).and_then(|text| quantity::milli(&text.0)).filter(|amount| *amount > 0)
    };
    let mut any = false;
    let mut guaranteed = true;
    for container in all {
        let resources = container.resources.as_ref();
        for name in ["cpu", "memory"] {
            let limit = amount(resources.and_then(|resources| resources.limits.as_ref()), name);
            let request = amount(resources.and_then(|resources| resources.requests.as_ref()), name).or(limit);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && limit == request;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
