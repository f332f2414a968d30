//! One run over a queue of pods: the places given so far, and the shapes of pods seen so far.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::class::Class;
use crate::domains::Domains;
use crate::node_info::{NodeInfo, Usage};
use crate::place::Decision;
use crate::pod_info::{PodInfo, same_shape, shape_hash};
use crate::score::Ties;
use crate::snapshot::Snapshot;

/// Bytes that the kept shapes may take, roughly; beyond it the table starts anew. A shape takes some bytes per node.
const CLASSES_BYTES_MAX: usize = 64 << 20;
const CLASS_BYTES_PER_SLOT: usize = 40;

/// What all shapes share: the snapshot, and the places given in this run on top of it.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) snapshot: &'a Snapshot,
    overlay: HashMap<u32, Usage>,
    /// Every place given in this run, in order; each shape catches up from where it last looked.
    pub(crate) journal: Vec<(Arc<PodInfo>, u32)>,
    domains: HashMap<String, Arc<Domains>>,
}

impl<'a> Run<'a> {
    pub(crate) fn usage<'b>(&'b self, slot: u32, node: &'b NodeInfo) -> &'b Usage {
        self.overlay.get(&slot).unwrap_or(&node.usage)
    }

    /// Slots that hold a known node.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (u32, &'a NodeInfo)> + use<'a> {
        let slots = self.snapshot.slots.iter().zip(0_u32..);
        slots.filter_map(|(info, slot)| info.as_ref().filter(|info| info.node.is_some()).map(|info| (slot, info)))
    }

    pub(crate) fn domains(&mut self, key: &str) -> Arc<Domains> {
        if let Some(domains) = self.domains.get(key) {
            return domains.clone();
        }
        let domains = match self.snapshot.domains.get(key) {
            Some(kept) => kept.clone(),
            None => {
                let mut domains = Domains::default();
                for (slot, node) in self.nodes() {
                    domains.set(slot, node.labels().and_then(|labels| labels.get(key)).map(String::as_str));
                }
                domains.cover(self.snapshot.slots.len());
                Arc::new(domains)
            }
        };
        self.domains.insert(key.to_owned(), domains.clone());
        domains
    }

    fn give(&mut self, info: Arc<PodInfo>, slot: u32) {
        let snapshot = self.snapshot;
        if let Some(node) = snapshot.slot(slot) {
            self.overlay.entry(slot).or_insert_with(|| node.usage.clone()).add(&info);
        }
        self.journal.push((info, slot));
    }
}

/// The state of one `place` call.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    run: Run<'a>,
    classes: Vec<Class>,
    class_of_hash: HashMap<u64, Vec<usize>>,
    ties: Ties,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot, seed: u64) -> Self {
        let run = Run { snapshot, overlay: HashMap::new(), journal: Vec::new(), domains: HashMap::new() };
        Self { run, classes: Vec::new(), class_of_hash: HashMap::new(), ties: Ties::new(seed) }
    }

    pub(crate) fn decide(&mut self, pod: &Arc<Pod>) -> Decision {
        let index = self.class_index(pod);
        let class = &mut self.classes[index];
        class.catch_up(&self.run);
        match class.select(&self.run, &mut self.ties) {
            Some(slot) => {
                let node = self.run.snapshot.slot(slot).map_or_else(|| "".into(), |node| node.name.clone());
                let info = Arc::new(PodInfo { pod: pod.clone(), ..(**class.info()).clone() });
                self.run.give(info, slot);
                Decision::Bind { pod: pod.clone(), node }
            }
            None => {
                let (message, reasons) = class.explanation(&self.run);
                Decision::Unschedulable { pod: pod.clone(), message, reasons }
            }
        }
    }

    fn class_index(&mut self, pod: &Arc<Pod>) -> usize {
        let ignore_identity = self.ignores_identity_labels(pod);
        let hash = shape_hash(pod, ignore_identity);
        let candidates = self.class_of_hash.get(&hash).into_iter().flatten();
        let known =
            candidates.copied().find(|index| same_shape(&self.classes[*index].info().pod, pod, ignore_identity));
        if let Some(index) = known {
            return index;
        }
        let classes_max =
            (CLASSES_BYTES_MAX / (CLASS_BYTES_PER_SLOT * self.run.snapshot.slots.len().max(1))).clamp(8, 1024);
        if self.classes.len() >= classes_max {
            self.classes.clear();
            self.class_of_hash.clear();
        }
        let class = Class::new(Arc::new(PodInfo::new(pod.clone())), &mut self.run);
        self.classes.push(class);
        self.class_of_hash.entry(hash).or_default().push(self.classes.len() - 1);
        self.classes.len() - 1
    }

    /// Labels that only number the pods of a workload matter as soon as any selector may look at them.
    fn ignores_identity_labels(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else { return true };
        spec.affinity
            .as_ref()
            .is_none_or(|affinity| affinity.pod_affinity.is_none() && affinity.pod_anti_affinity.is_none())
            && spec.topology_spread_constraints.as_ref().is_none_or(Vec::is_empty)
            && self.run.snapshot.pods_with_affinities.is_empty()
            && self.run.journal.iter().all(|(info, _)| info.affinities.is_none())
    }
}
