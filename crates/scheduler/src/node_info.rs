//! A node as the scheduler keeps it: what it offers, what is taken, and its images.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::pod_info::{HostPort, PodInfo};
use crate::resources::{Resources, allocatable};
use crate::selector::Labels;

/// What the pods of a node take.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) requested: Resources,
    pub(crate) scoring_cpu_milli: i64,
    pub(crate) scoring_memory_bytes: i64,
    pub(crate) pods: i64,
    pub(crate) ports: Vec<HostPort>,
}

impl Usage {
    pub(crate) fn add(&mut self, pod: &PodInfo) {
        self.requested.add(&pod.requests);
        self.scoring_cpu_milli += pod.scoring_cpu_milli;
        self.scoring_memory_bytes += pod.scoring_memory_bytes;
        self.pods += 1;
        self.ports.extend(pod.host_ports.iter().cloned());
    }

    pub(crate) fn remove(&mut self, pod: &PodInfo) {
        self.requested.subtract(&pod.requests);
        self.scoring_cpu_milli -= pod.scoring_cpu_milli;
        self.scoring_memory_bytes -= pod.scoring_memory_bytes;
        self.pods -= 1;
        for port in &pod.host_ports {
            if let Some(index) = self.ports.iter().position(|taken| taken == port) {
                self.ports.swap_remove(index);
            }
        }
    }
}

/// A slot of the snapshot. `node` is absent while only its pods are known.
#[derive(Clone, Debug)]
pub(crate) struct NodeInfo {
    pub(crate) name: Arc<str>,
    pub(crate) node: Option<Arc<Node>>,
    pub(crate) allocatable: Resources,
    pub(crate) pods_max: i64,
    pub(crate) usage: Usage,
    pub(crate) images: HashMap<String, i64>,
}

impl NodeInfo {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            node: None,
            allocatable: Resources::default(),
            pods_max: 0,
            usage: Usage::default(),
            images: HashMap::new(),
        }
    }

    pub(crate) fn set_node(&mut self, node: Arc<Node>) {
        (self.allocatable, self.pods_max) = allocatable(&node);
        self.images.clear();
        for image in node.status.iter().flat_map(|status| status.images.iter().flatten()) {
            for name in image.names.iter().flatten() {
                self.images.insert(name.clone(), image.size_bytes.unwrap_or(0));
            }
        }
        self.node = Some(node);
    }

    pub(crate) fn labels(&self) -> Option<&Labels> {
        self.node.as_ref().and_then(|node| node.metadata.labels.as_ref())
    }

    pub(crate) fn taints(&self) -> &[Taint] {
        let spec = self.node.as_ref().and_then(|node| node.spec.as_ref());
        spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
    }
}
