//! Filters and scores that count pods per topology domain: spread constraints and pod (anti-)affinity.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use crate::batch::Run;
use crate::domains::{Domains, MISSING};
use crate::explain::Refusal;
use crate::pod_info::PodInfo;
use crate::predicate;
use crate::score::SCORE_MAX;
use crate::selector::Selector;
use crate::snapshot::Snapshot;

pub(crate) const HOSTNAME: &str = "kubernetes.io/hostname";
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";
/// The weight with which a pod that is required by placed pods attracts (upstream's default hardPodAffinityWeight).
const REQUIRED_AFFINITY_WEIGHT: i64 = 1;

#[derive(Debug)]
struct Constraint {
    domains: Arc<Domains>,
    is_hostname: bool,
    max_skew: i64,
    domains_min: usize,
    matching: Matching,
    self_matches: i64,
    /// Whether a slot's pods count, by node affinity and taint policies.
    counts_slot: Vec<bool>,
    /// Whether a domain has a slot that counts.
    eligible: Vec<bool>,
    pods: Vec<i64>,
    lowest: i64,
}

#[derive(Debug)]
enum Matching {
    Selector { namespace: String, selector: Selector },
    Owner(String),
}

impl Matching {
    fn matches(&self, pod: &PodInfo) -> bool {
        !pod.is_terminating()
            && match self {
                Self::Selector { namespace, selector } => {
                    pod.namespace() == namespace && selector.matches(pod.labels())
                }
                Self::Owner(uid) => pod.spreading_owner() == Some(uid),
            }
    }
}

impl Constraint {
    fn absorb(&mut self, pod: &PodInfo, slot: u32) {
        if self.matching.matches(pod) {
            self.add(slot, 1);
        }
    }

    fn add(&mut self, slot: u32, count: i64) {
        let domain = self.domains.of_slot.get(slot as usize).copied().unwrap_or(MISSING);
        if domain != MISSING && self.counts_slot[slot as usize] {
            self.pods[domain as usize] += count;
        }
    }

    fn count_existing(&mut self, run: &Run<'_>) {
        if let Matching::Owner(uid) = &self.matching {
            let counts = run.snapshot.spread_counts.get(uid);
            for (slot, count) in counts.into_iter().flatten() {
                self.add(*slot, *count);
            }
        } else if let Matching::Selector { namespace, .. } = &self.matching {
            let uids = run.snapshot.pods_by_namespace.get(namespace);
            for placed in uids.into_iter().flatten().filter_map(|uid| run.snapshot.pods.get(uid)) {
                self.absorb(&placed.info, placed.slot);
            }
        }
        for (pod, slot) in &run.journal {
            self.absorb(pod, *slot);
        }
    }
}

/// The spread constraints of one shape of pod.
#[derive(Debug, Default)]
pub(crate) struct SpreadState {
    hard: Vec<Constraint>,
    soft: Vec<Constraint>,
    /// The pod named the soft constraints itself, so that nodes without a label score nothing.
    soft_requires_labels: bool,
}

impl SpreadState {
    pub(crate) fn new(info: &PodInfo, run: &mut Run<'_>) -> Self {
        let constraints =
            info.pod.spec.as_ref().and_then(|spec| spec.topology_spread_constraints.as_deref()).unwrap_or_default();
        if constraints.is_empty() {
            let Some(matching) = default_matching(info, run.snapshot) else { return Self::default() };
            return Self { soft: default_constraints(matching, run), ..Self::default() };
        }
        let mut state = Self { soft_requires_labels: true, ..Self::default() };
        for constraint in constraints {
            let compiled = compile(constraint, info, run);
            if constraint.when_unsatisfiable == "DoNotSchedule" {
                state.hard.push(compiled)
            } else {
                state.soft.push(compiled)
            }
        }
        restrict_to_labelled(&mut state.hard, run);
        restrict_to_labelled(&mut state.soft, run);
        for constraint in state.hard.iter_mut().chain(&mut state.soft) {
            constraint.count_existing(run);
        }
        state
    }

    pub(crate) fn absorb(&mut self, pod: &PodInfo, slot: u32) {
        for constraint in self.hard.iter_mut().chain(&mut self.soft) {
            constraint.absorb(pod, slot);
        }
    }

    /// Finds the emptiest domain of each hard constraint, before `admits` is asked.
    pub(crate) fn prepare(&mut self) {
        for constraint in &mut self.hard {
            let eligible = constraint.pods.iter().zip(&constraint.eligible).filter(|(_, eligible)| **eligible);
            let (mut lowest, mut count) = (i64::MAX, 0);
            for (pods, _) in eligible {
                lowest = lowest.min(*pods);
                count += 1;
            }
            constraint.lowest = if count < constraint.domains_min || count == 0 { 0 } else { lowest };
        }
    }

