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

/// The node has no room for the shape now.
const REFUSED: i64 = -1;
/// No known node in this slot, or one that refuses the shape whatever is placed.
const REFUSED_FOR_GOOD: i64 = -2;
/// Not judged yet, or not since a pod was placed there.
const UNKNOWN: i64 = -3;
/// Clusters up to this size are looked at whole; in larger ones a share of the nodes is enough, as upstream has it.
const CANDIDATES_MIN: usize = 100;

type Explanation = (Arc<str>, Arc<BTreeMap<String, usize>>);

#[derive(Debug)]
pub(crate) struct Class {
    info: Arc<PodInfo>,
    /// The score of a node by itself, or why there is none; one entry per slot, filled when a node is first looked at.
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
            own: vec![UNKNOWN; slots],
            node_preference: Vec::new(),
            taint_preference: Vec::new(),
            spread: SpreadState::new(&info, run),
            affinity: PodAffinityState::new(&info, run),
            journal_seen: run.journal.len(),
            explained: None,
            candidates: Vec::new(),
            info,
        };
        if predicate::has_node_preference(&class.info.pod) {
            class.node_preference = vec![0; slots];
        }
        class
    }

    pub(crate) fn info(&self) -> &Arc<PodInfo> {
        &self.info
    }

    /// Judges the node in a slot and remembers it.
    fn judge(&mut self, slot: usize, run: &Run<'_>) -> i64 {
        let number = u32::try_from(slot).unwrap_or(u32::MAX);
        let Some(node) = run.snapshot.slot(number).filter(|node| node.node.is_some()) else {
            self.own[slot] = REFUSED_FOR_GOOD;
            return REFUSED_FOR_GOOD;
        };
        let usage = run.usage(number, node);
        self.own[slot] = if static_refusal(&self.info, node).is_some() {
            REFUSED_FOR_GOOD
        } else if admits(&self.info, node, usage) {
            own_score(&self.info, node, usage, run.snapshot)
        } else {
            REFUSED
        };
        if self.own[slot] >= 0 {
            self.note_preferences(slot, node);
        }
        self.own[slot]
    }

    fn note_preferences(&mut self, slot: usize, node: &NodeInfo) {
        if let (Some(preference), Some(spec)) = (self.node_preference.get_mut(slot), &self.info.pod.spec) {
            *preference = predicate::node_affinity_preference(spec, node.labels(), &node.name);
        }
        let dislikes = predicate::untolerated_preferences(node.taints(), self.info.tolerations());
        if dislikes > 0 {
            self.taint_preference.resize(self.own.len(), 0);
            self.taint_preference[slot] = dislikes;
        }
    }

    /// Takes in the places given since this shape last looked.
    pub(crate) fn catch_up(&mut self, run: &Run<'_>) {
        for index in self.journal_seen..run.journal.len() {
            let (placed, slot) = &run.journal[index];
            if self.own[*slot as usize] != REFUSED_FOR_GOOD {
                self.own[*slot as usize] = UNKNOWN;
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
        let enough = candidates_enough(run.snapshot.nodes_live);
        self.spread.prepare();
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        for slot in (start..slots).chain(0..start) {
            let own = if self.own[slot] == UNKNOWN { self.judge(slot, run) } else { self.own[slot] };
            if own >= 0 && self.spread.admits(slot).is_none() && self.affinity.admits(slot).is_none() {
                candidates.extend(u32::try_from(slot));
                if candidates.len() >= enough {
                    break;
                }
            }
        }
        let best = self.best_of(&candidates);
        self.candidates = candidates;
        best
    }

    fn best_of(&self, candidates: &[u32]) -> Option<u32> {
        let highest = |raw: &[i64]| {
            candidates.iter().map(|slot| raw.get(*slot as usize).copied().unwrap_or(0)).max().unwrap_or(0)
        };
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

/// How many nodes that admit a pod are compared: half of them in a small cluster, five in a hundred in a very large one.
fn candidates_enough(nodes: usize) -> usize {
    if nodes < CANDIDATES_MIN {
        return nodes.max(1);
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(CANDIDATES_MIN)
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
        && fits(
            info.requests.ephemeral_storage_bytes,
            node.allocatable.ephemeral_storage_bytes,
            usage.requested.ephemeral_storage_bytes,
        )
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
    check(
        "ephemeral-storage",
        wanted.ephemeral_storage_bytes,
        offered.ephemeral_storage_bytes,
        taken.ephemeral_storage_bytes,
    );
    for (name, amount) in &wanted.extended {
        check(name, *amount, offered.extended_amount(name), taken.extended_amount(name));
    }
    refusals
}
