//! All pods of one shape: which nodes admit them and how good each is, kept current as places are given.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::batch::Run;
use crate::explain::{Refusal, explain};
use crate::node_info::{NodeInfo, Usage};
use crate::pod_info::PodInfo;
use crate::predicate;
use crate::score::{self, Ties, normalise, own_score};
use crate::topology::{PodAffinityState, SpreadState};

/// No known node in this slot, or the node refuses the shape.
const REFUSED: i64 = -1;

type Explanation = (Arc<str>, Arc<BTreeMap<String, usize>>);

#[derive(Debug)]
pub(crate) struct Class {
    info: Arc<PodInfo>,
    /// The score of a node by itself, or `REFUSED`; one entry per slot.
    own: Vec<i64>,
    /// Preferences of the shape that are normalised over the candidates; empty if there are none.
    node_preference: Vec<i64>,
    taint_preference: Vec<i64>,
    spread: SpreadState,
    affinity: PodAffinityState,
    journal_seen: usize,
    explained: Option<(usize, Explanation)>,
    candidates: Vec<u32>,
}

impl Class {
    pub(crate) fn new(info: Arc<PodInfo>, run: &mut Run<'_>) -> Self {
        let slots = run.snapshot.slots.len();
        let mut class = Self {
            own: vec![REFUSED; slots],
            node_preference: Vec::new(),
            taint_preference: Vec::new(),
            spread: SpreadState::new(&info, run),
            affinity: PodAffinityState::new(&info, run),
            journal_seen: run.journal.len(),
            explained: None,
            candidates: Vec::new(),
            info,
        };
        let has_preference = predicate::has_node_preference(&class.info.pod);
        if has_preference {
            class.node_preference = vec![0; slots];
        }
        for (slot, node) in run.nodes() {
            let usage = run.usage(slot, node);
            if static_refusal(&class.info, node).is_some() {
                continue;
            }
            if has_preference && let Some(spec) = &class.info.pod.spec {
                class.node_preference[slot as usize] = predicate::node_affinity_preference(spec, node.labels(), &node.name);
            }
            let dislikes = predicate::untolerated_preferences(node.taints(), class.info.tolerations());
            if dislikes > 0 {
                class.taint_preference.resize(slots, 0);
                class.taint_preference[slot as usize] = dislikes;
            }
            class.own[slot as usize] = class.own_if_admitted(node, usage, run);
        }
        class
    }

    pub(crate) fn info(&self) -> &Arc<PodInfo> {
        &self.info
    }

    fn own_if_admitted(&self, node: &NodeInfo, usage: &Usage, run: &Run<'_>) -> i64 {
        if admits(&self.info, node, usage) { own_score(&self.info, node, usage, run.snapshot) } else { REFUSED }
    }

    /// Takes in the places given since this shape last looked.
    pub(crate) fn catch_up(&mut self, run: &Run<'_>) {
        for index in self.journal_seen..run.journal.len() {
            let (placed, slot) = &run.journal[index];
            if self.own[*slot as usize] != REFUSED
                && let Some(node) = run.snapshot.slot(*slot)
            {
                self.own[*slot as usize] = self.own_if_admitted(node, run.usage(*slot, node), run);
            }
            self.spread.absorb(placed, *slot);
            self.affinity.absorb(&self.info, placed, *slot, run.snapshot, 1);
        }
        self.journal_seen = run.journal.len();
    }

    /// The best node, or none.
    pub(crate) fn select(&mut self, run: &Run<'_>, ties: &mut Ties) -> Option<u32> {
        let slots = run.snapshot.slots.len();
        if slots == 0 {
            return None;
        }
        // Starting at a random slot and taking the first best one spreads equal choices without a random number per node.
        let start = ties.below(slots);
        let order = (start..slots).chain(0..start);
        let compares = !self.node_preference.is_empty() || !self.taint_preference.is_empty() || self.spread.scores() || self.affinity.scores();
        if !compares && !self.spread.filters() && !self.affinity.filters() {
            let mut best: Option<(i64, usize)> = None;
            for slot in order {
                let score = self.own[slot];
                if score > best.map_or(REFUSED, |(score, _)| score) {
                    best = Some((score, slot));
                }
            }
            return best.and_then(|(_, slot)| u32::try_from(slot).ok());
        }
        self.spread.prepare();
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        for slot in order {
            if self.own[slot] != REFUSED && self.spread.admits(slot).is_none() && self.affinity.admits(slot).is_none() {
                candidates.extend(u32::try_from(slot));
            }
        }
        let best = self.best_of(&candidates);
        self.candidates = candidates;
        best
    }

