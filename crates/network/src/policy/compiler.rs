//! Keeps the layout as policies and pods want it: pure. A change recompiles the policies and pods of this node that it concerns, no others.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use super::claims::Claims;
use super::layout::{ChainName, ChainRule, Direction, Layout, PeerSet, PortSet};
use super::model::{Model, PodChange};
use super::numbers::Numbers;
use super::ranges::{self, PortRanges, Ranges};
use super::selections::{Namespaces, Selection, Selections};
use super::state::{Labels, LocalPod, Peer, PodState, Policy, PolicyKey, Port, Rule};
use super::tracked::Tracked;

/// Rules of one policy and direction; what is beyond is left out, so denied.
const RULES_MAX: usize = 4096;

/// What is known, and what follows from it.
#[derive(Default)]
pub(crate) struct Compiler {
    model: Model,
    compiled: Compiled,
}

/// What follows: it can be made anew from the model at any time.
#[derive(Default)]
struct Compiled {
    layout: Layout,
    selections: Selections,
    blocks: Numbers<Ranges>,
    ports: Numbers<PortRanges>,
    policies: Numbers<(PolicyKey, Direction)>,
    groups: Numbers<(Vec<PolicyKey>, Direction)>,
    /// The sets that a policy's chain uses, by the chain's number.
    sets: HashMap<u32, Vec<SetUse>>,
    /// The pods of this node as they are laid out, by uid.
    placements: HashMap<String, Placement>,
    senders: Claims<(String, IpAddr), ()>,
    ingress: Claims<IpAddr, u32>,
    egress: Claims<IpAddr, u32>,
    /// What the next call of [`Compiler::follow`] looks at.
    changed_policies: BTreeSet<PolicyKey>,
    changed_pods: BTreeSet<String>,
}

#[derive(Clone, Copy)]
enum SetUse {
    Selection(u32),
    Blocks(u32),
    Ports(u32),
}

/// What a pod of this node takes part in.
struct Placement {
    interface: String,
    addresses: Vec<IpAddr>,
    groups: Vec<(Direction, u32)>,
}

impl Compiler {
    pub(crate) const fn model(&self) -> &Model {
        &self.model
    }

    pub(crate) const fn layout(&self) -> &Layout {
        &self.compiled.layout
    }

    pub(crate) const fn selections(&self) -> &Selections {
        &self.compiled.selections
    }

    /// A policy, or none where it is gone.
    pub(crate) fn set_policy(&mut self, key: PolicyKey, after: Option<Arc<Policy>>) {
        let before = match &after {
            Some(policy) => self.model.policies.insert(key.clone(), Arc::clone(policy)),
            None => self.model.policies.remove(&key),
        };
        if before == after {
            return;
        }
        for uid in self.model.local_of(&key.namespace) {
            let Some(pod) = self.model.pod(uid) else { continue };
            let of = |policy: &Option<Arc<Policy>>, direction: Direction| {
                policy.as_ref().is_some_and(|policy| direction.is_isolated(policy, &pod.labels))
            };
            if Direction::BOTH.iter().any(|direction| of(&before, *direction) != of(&after, *direction)) {
                self.compiled.changed_pods.insert(uid.clone());
            }
        }
        self.compiled.changed_policies.insert(key);
    }

    /// All policies.
    pub(crate) fn set_policies(&mut self, all: Vec<(PolicyKey, Arc<Policy>)>) {
        let all: BTreeMap<_, _> = all.into_iter().collect();
        let gone: Vec<PolicyKey> = self.model.policies.keys().filter(|key| !all.contains_key(*key)).cloned().collect();
        gone.into_iter().for_each(|key| self.set_policy(key, None));
        all.into_iter().for_each(|(key, policy)| self.set_policy(key, Some(policy)));
    }

    /// A namespace's labels, or none where it is gone.
    pub(crate) fn set_namespace(&mut self, name: String, labels: Option<Labels>) {
        let after = labels.map(Arc::new);
        let before = match &after {
            Some(labels) => self.model.namespaces.insert(name.clone(), Arc::clone(labels)),
            None => self.model.namespaces.remove(&name),
        };
        if before == after {
            return;
        }
        for pod in self.model.pods_of(&name) {
            self.compiled.selections.change(Some((pod, before.as_deref())), Some((pod, after.as_deref())));
        }
    }

