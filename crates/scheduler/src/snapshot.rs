//! The state that placement reads, kept up to date one object at a time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::domains::Domains;
use crate::node_info::NodeInfo;
use crate::pod_info::{PodInfo, is_terminal};
use crate::selector::{Labels, Selector};
use crate::topology::{HOSTNAME, ZONE};

/// A pod that holds (or is assumed to hold) a place.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) info: Arc<PodInfo>,
    pub(crate) slot: u32,
    assumed: bool,
}

/// Nodes, the pods on them, and the counts that filters and scores need. Every update costs what the one object costs.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub(crate) slots: Vec<Option<NodeInfo>>,
    slot_of_node: HashMap<Arc<str>, u32>,
    free_slots: Vec<u32>,
    pub(crate) nodes_live: usize,
    pub(crate) pods: HashMap<String, Placed>,
    pub(crate) pods_by_namespace: HashMap<String, HashSet<String>>,
    pub(crate) pods_with_affinities: HashSet<String>,
    /// Live pods per node, by the uid of the owner that spreads them.
    pub(crate) spread_counts: HashMap<String, HashMap<u32, i64>>,
    pub(crate) namespaces: HashMap<String, Labels>,
    pub(crate) services: HashMap<String, BTreeMap<String, Selector>>,
    pub(crate) image_nodes: HashMap<String, i64>,
    /// Topology keys that nearly every pod is spread by; others are numbered when a pod names them.
    pub(crate) domains: HashMap<&'static str, Arc<Domains>>,
}

impl Snapshot {
    /// An empty cluster.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many nodes are known.
    pub fn nodes(&self) -> usize {
        self.nodes_live
    }

    /// How many pods hold a place, assumed ones included.
    pub fn placed_pods(&self) -> usize {
        self.pods.len()
    }

    /// The node on which a pod is, or is assumed to be.
    pub fn node_of(&self, uid: &str) -> Option<&str> {
        self.pods.get(uid).and_then(|placed| self.slot(placed.slot)).map(|node| &*node.name)
    }

    pub(crate) fn slot(&self, slot: u32) -> Option<&NodeInfo> {
        self.slots.get(slot as usize).and_then(Option::as_ref)
    }

    fn slot_mut(&mut self, slot: u32) -> Option<&mut NodeInfo> {
        self.slots.get_mut(slot as usize).and_then(Option::as_mut)
    }

    fn slot_for(&mut self, name: &str) -> u32 {
        if let Some(slot) = self.slot_of_node.get(name) {
            return *slot;
        }
        let info = NodeInfo::new(name);
        let name = info.name.clone();
        let slot = match self.free_slots.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(info);
                slot
            }
            None => {
                self.slots.push(Some(info));
                for domains in self.domains.values_mut() {
                    Arc::make_mut(domains).cover(self.slots.len());
                }
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.slot_of_node.insert(name, slot);
        slot
    }

    fn release_if_empty(&mut self, slot: u32) {
        let Some(info) = self.slot(slot) else { return };
        if info.node.is_none() && info.usage.pods == 0 {
            let name = info.name.clone();
            self.slot_of_node.remove(&name);
            self.slots[slot as usize] = None;
            self.free_slots.push(slot);
        }
    }

