//! Pods that selectors select, as elements of sets that are kept up to date one pod at a time.
//!
//! Two pods may have one address for a moment (the old one's end has not been told yet), so elements are counted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use object::selector::labels::Selector;

use super::model::Model;
use super::state::{Labels, PodState};

/// What is selected.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Selection {
    /// The addresses of pods.
    Pods { namespaces: Namespaces, pods: Selector },
    /// Addresses and ports of all pods that have a port of this name.
    Named { name: String, protocol: u8 },
}

/// The namespaces of pods.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Namespaces {
    One(String),
    Matching(Selector),
}

/// An element of a selection's set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Member {
    Address(IpAddr),
    Port(IpAddr, u8, u16),
}

impl Member {
    pub(crate) const fn address(&self) -> IpAddr {
        match self {
            Self::Address(address) | Self::Port(address, ..) => *address,
        }
    }
}

impl Selection {
    /// The elements that a pod contributes.
    fn members(&self, pod: &PodState, namespace: Option<&Labels>) -> Vec<Member> {
        match self {
            Self::Pods { namespaces, pods } => {
                let is_in = match namespaces {
                    Namespaces::One(name) => *name == pod.namespace,
                    // Labels of a namespace that is not known (yet) match nothing.
                    Namespaces::Matching(selector) => namespace.is_some_and(|labels| matches(selector, labels)),
                };
                if is_in && matches(pods, &pod.labels) {
                    pod.addresses.iter().map(|address| Member::Address(*address)).collect()
                } else {
                    Vec::new()
                }
            }
            Self::Named { name, protocol } => {
                let ports = pod.ports.iter().filter(|port| port.name == *name && port.protocol == *protocol);
                let mut all: Vec<Member> = ports
                    .flat_map(|port| pod.addresses.iter().map(|address| Member::Port(*address, *protocol, port.port)))
                    .collect();
                all.sort_unstable();
                all.dedup();
                all
            }
        }
    }
}

/// Whether labels match.
pub(crate) fn matches(selector: &Selector, labels: &Labels) -> bool {
    selector.matches_with(|key| labels.get(key).map(String::as_str))
}

struct Live {
    id: u32,
    counts: HashMap<Member, u32>,
}

/// The selections that rules use, each with its members.
#[derive(Default)]
pub(crate) struct Selections {
    live: HashMap<Arc<Selection>, Live>,
    next_id: u32,
    /// Members touched since the last commit, and whether they were there then.
    touched: HashMap<(u32, Member), bool>,
}

/// The difference since the last commit, by the number of the set.
#[derive(Default)]
pub(crate) struct MemberChanges {
    pub(crate) added: HashMap<u32, Vec<Member>>,
    pub(crate) removed: HashMap<u32, Vec<Member>>,
}

impl Selections {
    /// The number of a selection's set; one that is new is filled from the pods known. Returns whether it is new, too.
    pub(crate) fn use_one(&mut self, selection: &Arc<Selection>, model: &Model) -> (u32, bool) {
        if let Some(live) = self.live.get(selection) {
            return (live.id, false);
        }
        let mut counts: HashMap<Member, u32> = HashMap::new();
        let mut count = |pod: &PodState| {
            let labels = model.namespaces.get(&pod.namespace).map(AsRef::as_ref);
            for member in selection.members(pod, labels) {
                *counts.entry(member).or_default() += 1;
            }
        };
        match &**selection {
            Selection::Pods { namespaces: Namespaces::One(name), .. } => model.pods_of(name).for_each(|pod| count(pod)),
            _ => model.pods().for_each(|pod| count(pod)),
        }
        self.next_id += 1;
        self.live.insert(Arc::clone(selection), Live { id: self.next_id, counts });
        (self.next_id, true)
    }

    /// Forgets the selections that are not named; returns the numbers of their sets.
    pub(crate) fn retain(&mut self, used: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut gone = Vec::new();
        self.live.retain(|_, live| {
            let keep = used(live.id);
            if !keep {
                gone.push(live.id);
            }
            keep
        });
        self.touched.retain(|(id, _), _| !gone.contains(id));
        gone
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.live.clear();
        self.touched.clear();
    }

    /// A pod, or the labels of its namespace, changed.
    pub(crate) fn change(
        &mut self,
        before: Option<(&PodState, Option<&Labels>)>,
        after: Option<(&PodState, Option<&Labels>)>,
    ) {
        for (selection, live) in &mut self.live {
            let of = |state: Option<(&PodState, Option<&Labels>)>| {
                state.map(|(pod, labels)| selection.members(pod, labels)).unwrap_or_default()
            };
            let (old, new) = (of(before), of(after));
            if old == new {
                continue;
            }
            for member in new {
                let count = live.counts.entry(member).or_default();
                self.touched.entry((live.id, member)).or_insert(*count > 0);
                *count += 1;
            }
            for member in old {
                if let Some(count) = live.counts.get_mut(&member) {
                    self.touched.entry((live.id, member)).or_insert(true);
                    *count -= 1;
                    if *count == 0 {
                        live.counts.remove(&member);
                    }
                }
            }
        }
    }

    /// The members of each set, by its number.
    pub(crate) fn sets(&self) -> impl Iterator<Item = (u32, &Selection, impl Iterator<Item = &Member>)> {
        self.live.iter().map(|(selection, live)| (live.id, &**selection, live.counts.keys()))
    }

    /// What changed since the last call.
    pub(crate) fn take_changes(&mut self) -> MemberChanges {
        let mut changes = MemberChanges::default();
        if self.touched.is_empty() {
            return changes;
        }
        let by_id: HashMap<u32, &Live> = self.live.values().map(|live| (live.id, live)).collect();
        for ((id, member), was) in self.touched.drain() {
            let is = by_id.get(&id).is_some_and(|live| live.counts.contains_key(&member));
            match (was, is) {
                (false, true) => changes.added.entry(id).or_default().push(member),
                (true, false) => changes.removed.entry(id).or_default().push(member),
                _ => {}
            }
        }
        changes
    }

    /// Whether a set has a member.
    pub(crate) fn contains(&self, selection: &Selection, member: &Member) -> bool {
        self.live.get(selection).is_some_and(|live| live.counts.contains_key(member))
    }
}
