//! Decides which chains, ranges, port lists and maps the tables hold: pure. What the sets of selections hold follows pod by pod.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use super::model::Model;
use super::ranges::{self, PortRanges, Ranges};
use super::selections::{Namespaces, Selection, Selections, matches};
use super::state::{Peer, Policy, PolicyKey, Port, Rule};

/// Rules of one policy and direction; what is beyond is left out, so denied.
const RULES_MAX: usize = 4096;

/// The side of a connection that a pod is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub(crate) const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    const fn rules(self, policy: &Policy) -> Option<&Vec<Rule>> {
        match self {
            Self::Ingress => policy.ingress.as_ref(),
            Self::Egress => policy.egress.as_ref(),
        }
    }

    fn policy_chain(self, id: u32) -> String {
        format!("{}-{id}", if self == Self::Ingress { "in" } else { "out" })
    }

    fn group_chain(self, id: u32) -> String {
        format!("{}-{id}", if self == Self::Ingress { "to" } else { "from" })
    }
}

/// The other side, by the number of its set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum PeerSet {
    Any,
    Selection(u32),
    Blocks(u32),
}

/// The destination's ports, by the number of their set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum PortSet {
    Any,
    Numbers(u32),
    Named(u32),
}

/// A rule of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChainRule {
    Jump(String),
    Accept(PeerSet, PortSet),
    Drop,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) direction: Direction,
    pub(crate) rules: Vec<ChainRule>,
}

/// What the tables hold, but for the members of selections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) selections: BTreeMap<u32, Arc<Selection>>,
    pub(crate) blocks: BTreeMap<u32, Ranges>,
    pub(crate) ports: BTreeMap<u32, PortRanges>,
    pub(crate) chains: BTreeMap<String, Chain>,
    /// Isolated addresses of this node and their chains.
    pub(crate) ingress: BTreeMap<IpAddr, String>,
    pub(crate) egress: BTreeMap<IpAddr, String>,
    /// What may come out of which interface.
    pub(crate) senders: BTreeSet<(String, IpAddr)>,
}

impl Layout {
    /// The isolated addresses in a direction.
    pub(crate) const fn isolated(&self, direction: Direction) -> &BTreeMap<IpAddr, String> {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// The addresses that are isolated in any direction.
    pub(crate) fn policed(&self) -> BTreeSet<IpAddr> {
        self.ingress.keys().chain(self.egress.keys()).copied().collect()
    }
}

/// Numbers for contents: the same content keeps its number as long as it is used.
struct Numbers<K> {
    ids: HashMap<K, u32>,
    next: u32,
}

impl<K> Default for Numbers<K> {
    fn default() -> Self {
        Self { ids: HashMap::new(), next: 0 }
    }
}

impl<K: Hash + Eq> Numbers<K> {
    fn of(&mut self, key: K) -> u32 {
        let next = &mut self.next;
        *self.ids.entry(key).or_insert_with(|| {
            *next += 1;
            *next
        })
    }
}

/// The numbers of everything that has a name in the kernel.
#[derive(Default)]
pub(crate) struct Names {
    blocks: Numbers<Ranges>,
    ports: Numbers<PortRanges>,
    policies: Numbers<(PolicyKey, Direction)>,
    groups: Numbers<(Vec<PolicyKey>, Direction)>,
}

impl Names {
    fn retain(&mut self, layout: &Layout) {
        self.blocks.ids.retain(|_, id| layout.blocks.contains_key(id));
        self.ports.ids.retain(|_, id| layout.ports.contains_key(id));
        self.policies.ids.retain(|(_, direction), id| layout.chains.contains_key(&direction.policy_chain(*id)));
        self.groups.ids.retain(|(_, direction), id| layout.chains.contains_key(&direction.group_chain(*id)));
    }
}

/// Compiles what is known. Selections that are new get numbers and members; those that are no longer used stay for the caller to forget.
pub(crate) fn compile(model: &Model, selections: &mut Selections, names: &mut Names) -> Layout {
    let mut layout = Layout::default();
    for (uid, local) in &model.local {
        let Some(pod) = model.pod(uid) else { continue };
        for address in &pod.addresses {
            layout.senders.insert((local.interface.clone(), *address));
        }
        for direction in Direction::BOTH {
            let applying: Vec<(&PolicyKey, &Arc<Policy>)> = model
                .policies_of(&pod.namespace)
                .filter(|(_, policy)| direction.rules(policy).is_some() && matches(&policy.pods, &pod.labels))
                .collect();
            if applying.is_empty() {
                continue;
            }
            let keys: Vec<PolicyKey> = applying.iter().map(|(key, _)| PolicyKey::clone(key)).collect();
            let group = direction.group_chain(names.groups.of((keys, direction)));
            if !layout.chains.contains_key(&group) {
                let mut rules = Vec::new();
                for (key, policy) in applying {
                    let chain = direction.policy_chain(names.policies.of((key.clone(), direction)));
                    if !layout.chains.contains_key(&chain) {
                        let compiled =
                            Compiler { model, selections, names, layout: &mut layout }.policy(key, policy, direction);
                        layout.chains.insert(chain.clone(), Chain { direction, rules: compiled });
                    }
                    rules.push(ChainRule::Jump(chain));
                }
                rules.push(ChainRule::Drop);
                layout.chains.insert(group.clone(), Chain { direction, rules });
            }
            let isolated = match direction {
                Direction::Ingress => &mut layout.ingress,
                Direction::Egress => &mut layout.egress,
            };
            isolated.extend(pod.addresses.iter().map(|address| (*address, group.clone())));
        }
    }
    names.retain(&layout);
    layout
}

struct Compiler<'a> {
    model: &'a Model,
    selections: &'a mut Selections,
    names: &'a mut Names,
    layout: &'a mut Layout,
}

