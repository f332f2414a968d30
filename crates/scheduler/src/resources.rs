//! What a pod asks for and what a node offers, in integers.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Node, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity;

/// Amounts of resources. Extended resources are few, so a sorted vector beats a map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory_bytes: i64,
    /// Bytes.
    pub ephemeral_storage_bytes: i64,
    /// Every other resource by name (huge pages, devices), sorted by name.
    pub extended: Vec<(Arc<str>, i64)>,
}

impl Resources {
    /// Reads a map of quantities; what is not a quantity counts as zero (the API server has refused it before).
    pub fn from_quantities(quantities: &BTreeMap<String, Quantity>) -> Self {
        let mut resources = Self::default();
        for (name, amount) in quantities {
            match name.as_str() {
                "cpu" => resources.cpu_milli = quantity::milli(amount).unwrap_or(0),
                "memory" => resources.memory_bytes = quantity::units(amount).unwrap_or(0),
                "ephemeral-storage" => resources.ephemeral_storage_bytes = quantity::units(amount).unwrap_or(0),
                "pods" => {}
                other => resources.extended.push((other.into(), quantity::units(amount).unwrap_or(0))),
            }
        }
        resources
    }

    /// The amount of one extended resource.
    pub fn extended_amount(&self, name: &str) -> i64 {
        self.extended.iter().find(|(known, _)| &**known == name).map_or(0, |(_, amount)| *amount)
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes `other` away.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    /// Raises every amount to at least that of `other`.
    pub fn raise_to(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, operation: fn(i64, i64) -> i64) {
        self.cpu_milli = operation(self.cpu_milli, other.cpu_milli);
        self.memory_bytes = operation(self.memory_bytes, other.memory_bytes);
        self.ephemeral_storage_bytes = operation(self.ephemeral_storage_bytes, other.ephemeral_storage_bytes);
        for (name, amount) in &other.extended {
            match self.extended.binary_search_by(|(known, _)| known.cmp(name)) {
                Ok(index) => self.extended[index].1 = operation(self.extended[index].1, *amount),
                Err(index) => self.extended.insert(index, (name.clone(), operation(0, *amount))),
            }
        }
    }

    /// True if nothing is asked for.
    pub fn is_zero(&self) -> bool {
        self.cpu_milli == 0
            && self.memory_bytes == 0
            && self.ephemeral_storage_bytes == 0
            && self.extended.iter().all(|(_, amount)| *amount == 0)
    }
}

/// What a node offers, and how many pods it may hold.
pub fn allocatable(node: &Node) -> (Resources, i64) {
    let quantities = node.status.as_ref().and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
    let Some(quantities) = quantities else { return (Resources::default(), 0) };
    let pods = quantities.get("pods").and_then(quantity::units).unwrap_or(0);
    (Resources::from_quantities(quantities), pods)
}

/// What a pod asks for: the larger of its containers together and its init containers at their peak, sidecars and overhead included.
pub fn pod_requests(pod: &Pod) -> Resources {
    pod.spec.as_ref().map(|spec| spec_requests(spec, &Resources::default())).unwrap_or_default()
}

/// As [`pod_requests`], but a container that names no cpu or memory counts with upstream's scoring defaults (100m, 200 MB).
pub(crate) fn pod_requests_for_scoring(pod: &Pod) -> Resources {
    let floor = Resources { cpu_milli: 100, memory_bytes: 200 * 1024 * 1024, ..Resources::default() };
    pod.spec.as_ref().map(|spec| spec_requests(spec, &floor)).unwrap_or_default()
}

fn spec_requests(spec: &PodSpec, when_unset: &Resources) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&container_requests(container, when_unset));
    }
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let requests = container_requests(container, when_unset);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&requests);
            peak.raise_to(&sidecars);
        } else {
            let mut at_this_step = sidecars.clone();
            at_this_step.add(&requests);
            peak.raise_to(&at_this_step);
        }
    }
    running.add(&sidecars);
    running.raise_to(&peak);
    if let Some(pod_level) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        if let Some(cpu) = pod_level.get("cpu").and_then(quantity::milli) {
            running.cpu_milli = cpu;
        }
        if let Some(memory) = pod_level.get("memory").and_then(quantity::units) {
            running.memory_bytes = memory;
        }
    }
    if let Some(overhead) = &spec.overhead {
        running.add(&Resources::from_quantities(overhead));
    }
    running
}

fn container_requests(container: &Container, when_unset: &Resources) -> Resources {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let mut resources = requests.map(Resources::from_quantities).unwrap_or_default();
    if !requests.is_some_and(|requests| requests.contains_key("cpu")) {
        resources.cpu_milli = when_unset.cpu_milli;
    }
    if !requests.is_some_and(|requests| requests.contains_key("memory")) {
        resources.memory_bytes = when_unset.memory_bytes;
    }
    resources
}