    pub(crate) fn admits(&self, slot: usize) -> Option<Refusal> {
        for constraint in &self.hard {
            let domain = constraint.domains.of_slot[slot];
            if domain == MISSING {
                return Some(Refusal::SpreadLabelMissing);
            }
            if constraint.pods[domain as usize] + constraint.self_matches - constraint.lowest > constraint.max_skew {
                return Some(Refusal::Spread);
            }
        }
        None
    }

    /// Scores of the candidates between 0 and 100, in their order; empty if there is nothing to score.
    pub(crate) fn score(&self, candidates: &[u32]) -> Vec<i64> {
        if self.soft.is_empty() {
            return Vec::new();
        }
        let weights: Vec<f64> = self.soft.iter().map(|constraint| domain_weight(constraint, candidates)).collect();
        let mut raw: Vec<Option<i64>> = Vec::with_capacity(candidates.len());
        for slot in candidates {
            let mut score = 0.0;
            let mut ignored = false;
            for (constraint, weight) in self.soft.iter().zip(&weights) {
                let domain = constraint.domains.of_slot[*slot as usize];
                if domain == MISSING {
                    ignored |= self.soft_requires_labels;
                    continue;
                }
                #[expect(clippy::cast_precision_loss, reason = "pod counts stay far below 2^52")]
                let share = constraint.pods[domain as usize] as f64 * weight + (constraint.max_skew - 1) as f64;
                score += share;
            }
            #[expect(clippy::cast_possible_truncation, reason = "a score is small, and never negative")]
            raw.push((!ignored).then_some((score + 0.5) as i64));
        }
        let highest = raw.iter().flatten().max().copied().unwrap_or(0);
        let lowest = raw.iter().flatten().min().copied().unwrap_or(0);
        let normalised = raw.into_iter().map(|score| match score {
            None => 0,
            Some(_) if highest == 0 => SCORE_MAX,
            Some(score) => SCORE_MAX * (highest + lowest - score) / highest,
        });
        normalised.collect()
    }
}

/// Upstream weighs a constraint by the logarithm of its number of domains, so that few zones do not drown many hosts.
fn domain_weight(constraint: &Constraint, candidates: &[u32]) -> f64 {
    let size = if constraint.is_hostname {
        candidates.len()
    } else {
        let mut seen = vec![false; constraint.domains.count];
        for slot in candidates {
            if let Some(seen) = seen.get_mut(constraint.domains.of_slot[*slot as usize] as usize) {
                *seen = true;
            }
        }
        seen.into_iter().filter(|seen| *seen).count()
    };
    #[expect(clippy::cast_precision_loss, reason = "node counts stay far below 2^52")]
    let weight = ((size + 2) as f64).ln();
    weight
}

fn default_matching(info: &PodInfo, snapshot: &Snapshot) -> Option<Matching> {
    if let Some(owner) = info.spreading_owner() {
        return Some(Matching::Owner(owner.to_owned()));
    }
    let services = snapshot.services.get(info.namespace())?.values();
    let selecting = services.filter(|selector| selector.matches(info.labels()));
    let selector = selecting.fold(None, |merged: Option<Selector>, selector| {
        Some(merged.map_or_else(|| selector.clone(), |merged| merged.and(selector)))
    })?;
    Some(Matching::Selector { namespace: info.namespace().to_owned(), selector })
}

/// Upstream's system defaults: at most 3 more per host and 5 more per zone, as a preference.
fn default_constraints(matching: Matching, run: &mut Run<'_>) -> Vec<Constraint> {
    let mut constraints = Vec::new();
    for (key, max_skew) in [(HOSTNAME, 3), (ZONE, 5)] {
        let domains = run.domains(key);
        if domains.count == 0 {
            continue;
        }
        let matching = match &matching {
            Matching::Owner(uid) => Matching::Owner(uid.clone()),
            Matching::Selector { namespace, selector } => {
                Matching::Selector { namespace: namespace.clone(), selector: selector.clone() }
            }
        };
        let mut constraint = Constraint {
            is_hostname: key == HOSTNAME,
            max_skew,
            domains_min: 1,
            matching,
            self_matches: 1,
            counts_slot: vec![true; domains.of_slot.len()],
            eligible: vec![true; domains.count],
            pods: vec![0; domains.count],
            lowest: 0,
            domains,
        };
        constraint.count_existing(run);
        constraints.push(constraint);
    }
    constraints
}