    /// All namespaces.
    pub(crate) fn set_namespaces(&mut self, all: Vec<(String, Labels)>) {
        let named: HashSet<&String> = all.iter().map(|(name, _)| name).collect();
        let gone: Vec<String> = self.model.namespaces.keys().filter(|name| !named.contains(name)).cloned().collect();
        gone.into_iter().for_each(|name| self.set_namespace(name, None));
        all.into_iter().for_each(|(name, labels)| self.set_namespace(name, Some(labels)));
    }

    /// What the API tells of a pod; none where it is gone.
    pub(crate) fn set_pod(&mut self, uid: &str, state: Option<Arc<PodState>>) {
        let change = self.model.set_told(uid, state);
        self.take_change(uid, &change);
    }

    /// What the node tells of a pod of its own; none where it is detached.
    pub(crate) fn set_local(&mut self, uid: &str, pod: Option<LocalPod>) {
        let change = self.model.set_local(uid, pod);
        self.compiled.changed_pods.insert(uid.to_owned());
        self.take_change(uid, &change);
    }

    fn take_change(&mut self, uid: &str, change: &PodChange) {
        if change.before == change.after {
            return;
        }
        if self.model.local.contains_key(uid) {
            self.compiled.changed_pods.insert(uid.to_owned());
        }
        let with_labels = |pod: &Option<Arc<PodState>>| {
            let pod = pod.clone()?;
            let labels = self.model.namespaces.get(&pod.namespace).cloned();
            Some((pod, labels))
        };
        let (before, after) = (with_labels(&change.before), with_labels(&change.after));
        self.compiled.selections.change(
            before.as_ref().map(|(pod, labels)| (&**pod, labels.as_deref())),
            after.as_ref().map(|(pod, labels)| (&**pod, labels.as_deref())),
        );
    }

    /// Brings the layout to what is known. Numbers that the same content had before stay.
    pub(crate) fn follow(&mut self) {
        let Self { model, compiled } = self;
        let mut work = Work { model, compiled, unused_groups: Vec::new(), unused_sets: Vec::new() };
        work.follow();
    }

    /// Begins anew: everything that is known is laid out as if nothing were in the kernel.
    pub(crate) fn start_over(&mut self) {
        self.compiled = Compiled::default();
        self.compiled.changed_pods.extend(self.model.local.keys().cloned());
        self.follow();
    }

    /// The layout is in the kernel.
    pub(crate) fn settle(&mut self) {
        self.compiled.layout.settle();
        self.compiled.selections.settle();
    }
}

/// The number of a set's content for one more user; the set is laid out where nobody used it before.
fn lay_out<K: Hash + Eq>(numbers: &mut Numbers<K>, sets: &mut Tracked<u32, Arc<K>>, content: K) -> u32 {
    let (id, new) = numbers.hold(content);
    if new.is_some() {
        sets.set(id, new);
    }
    id
}

/// One call of [`Compiler::follow`]. What is no longer used is given back at its end, so that what merely changes hands keeps its number.
struct Work<'a> {
    model: &'a Model,
    compiled: &'a mut Compiled,
    unused_groups: Vec<(Direction, u32)>,
    unused_sets: Vec<SetUse>,
}