impl Compiler<'_> {
    fn policy(&mut self, key: &PolicyKey, policy: &Policy, direction: Direction) -> Vec<ChainRule> {
        let mut rules = Vec::new();
        for rule in direction.rules(policy).into_iter().flatten() {
            let peers = self.peers(key, rule);
            let ports = self.ports(rule);
            for peer in &peers {
                for port in &ports {
                    let accept = ChainRule::Accept(*peer, *port);
                    if !rules.contains(&accept) {
                        rules.push(accept);
                    }
                }
            }
            if rules.len() > RULES_MAX {
                tracing::warn!(
                    namespace = key.namespace,
                    policy = key.name,
                    "a network policy has more than {RULES_MAX} pairs of peers and ports: what is beyond is denied; split it"
                );
                rules.truncate(RULES_MAX);
                break;
            }
        }
        rules
    }

    fn selection(&mut self, selection: Selection) -> u32 {
        let selection = Arc::new(selection);
        let (id, _) = self.selections.use_one(&selection, self.model);
        self.layout.selections.insert(id, selection);
        id
    }

    /// The sets that allow: none of them means nobody.
    fn peers(&mut self, key: &PolicyKey, rule: &Rule) -> Vec<PeerSet> {
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
                    sets.push(PeerSet::Selection(self.selection(Selection::Pods { namespaces, pods: pods.clone() })));
                }
                Peer::Block { range, except } => blocks.push((range, except.as_slice())),
                Peer::Nobody => {}
            }
        }
        let ranges = ranges::blocks(blocks);
        if !ranges.is_empty() {
            let id = self.names.blocks.of(ranges.clone());
            self.layout.blocks.insert(id, ranges);
            sets.push(PeerSet::Blocks(id));
        }
        sets.sort_unstable();
        sets.dedup();
        sets
    }

    fn ports(&mut self, rule: &Rule) -> Vec<PortSet> {
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
                    sets.push(PortSet::Named(self.selection(named)));
                }
            }
        }
        let numbers = ranges::ports(numbers);
        if !numbers.is_empty() {
            let id = self.names.ports.of(numbers.clone());
            self.layout.ports.insert(id, numbers);
            sets.push(PortSet::Numbers(id));
        }
        sets.sort_unstable();
        sets.dedup();
        sets
    }
}