fn compile(constraint: &TopologySpreadConstraint, info: &PodInfo, run: &mut Run<'_>) -> Constraint {
    let domains = run.domains(&constraint.topology_key);
    let mut selector = Selector::compile_optional(constraint.label_selector.as_ref());
    for key in constraint.match_label_keys.iter().flatten() {
        if let Some(value) = info.labels().and_then(|labels| labels.get(key)) {
            selector = selector.and_label(key, value);
        }
    }
    let honours_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
    let honours_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    let mut counts_slot = vec![false; domains.of_slot.len()];
    for (slot, node) in run.nodes() {
        let spec = info.pod.spec.as_ref();
        let by_affinity = !honours_affinity
            || spec.is_none_or(|spec| predicate::matches_node_affinity(spec, node.labels(), &node.name));
        let by_taints = !honours_taints
            || predicate::untolerated(node.taints(), info.tolerations(), &["NoSchedule", "NoExecute"]).is_none();
        counts_slot[slot as usize] = by_affinity && by_taints;
    }
    Constraint {
        is_hostname: constraint.topology_key == HOSTNAME,
        max_skew: i64::from(constraint.max_skew),
        domains_min: usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1),
        self_matches: i64::from(selector.matches(info.labels())),
        matching: Matching::Selector { namespace: info.namespace().to_owned(), selector },
        counts_slot,
        eligible: vec![false; domains.count],
        pods: vec![0; domains.count],
        lowest: 0,
        domains,
    }
}

/// A node that lacks one of the keys counts for none of the constraints.
fn restrict_to_labelled(constraints: &mut [Constraint], run: &Run<'_>) {
    for slot in 0..run.snapshot.slots.len() {
        let labelled = constraints.iter().all(|constraint| constraint.domains.of_slot[slot] != MISSING);
        for constraint in &mut *constraints {
            constraint.counts_slot[slot] &= labelled;
            if constraint.counts_slot[slot] {
                constraint.eligible[constraint.domains.of_slot[slot] as usize] = true;
            }
        }
    }
}

#[derive(Debug)]
struct DomainCounts {
    domains: Arc<Domains>,
    counts: Vec<i64>,
}

impl DomainCounts {
    fn new(domains: Arc<Domains>) -> Self {
        Self { counts: vec![0; domains.count], domains }
    }

    fn add(&mut self, slot: u32, amount: i64) {
        if let Some(domain) = self.domain(slot as usize) {
            self.counts[domain] += amount;
        }
    }

    fn domain(&self, slot: usize) -> Option<usize> {
        self.domains.of_slot.get(slot).copied().filter(|domain| *domain != MISSING).map(|domain| domain as usize)
    }

    fn at(&self, slot: usize) -> Option<i64> {
        self.domain(slot).map(|domain| self.counts[domain])
    }
}

/// Pod affinity and anti-affinity of one shape of pod, in both directions.
#[derive(Debug, Default)]
pub(crate) struct PodAffinityState {
    affinity: Vec<DomainCounts>,
    /// Some pod somewhere satisfies all required affinity terms.
    affinity_satisfiable: bool,
    /// The first pod of a group that wants to be together may go anywhere.
    matches_itself: bool,
    anti_affinity: Vec<DomainCounts>,
    existing_anti_affinity: HashMap<String, DomainCounts>,
    preferences: HashMap<String, DomainCounts>,
    domains: HashMap<String, Arc<Domains>>,
}

impl PodAffinityState {
    pub(crate) fn new(info: &Arc<PodInfo>, run: &mut Run<'_>) -> Self {
        let mut state = Self::default();
        let snapshot = run.snapshot;
        let placed_with_terms = snapshot.pods_with_affinities.iter().filter_map(|uid| snapshot.pods.get(uid));
        let placed_with_terms: Vec<Arc<PodInfo>> = placed_with_terms.map(|placed| placed.info.clone()).collect();
        let journal_with_terms =
            run.journal.iter().filter(|(pod, _)| pod.affinities.is_some()).map(|(pod, _)| pod.clone());
        let with_terms: Vec<Arc<PodInfo>> =
            placed_with_terms.into_iter().chain(journal_with_terms).chain([info.clone()]).collect();
        for affinities in with_terms.iter().filter_map(|pod| pod.affinities.as_ref()) {
            let preferred = affinities.preferred.iter().map(|(_, term)| term);
            for term in affinities.required.iter().chain(&affinities.required_anti).chain(preferred) {
                if !state.domains.contains_key(&term.topology_key) {
                    state.domains.insert(term.topology_key.clone(), run.domains(&term.topology_key));
                }
            }
        }
        if let Some(own) = &info.affinities {
            let counts =
                |term: &crate::pod_info::AffinityTerm| DomainCounts::new(state.domains[&term.topology_key].clone());
            state.affinity = own.required.iter().map(counts).collect();
            state.anti_affinity = own.required_anti.iter().map(counts).collect();
            let own_labels = snapshot.namespaces.get(info.namespace());
            state.matches_itself =
                own.required.iter().all(|term| term.matches(info.namespace(), own_labels, info.labels()));
            for placed in snapshot.pods.values() {
                state.absorb(info, &placed.info, placed.slot, snapshot, 1);
            }
        } else {
            for placed in snapshot.pods_with_affinities.iter().filter_map(|uid| snapshot.pods.get(uid)) {
                state.absorb(info, &placed.info, placed.slot, snapshot, 1);
            }
        }
        for (pod, slot) in &run.journal {
            state.absorb(info, pod, *slot, snapshot, 1);
        }
        state
    }

