//! A pod prepared for placement: requests, ports, affinity and spread terms compiled once.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodAffinityTerm, PodSpec, Toleration, WeightedPodAffinityTerm};

use crate::resources::{Resources, pod_requests, pod_requests_for_scoring};
use crate::selector::{Labels, Selector};

/// Labels that differ between the pods of one workload although the pods are equal to the scheduler.
const IDENTITY_LABELS: [&str; 3] =
    ["statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index", "batch.kubernetes.io/job-completion-index"];

/// A port that a pod takes on its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    pub(crate) address: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
}

impl HostPort {
    /// Two pods collide on port and protocol if their addresses are equal or one of them listens on all.
    pub(crate) fn collides(&self, other: &Self) -> bool {
        let wildcard = |address: &str| address == "0.0.0.0" || address == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || wildcard(&self.address) || wildcard(&other.address))
    }
}

/// One pod (anti-)affinity term.
#[derive(Clone, Debug)]
pub(crate) struct AffinityTerm {
    pub(crate) topology_key: String,
    selector: Selector,
    namespaces: Vec<String>,
    namespace_selector: Option<Selector>,
}

impl AffinityTerm {
    fn compile(term: &PodAffinityTerm, own_namespace: &str) -> Self {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(own_namespace.to_owned());
        }
        Self {
            topology_key: term.topology_key.clone(),
            selector: Selector::compile_optional(term.label_selector.as_ref()),
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(Selector::compile),
        }
    }

    /// Whether a pod with these labels in this namespace is meant by the term.
    pub(crate) fn matches(&self, namespace: &str, namespace_labels: Option<&Labels>, labels: Option<&Labels>) -> bool {
        let in_namespace = self.namespaces.iter().any(|name| name == namespace)
            || self
                .namespace_selector
                .as_ref()
                .is_some_and(|selector| selector.is_everything() || selector.matches(namespace_labels));
        in_namespace && self.selector.matches(labels)
    }
}

/// The compiled pod affinity of a pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodAffinities {
    pub(crate) required: Vec<AffinityTerm>,
    pub(crate) required_anti: Vec<AffinityTerm>,
    /// Anti-affinity preferences carry a negative weight.
    pub(crate) preferred: Vec<(i64, AffinityTerm)>,
}

/// A pod as the scheduler keeps it.
#[derive(Clone, Debug)]
pub(crate) struct PodInfo {
    pub(crate) pod: Arc<Pod>,
    pub(crate) requests: Resources,
    pub(crate) scoring_cpu_milli: i64,
    pub(crate) scoring_memory_bytes: i64,
    pub(crate) host_ports: Vec<HostPort>,
    pub(crate) affinities: Option<Box<PodAffinities>>,
}

impl PodInfo {
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        let requests = pod_requests(&pod);
        let scoring = pod_requests_for_scoring(&pod);
        let host_ports = host_ports(&pod);
        let affinities = affinities(&pod).map(Box::new);
        Self {
            requests,
            scoring_cpu_milli: scoring.cpu_milli,
            scoring_memory_bytes: scoring.memory_bytes,
            host_ports,
            affinities,
            pod,
        }
    }

    pub(crate) fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(crate) fn labels(&self) -> Option<&Labels> {
        self.pod.metadata.labels.as_ref()
    }

    pub(crate) fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    pub(crate) fn priority(&self) -> i32 {
        self.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
    }

    pub(crate) fn tolerations(&self) -> Option<&[Toleration]> {
        self.pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref())
    }

    /// The uid of the controlling ReplicaSet, ReplicationController or StatefulSet, by which pods are spread by default.
    pub(crate) fn spreading_owner(&self) -> Option<&str> {
        spreading_owner(&self.pod)
    }
}

pub(crate) fn spreading_owner(pod: &Pod) -> Option<&str> {
    let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    matches!(owner.kind.as_str(), "ReplicaSet" | "ReplicationController" | "StatefulSet").then_some(owner.uid.as_str())
}