    fn best_of(&self, candidates: &[u32]) -> Option<u32> {
        let highest = |raw: &[i64]| candidates.iter().map(|slot| raw.get(*slot as usize).copied().unwrap_or(0)).max().unwrap_or(0);
        let preference_max = highest(&self.node_preference);
        let dislikes_max = highest(&self.taint_preference);
        let spread = self.spread.score(candidates);
        let affinity = self.affinity.score(candidates);
        let mut best: Option<(i64, u32)> = None;
        for (index, slot) in candidates.iter().enumerate() {
            let mut score = self.own[*slot as usize];
            if let Some(raw) = self.node_preference.get(*slot as usize) {
                score += score::WEIGHT_NODE_AFFINITY * normalise(*raw, preference_max, false);
            }
            if let Some(raw) = self.taint_preference.get(*slot as usize) {
                score += score::WEIGHT_TAINTS * normalise(*raw, dislikes_max, true);
            }
            score += score::WEIGHT_SPREAD * spread.get(index).copied().unwrap_or(0);
            score += score::WEIGHT_POD_AFFINITY * affinity.get(index).copied().unwrap_or(0);
            if best.is_none_or(|(best, _)| score > best) {
                best = Some((score, *slot));
            }
        }
        best.map(|(_, slot)| slot)
    }

    /// Why no node can take the shape, in upstream's words; computed once until a place changes something.
    pub(crate) fn explanation(&mut self, run: &Run<'_>) -> Explanation {
        if let Some((seen, explanation)) = &self.explained
            && *seen == run.journal.len()
        {
            return explanation.clone();
        }
        self.spread.prepare();
        let mut refusals: Vec<(u32, Vec<Refusal>)> = Vec::new();
        for (slot, node) in run.nodes() {
            refusals.push((slot, self.refusals(slot, node, run)));
        }
        let explanation = explain(&self.info, &refusals, run.snapshot);
        self.explained = Some((run.journal.len(), explanation.clone()));
        explanation
    }

    /// The reasons of the first filter that refuses, as upstream reports them.
    fn refusals(&self, slot: u32, node: &NodeInfo, run: &Run<'_>) -> Vec<Refusal> {
        if let Some(refusal) = static_refusal(&self.info, node) {
            return vec![refusal];
        }
        let usage = run.usage(slot, node);
        if ports_collide(&self.info, usage) {
            return vec![Refusal::Ports];
        }
        let insufficient = insufficient(&self.info, node, usage);
        if !insufficient.is_empty() {
            return insufficient;
        }
        let by_topology = self.spread.admits(slot as usize).or_else(|| self.affinity.admits(slot as usize));
        by_topology.into_iter().collect()
    }
}

/// Filters whose answer no placement changes.
fn static_refusal(info: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
    let spec = info.pod.spec.as_ref()?;
    let object = node.node.as_ref()?;
    if predicate::cordoned(object, spec.tolerations.as_deref()) {
        return Some(Refusal::Unschedulable);
    }
    if spec.node_name.as_deref().is_some_and(|name| !name.is_empty() && name != &*node.name) {
        return Some(Refusal::NodeName);
    }
    if predicate::untolerated(node.taints(), spec.tolerations.as_deref(), &["NoSchedule", "NoExecute"]).is_some() {
        return Some(Refusal::Taints);
    }
    (!predicate::matches_node_affinity(spec, node.labels(), &node.name)).then_some(Refusal::NodeAffinity)
}

fn ports_collide(info: &PodInfo, usage: &Usage) -> bool {
    info.host_ports.iter().any(|wanted| usage.ports.iter().any(|taken| taken.collides(wanted)))
}

/// Ports and resources, as a quick yes or no.
fn admits(info: &PodInfo, node: &NodeInfo, usage: &Usage) -> bool {
    let fits = |wanted: i64, allocatable: i64, taken: i64| wanted == 0 || wanted <= allocatable - taken;
    usage.pods < node.pods_max
        && fits(info.requests.cpu_milli, node.allocatable.cpu_milli, usage.requested.cpu_milli)
        && fits(info.requests.memory_bytes, node.allocatable.memory_bytes, usage.requested.memory_bytes)
        && fits(info.requests.ephemeral_storage_bytes, node.allocatable.ephemeral_storage_bytes, usage.requested.ephemeral_storage_bytes)
        && info.requests.extended.iter().all(|(name, wanted)| {
            fits(*wanted, node.allocatable.extended_amount(name), usage.requested.extended_amount(name))
        })
        && !ports_collide(info, usage)
}

fn insufficient(info: &PodInfo, node: &NodeInfo, usage: &Usage) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    if usage.pods >= node.pods_max {
        refusals.push(Refusal::TooManyPods);
    }
    let mut check = |name: &str, wanted: i64, allocatable: i64, taken: i64| {
        if wanted > 0 && wanted > allocatable - taken {
            refusals.push(Refusal::Insufficient { resource: name.into(), never: wanted > allocatable });
        }
    };
    let (wanted, offered, taken) = (&info.requests, &node.allocatable, &usage.requested);
    check("cpu", wanted.cpu_milli, offered.cpu_milli, taken.cpu_milli);
    check("memory", wanted.memory_bytes, offered.memory_bytes, taken.memory_bytes);
    check("ephemeral-storage", wanted.ephemeral_storage_bytes, offered.ephemeral_storage_bytes, taken.ephemeral_storage_bytes);
    for (name, amount) in &wanted.extended {
        check(name, *amount, offered.extended_amount(name), taken.extended_amount(name));
    }
    refusals
}