    /// Adds or replaces a node.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let Some(name) = node.metadata.name.clone() else { return };
        let slot = self.slot_for(&name);
        self.count_images(slot, -1);
        let Some(info) = self.slot_mut(slot) else { return };
        let is_new = info.node.is_none();
        info.set_node(node);
        self.nodes_live += usize::from(is_new);
        self.count_images(slot, 1);
        self.number_domains(slot);
    }

    /// Removes a node; its pods stay known until they are removed themselves.
    pub fn remove_node(&mut self, name: &str) {
        let Some(slot) = self.slot_of_node.get(name).copied() else { return };
        self.count_images(slot, -1);
        let Some(info) = self.slot_mut(slot) else { return };
        if info.node.take().is_some() {
            info.images.clear();
            self.nodes_live -= 1;
        }
        self.number_domains(slot);
        self.release_if_empty(slot);
    }

    fn number_domains(&mut self, slot: u32) {
        let slots = self.slots.len();
        for key in [HOSTNAME, ZONE] {
            let info = self.slots.get(slot as usize).and_then(Option::as_ref);
            let value = info.and_then(NodeInfo::labels).and_then(|labels| labels.get(key)).map(String::as_str);
            let domains = self.domains.entry(key).or_default();
            if domains.of_slot.len() < slots || !domains.has(slot, value) {
                let domains = Arc::make_mut(domains);
                domains.set(slot, value);
                domains.cover(slots);
            }
        }
    }

    fn count_images(&mut self, slot: u32, change: i64) {
        let Some(info) = self.slots.get(slot as usize).and_then(Option::as_ref) else { return };
        for name in info.images.keys() {
            match self.image_nodes.get_mut(name) {
                Some(count) => {
                    *count += change;
                    if *count <= 0 {
                        self.image_nodes.remove(name);
                    }
                }
                None if change > 0 => {
                    self.image_nodes.insert(name.clone(), change);
                }
                None => {}
            }
        }
    }

    /// Adds or replaces a pod. A pod without a node or one that has ended holds no place; an assumed place outlives
    /// updates that do not show the binding yet.
    pub fn set_pod(&mut self, pod: Arc<Pod>) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        if is_terminal(&pod) {
            return self.remove_pod(&uid);
        }
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty())
        else {
            if self.pods.get(&uid).is_some_and(|placed| !placed.assumed) {
                self.remove_pod(&uid);
            }
            return;
        };
        self.remove_pod(&uid);
        self.insert(&uid, Arc::new(PodInfo::new(pod)), &node, false);
    }

    /// Counts a pod on a node before the binding is committed.
    pub fn assume(&mut self, pod: &Arc<Pod>, node: &str) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        self.remove_pod(&uid);
        self.insert(&uid, Arc::new(PodInfo::new(pod.clone())), node, true);
    }

    /// Takes an assumption back, because the binding failed. A pod that has been seen bound stays.
    pub fn forget(&mut self, uid: &str) {
        if self.pods.get(uid).is_some_and(|placed| placed.assumed) {
            self.remove_pod(uid);
        }
    }

    /// Removes a pod.
    pub fn remove_pod(&mut self, uid: &str) {
        let Some(placed) = self.pods.remove(uid) else { return };
        if let Some(uids) = self.pods_by_namespace.get_mut(placed.info.namespace()) {
            uids.remove(uid);
            if uids.is_empty() {
                self.pods_by_namespace.remove(placed.info.namespace());
            }
        }
        self.pods_with_affinities.remove(uid);
        self.count_spread(&placed.info, placed.slot, -1);
        if let Some(node) = self.slot_mut(placed.slot) {
            node.usage.remove(&placed.info);
        }
        self.release_if_empty(placed.slot);
    }

    fn insert(&mut self, uid: &str, info: Arc<PodInfo>, node: &str, assumed: bool) {
        let slot = self.slot_for(node);
        if let Some(node) = self.slot_mut(slot) {
            node.usage.add(&info);
        }
        self.pods_by_namespace.entry(info.namespace().to_owned()).or_default().insert(uid.to_owned());
        if info.affinities.is_some() {
            self.pods_with_affinities.insert(uid.to_owned());
        }
        self.count_spread(&info, slot, 1);
        self.pods.insert(uid.to_owned(), Placed { info, slot, assumed });
    }

    fn count_spread(&mut self, info: &PodInfo, slot: u32, change: i64) {
        let Some(owner) = info.spreading_owner().filter(|_| !info.is_terminating()) else { return };
        let counts = self.spread_counts.entry(owner.to_owned()).or_default();
        let count = counts.entry(slot).or_insert(0);
        *count += change;
        if *count <= 0 {
            counts.remove(&slot);
            if counts.is_empty() {
                self.spread_counts.remove(owner);
            }
        }
    }

    /// Tells the labels of a namespace, which namespaceSelector terms look at.
    pub fn set_namespace(&mut self, name: &str, labels: Labels) {
        self.namespaces.insert(name.to_owned(), labels);
    }

    /// Removes a namespace.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// Tells the selector of a Service, by which pods without a spreading owner are spread. Empty removes it.
    pub fn set_service(&mut self, namespace: &str, name: &str, selector: Option<&Labels>) {
        match selector.filter(|selector| !selector.is_empty()) {
            Some(selector) => {
                let services = self.services.entry(namespace.to_owned()).or_default();
                services.insert(name.to_owned(), Selector::from_labels(selector));
            }
            None => {
                if let Some(services) = self.services.get_mut(namespace) {
                    services.remove(name);
                }
            }
        }
    }
}