/// Whether the pod has ended, so that it holds no resources any more.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars =
        spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().chain(sidecars);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let taken = ports.filter_map(|port| {
        let number = port.host_port.filter(|port| *port > 0)?;
        Some(HostPort {
            address: port.host_ip.clone().filter(|address| !address.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned()),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: number,
        })
    });
    taken.collect()
}

fn affinities(pod: &Pod) -> Option<PodAffinities> {
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let compile = |terms: Option<&Vec<PodAffinityTerm>>| -> Vec<AffinityTerm> {
        terms.into_iter().flatten().map(|term| AffinityTerm::compile(term, namespace)).collect()
    };
    let weigh = |terms: Option<&Vec<WeightedPodAffinityTerm>>, sign: i64| -> Vec<(i64, AffinityTerm)> {
        let weigh_one = |term: &WeightedPodAffinityTerm| {
            (sign * i64::from(term.weight), AffinityTerm::compile(&term.pod_affinity_term, namespace))
        };
        terms.into_iter().flatten().map(weigh_one).collect()
    };
    let (towards, away) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
    let mut compiled = PodAffinities {
        required: compile(towards.and_then(|terms| terms.required_during_scheduling_ignored_during_execution.as_ref())),
        required_anti: compile(
            away.and_then(|terms| terms.required_during_scheduling_ignored_during_execution.as_ref()),
        ),
        preferred: weigh(
            towards.and_then(|terms| terms.preferred_during_scheduling_ignored_during_execution.as_ref()),
            1,
        ),
    };
    compiled
        .preferred
        .extend(weigh(away.and_then(|terms| terms.preferred_during_scheduling_ignored_during_execution.as_ref()), -1));
    let empty = compiled.required.is_empty() && compiled.required_anti.is_empty() && compiled.preferred.is_empty();
    (!empty).then_some(compiled)
}

/// A cheap hash under which pods of equal shape meet; [`same_shape`] decides.
pub(crate) fn shape_hash(pod: &Pod, ignore_identity_labels: bool) -> u64 {
    let mut hasher = DefaultHasher::new();
    pod.metadata.namespace.hash(&mut hasher);
    spreading_owner(pod).hash(&mut hasher);
    for (key, value) in shape_labels(pod, ignore_identity_labels) {
        (key, value).hash(&mut hasher);
    }
    hasher.finish()
}

fn shape_labels(pod: &Pod, ignore_identity_labels: bool) -> impl Iterator<Item = (&String, &String)> {
    let labels = pod.metadata.labels.iter().flatten();
    labels.filter(move |(key, _)| !ignore_identity_labels || !IDENTITY_LABELS.contains(&key.as_str()))
}

/// Whether two pods are equal in everything that placement looks at, so that filter and score work is shared.
pub(crate) fn same_shape(left: &Pod, right: &Pod, ignore_identity_labels: bool) -> bool {
    left.metadata.namespace == right.metadata.namespace
        && spreading_owner(left) == spreading_owner(right)
        && shape_labels(left, ignore_identity_labels).eq(shape_labels(right, ignore_identity_labels))
        && match (&left.spec, &right.spec) {
            (Some(left), Some(right)) => same_spec(left, right),
            (None, None) => true,
            _ => false,
        }
}

fn same_spec(left: &PodSpec, right: &PodSpec) -> bool {
    left.priority == right.priority
        && left.node_selector == right.node_selector
        && left.tolerations == right.tolerations
        && left.affinity == right.affinity
        && left.topology_spread_constraints == right.topology_spread_constraints
        && left.overhead == right.overhead
        && left.resources == right.resources
        && left.node_name == right.node_name
        && left.preemption_policy == right.preemption_policy
        && same_containers(&left.containers, &right.containers)
        && same_containers(
            left.init_containers.as_deref().unwrap_or_default(),
            right.init_containers.as_deref().unwrap_or_default(),
        )
}

fn same_containers(left: &[Container], right: &[Container]) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).all(|(left, right)| {
            left.resources == right.resources
                && left.ports == right.ports
                && left.image == right.image
                && left.restart_policy == right.restart_policy
        })
}
