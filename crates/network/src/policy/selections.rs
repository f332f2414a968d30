//! Pods that selectors select, as elements of sets that are kept up to date one pod at a time.
//!
//! Two pods may have one address for a moment (the old one's end has not been told yet), so elements are counted.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use object::selector::labels::Selector;

use super::model::Model;
use super::numbers::Numbers;
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
    /// The one namespace whose pods it selects; none where it may select in any.
    const fn namespace(&self) -> Option<&str> {
        match self {
            Self::Pods { namespaces: Namespaces::One(name), .. } => Some(name.as_str()),
            _ => None,
        }
    }

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

/// The selections that rules use, each with its members.
#[derive(Default)]
pub(crate) struct Selections {
    numbers: Numbers<Selection>,
    live: HashMap<u32, Live>,
    /// The numbers of those that select in one namespace alone, by its name, and of the others.
    in_namespace: HashMap<String, HashSet<u32>>,
    anywhere: HashSet<u32>,
    /// Members touched since the last commit, and whether they were there then.
    touched: HashMap<(u32, Member), bool>,
}

struct Live {
    selection: Arc<Selection>,
    /// How many pods contribute each member.
    counts: HashMap<Member, u32>,
}

/// The difference since the last commit, by the number of the set.
#[derive(Default)]
pub(crate) struct MemberChanges {
    pub(crate) added: HashMap<u32, Vec<Member>>,
    pub(crate) removed: HashMap<u32, Vec<Member>>,
}

impl Selections {
    /// The number of a selection's set for one more user; with the selection where it is new, and so was filled from the pods known.
    pub(crate) fn hold(&mut self, selection: Selection, model: &Model) -> (u32, Option<Arc<Selection>>) {
        let (id, new) = self.numbers.hold(selection);
        let Some(selection) = new else { return (id, None) };
        let mut counts: HashMap<Member, u32> = HashMap::new();
        let mut count = |pod: &PodState| {
            let labels = model.namespaces.get(&pod.namespace).map(AsRef::as_ref);
            for member in selection.members(pod, labels) {
                *counts.entry(member).or_default() += 1;
            }
        };
        match selection.namespace() {
            Some(name) => {
                model.pods_of(name).for_each(|pod| count(pod));
                self.in_namespace.entry(name.to_owned()).or_default().insert(id);
            }
            None => {
                model.pods().for_each(|pod| count(pod));
                self.anywhere.insert(id);
            }
        }
        self.live.insert(id, Live { selection: Arc::clone(&selection), counts });
        (id, Some(selection))
    }

    /// One user less; returns whether it was the last one.
    pub(crate) fn release(&mut self, id: u32) -> bool {
        let Some(selection) = self.numbers.release(id) else { return false };
        self.live.remove(&id);
        match selection.namespace() {
            Some(name) => {
                if let Some(ids) = self.in_namespace.get_mut(name) {
                    ids.remove(&id);
                    if ids.is_empty() {
                        self.in_namespace.remove(name);
                    }
                }
            }
            None => {
                self.anywhere.remove(&id);
            }
        }
        true
    }

    /// A pod, or the labels of its namespace, changed.
    pub(crate) fn change(
        &mut self,
        before: Option<(&PodState, Option<&Labels>)>,
        after: Option<(&PodState, Option<&Labels>)>,
    ) {
        let namespaces: BTreeSet<&String> = [before, after].iter().flatten().map(|(pod, _)| &pod.namespace).collect();
        let own = namespaces.into_iter().filter_map(|name| self.in_namespace.get(name)).flatten();
        for id in own.chain(&self.anywhere) {
            let Some(live) = self.live.get_mut(id) else { continue };
            let of = |state: Option<(&PodState, Option<&Labels>)>| {
                state.map(|(pod, labels)| live.selection.members(pod, labels)).unwrap_or_default()
            };
            let (old, new) = (of(before), of(after));
            if old == new {
                continue;
            }
            for member in new {
                let count = live.counts.entry(member).or_default();
                self.touched.entry((*id, member)).or_insert(*count > 0);
                *count += 1;
            }
            for member in old {
                if let Some(count) = live.counts.get_mut(&member) {
                    self.touched.entry((*id, member)).or_insert(true);
                    *count -= 1;
                    if *count == 0 {
                        live.counts.remove(&member);
                    }
                }
            }
        }
    }

    /// The members of a set.
    pub(crate) fn members(&self, id: u32) -> impl Iterator<Item = &Member> {
        self.live.get(&id).into_iter().flat_map(|live| live.counts.keys())
    }

    /// What changed since the last commit in the sets that are still used. Sets that are new since then are in it, too: see [`Self::members`].
    pub(crate) fn changes(&self) -> MemberChanges {
        let mut changes = MemberChanges::default();
        for ((id, member), was) in &self.touched {
            let Some(live) = self.live.get(id) else { continue };
            match (was, live.counts.contains_key(member)) {
                (false, true) => changes.added.entry(*id).or_default().push(*member),
                (true, false) => changes.removed.entry(*id).or_default().push(*member),
                _ => {}
            }
        }
        changes
    }

    /// The commit.
    pub(crate) fn settle(&mut self) {
        self.touched.clear();
    }

    /// Whether a set has a member.
    pub(crate) fn contains(&self, id: u32, member: &Member) -> bool {
        self.live.get(&id).is_some_and(|live| live.counts.contains_key(member))
    }
}