    /// Takes a placed pod in, looking both ways.
    pub(crate) fn absorb(&mut self, info: &PodInfo, placed: &PodInfo, slot: u32, snapshot: &Snapshot, sign: i64) {
        if let Some(own) = &info.affinities {
            let labels = snapshot.namespaces.get(placed.namespace());
            if !own.required.is_empty()
                && own.required.iter().all(|term| term.matches(placed.namespace(), labels, placed.labels()))
            {
                for counts in &mut self.affinity {
                    counts.add(slot, sign);
                }
                self.affinity_satisfiable = true;
            }
            for (term, counts) in own.required_anti.iter().zip(&mut self.anti_affinity) {
                if term.matches(placed.namespace(), labels, placed.labels()) {
                    counts.add(slot, sign);
                }
            }
            for (weight, term) in &own.preferred {
                if term.matches(placed.namespace(), labels, placed.labels()) {
                    add_to(&mut self.preferences, &self.domains, &term.topology_key, slot, sign * weight);
                }
            }
        }
        if let Some(theirs) = &placed.affinities {
            let labels = snapshot.namespaces.get(info.namespace());
            let meant = |term: &crate::pod_info::AffinityTerm| term.matches(info.namespace(), labels, info.labels());
            for term in theirs.required_anti.iter().filter(|term| meant(term)) {
                add_to(&mut self.existing_anti_affinity, &self.domains, &term.topology_key, slot, sign);
            }
            for (weight, term) in theirs.preferred.iter().filter(|(_, term)| meant(term)) {
                add_to(&mut self.preferences, &self.domains, &term.topology_key, slot, sign * weight);
            }
            for term in theirs.required.iter().filter(|term| meant(term)) {
                add_to(&mut self.preferences, &self.domains, &term.topology_key, slot, sign * REQUIRED_AFFINITY_WEIGHT);
            }
        }
    }

    pub(crate) fn admits(&self, slot: usize) -> Option<Refusal> {
        if !self.affinity.is_empty() {
            let labelled = self.affinity.iter().all(|counts| counts.domain(slot).is_some());
            let near = self.affinity.iter().all(|counts| counts.at(slot).is_some_and(|count| count > 0));
            let first_of_group = !self.affinity_satisfiable && self.matches_itself;
            if !labelled || !(near || first_of_group) {
                return Some(Refusal::PodAffinity);
            }
        }
        let occupied = |counts: &DomainCounts| counts.at(slot).is_some_and(|count| count > 0);
        if self.anti_affinity.iter().any(occupied) {
            return Some(Refusal::PodAntiAffinity);
        }
        self.existing_anti_affinity.values().any(occupied).then_some(Refusal::ExistingPodAntiAffinity)
    }

    /// Scores of the candidates between 0 and 100, in their order; empty if there is nothing to score.
    pub(crate) fn score(&self, candidates: &[u32]) -> Vec<i64> {
        if self.preferences.is_empty() {
            return Vec::new();
        }
        let sum = |slot: &u32| self.preferences.values().filter_map(|counts| counts.at(*slot as usize)).sum::<i64>();
        let raw: Vec<i64> = candidates.iter().map(sum).collect();
        let (lowest, highest) = (raw.iter().min().copied().unwrap_or(0), raw.iter().max().copied().unwrap_or(0));
        let range = highest - lowest;
        raw.into_iter().map(|score| if range == 0 { 0 } else { SCORE_MAX * (score - lowest) / range }).collect()
    }
}

fn add_to(
    counts: &mut HashMap<String, DomainCounts>,
    domains: &HashMap<String, Arc<Domains>>,
    key: &str,
    slot: u32,
    amount: i64,
) {
    if let Some(known) = counts.get_mut(key) {
        known.add(slot, amount);
    } else if let Some(domains) = domains.get(key) {
        let mut fresh = DomainCounts::new(domains.clone());
        fresh.add(slot, amount);
        counts.insert(key.to_owned(), fresh);
    }
}