impl Work<'_> {
    fn follow(&mut self) {
        for key in std::mem::take(&mut self.compiled.changed_policies) {
            // One that is gone goes with the last of its pods.
            let Some(policy) = self.model.policies.get(&key) else { continue };
            for direction in Direction::BOTH {
                // One that no pod of this node has is not laid out.
                if let Some(id) = self.compiled.policies.find(&(key.clone(), direction)) {
                    self.write_policy(id, &key, policy, direction);
                }
            }
        }
        for uid in std::mem::take(&mut self.compiled.changed_pods) {
            self.place(&uid);
        }
        for (direction, id) in std::mem::take(&mut self.unused_groups) {
            self.release_group(direction, id);
        }
        for set in std::mem::take(&mut self.unused_sets) {
            self.release_set(set);
        }
    }

    fn place(&mut self, uid: &str) {
        let after = match (self.model.local.get(uid), self.model.pod(uid)) {
            (Some(local), Some(pod)) => Some(Placement {
                interface: local.interface.clone(),
                addresses: pod.addresses.clone(),
                groups: Direction::BOTH
                    .into_iter()
                    .filter_map(|direction| Some((direction, self.hold_group(direction, pod)?)))
                    .collect(),
            }),
            _ => None,
        };
        let before = self.compiled.placements.remove(uid);
        let Compiled { layout, senders, ingress, egress, placements, .. } = &mut *self.compiled;
        let mut touched = BTreeSet::new();
        if let Some(Placement { interface, addresses, groups }) = before {
            for address in addresses {
                senders.remove((interface.clone(), address), uid);
                ingress.remove(address, uid);
                egress.remove(address, uid);
                touched.insert((interface.clone(), address));
            }
            self.unused_groups.extend(groups);
        }
        if let Some(placement) = after {
            for address in &placement.addresses {
                senders.insert((placement.interface.clone(), *address), uid, ());
                for (direction, id) in &placement.groups {
                    match direction {
                        Direction::Ingress => ingress.insert(*address, uid, *id),
                        Direction::Egress => egress.insert(*address, uid, *id),
                    }
                }
                touched.insert((placement.interface.clone(), *address));
            }
            placements.insert(uid.to_owned(), placement);
        }
        for sender in touched {
            let address = sender.1;
            let (to, from) = (ingress.of(&address), egress.of(&address));
            layout.policed.set(address, to.or(from).map(|_| ()));
            layout.ingress.set(address, to);
            layout.egress.set(address, from);
            let is_sender = senders.of(&sender);
            layout.senders.set(sender, is_sender);
        }
    }

    /// The number of the set of policies that isolate a pod in a direction; none where none does.
    fn hold_group(&mut self, direction: Direction, pod: &PodState) -> Option<u32> {
        let keys: Vec<PolicyKey> = self
            .model
            .policies_of(&pod.namespace)
            .filter(|(_, policy)| direction.is_isolated(policy, &pod.labels))
            .map(|(key, _)| key.clone())
            .collect();
        if keys.is_empty() {
            return None;
        }
        let (id, new) = self.compiled.groups.hold((keys, direction));
        if let Some(content) = new {
            let mut rules: Vec<ChainRule> =
                content.0.iter().map(|key| ChainRule::Jump(self.hold_policy(key, direction))).collect();
            rules.push(ChainRule::Drop);
            self.compiled.layout.chains.set(ChainName::Group(direction, id), Some(rules));
        }
        Some(id)
    }

    fn hold_policy(&mut self, key: &PolicyKey, direction: Direction) -> ChainName {
        let (id, new) = self.compiled.policies.hold((key.clone(), direction));
        if new.is_some()
            && let Some(policy) = self.model.policies.get(key)
        {
            self.write_policy(id, key, policy, direction);
        }
        ChainName::Policy(direction, id)
    }

    fn release_group(&mut self, direction: Direction, id: u32) {
        let Some(content) = self.compiled.groups.release(id) else { return };
        self.compiled.layout.chains.set(ChainName::Group(direction, id), None);
        for key in &content.0 {
            let Some(id) = self.compiled.policies.find(&(key.clone(), direction)) else { continue };
            if self.compiled.policies.release(id).is_some() {
                self.compiled.layout.chains.set(ChainName::Policy(direction, id), None);
                self.unused_sets.extend(self.compiled.sets.remove(&id).unwrap_or_default());
            }
        }
    }

    fn release_set(&mut self, set: SetUse) {
        let Compiled { layout, selections, blocks, ports, .. } = &mut *self.compiled;
        match set {
            SetUse::Selection(id) if selections.release(id) => layout.selections.set(id, None),
            SetUse::Blocks(id) if blocks.release(id).is_some() => layout.blocks.set(id, None),
            SetUse::Ports(id) if ports.release(id).is_some() => layout.ports.set(id, None),
            _ => {}
        }
    }

    /// Lays out what a policy allows, instead of what it allowed.
    fn write_policy(&mut self, id: u32, key: &PolicyKey, policy: &Policy, direction: Direction) {
        let mut sets = Vec::new();
        let rules = self.rules(key, direction.rules(policy).map(Vec::as_slice).unwrap_or_default(), &mut sets);
        self.compiled.layout.chains.set(ChainName::Policy(direction, id), Some(rules));
        self.unused_sets.extend(self.compiled.sets.insert(id, sets).unwrap_or_default());
    }

    fn rules(&mut self, key: &PolicyKey, all: &[Rule], sets: &mut Vec<SetUse>) -> Vec<ChainRule> {
        let mut rules = Vec::new();
        let mut known = HashSet::new();
        for rule in all {
            let peers = self.peers(key, rule, sets);
            let ports = self.ports(rule, sets);
            for peer in &peers {
                for port in &ports {
                    if !known.insert((*peer, *port)) {
                        continue;
                    }
                    if rules.len() == RULES_MAX {
                        tracing::warn!(
                            namespace = key.namespace,
                            policy = key.name,
                            "a network policy has more than {RULES_MAX} pairs of peers and ports: what is beyond is denied; split it"
                        );
                        return rules;
                    }
                    rules.push(ChainRule::Accept(*peer, *port));
                }
            }
        }
        rules
    }

    fn selection(&mut self, selection: Selection, sets: &mut Vec<SetUse>) -> u32 {
        let (id, new) = self.compiled.selections.hold(selection, self.model);
        if let Some(selection) = new {
            self.compiled.layout.selections.set(id, Some(selection));
        }
        sets.push(SetUse::Selection(id));
        id
    }

    /// The sets that allow: none of them means nobody.
    fn peers(&mut self, key: &PolicyKey, rule: &Rule, used: &mut Vec<SetUse>) -> Vec<PeerSet> {
        if rule.peers.is_empty() {
            return vec![PeerSet::Any];
        }
        let mut sets = Vec::new();
        let mut blocks = Vec::new();
        for peer in &rule.peers {
            match peer {
                Peer::Pods { namespaces, pods } => {
                    let namespaces = match namespaces {
                        None => Namespaces::One(key.namespace.clone()),
                        Some(selector) => Namespaces::Matching(selector.clone()),
                    };
                    let selection = Selection::Pods { namespaces, pods: pods.clone() };
                    sets.push(PeerSet::Selection(self.selection(selection, used)));
                }
                Peer::Block { range, except } => blocks.push((range, except.as_slice())),
                Peer::Nobody => {}
            }
        }
        let ranges = ranges::blocks(blocks);
        if !ranges.is_empty() {
            let id = lay_out(&mut self.compiled.blocks, &mut self.compiled.layout.blocks, ranges);
            used.push(SetUse::Blocks(id));
            sets.push(PeerSet::Blocks(id));
        }
        sets.sort_unstable();
        sets.dedup();
        sets
    }

    fn ports(&mut self, rule: &Rule, used: &mut Vec<SetUse>) -> Vec<PortSet> {
        if rule.ports.is_empty() {
            return vec![PortSet::Any];
        }
        let mut sets = Vec::new();
        let mut numbers = Vec::new();
        for port in &rule.ports {
            match port {
                Port::Numbers { protocol, first, last } => numbers.push((*protocol, *first, *last)),
                Port::Named { protocol, name } => {
                    let named = Selection::Named { name: name.clone(), protocol: protocol.number() };
                    sets.push(PortSet::Named(self.selection(named, used)));
                }
            }
        }
        let numbers = ranges::ports(numbers);
        if !numbers.is_empty() {
            let id = lay_out(&mut self.compiled.ports, &mut self.compiled.layout.ports, numbers);
            used.push(SetUse::Ports(id));
            sets.push(PortSet::Numbers(id));
        }
        sets.sort_unstable();
        sets.dedup();
        sets
    }
}
