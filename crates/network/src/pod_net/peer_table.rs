//! All peers with what they need in the kernel, changed one at a time: the cost of a change does not grow with the number of peers. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::peer_claims::Claims;
use super::peers::{HostView, Key, Peer, PeerProblem, Underlay, Value, decide};
use crate::Prefix;
use crate::netlink::PublicKey;

/// More peers than any cluster has; those beyond are left out and reported.
pub(crate) const PEERS_MAX: usize = 20_000;

/// What to make (a value) and what to delete (none).
pub(crate) type Delta = BTreeMap<Key, Option<Value>>;

struct Member {
    peer: Peer,
    items: Vec<(Key, Value)>,
}

struct Wanted {
    value: Value,
    /// How many peers need it: two may have one address.
    holders: usize,
}

/// The peers, and what they need in the kernel.
#[derive(Default)]
pub(crate) struct PeerTable {
    host: HostView,
    members: HashMap<String, Member>,
    claims: Claims,
    wanted: BTreeMap<Key, Wanted>,
    problems: BTreeMap<String, Vec<String>>,
    refused: BTreeSet<String>,
    /// How many routes each interface carries.
    direct_routes: BTreeMap<u32, usize>,
    tunnel_routes: BTreeMap<Underlay, usize>,
}

/// The ranges that a key's node has, and where it is.
#[derive(Default)]
pub(crate) struct Secured {
    pub(crate) destination: Option<IpAddr>,
    pub(crate) ranges: Vec<Prefix>,
}

impl PeerTable {
    pub(crate) fn host(&self) -> &HostView {
        &self.host
    }

    /// The peer of this name.
    pub(crate) fn peer(&self, name: &str) -> Option<&Peer> {
        self.members.get(name).map(|member| &member.peer)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    /// All that is wanted.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = (Key, Value)> {
        self.wanted.iter().map(|(key, wanted)| (*key, wanted.value))
    }

    /// The interfaces that lead to peers directly, with the number of ranges behind each.
    pub(crate) fn direct_routes(&self) -> impl Iterator<Item = (u32, usize)> {
        self.direct_routes.iter().map(|(interface, count)| (*interface, *count))
    }

    /// How many ranges are behind a tunnel.
    pub(crate) fn tunnel_routes(&self, underlay: Underlay) -> usize {
        self.tunnel_routes.get(&underlay).copied().unwrap_or(0)
    }

    /// How many ranges are reached encrypted.
    pub(crate) fn encrypted_routes(&self) -> usize {
        self.wanted.values().filter(|wanted| matches!(wanted.value, Value::Encrypted { .. })).count()
    }

    /// What is wanted for some of the nodes that packets are encrypted for. Costs a look at all peers.
    pub(crate) fn secured(&self, keys: &BTreeSet<PublicKey>) -> BTreeMap<PublicKey, Secured> {
        let mut found: BTreeMap<PublicKey, Secured> = BTreeMap::new();
        for (key, value) in self.wanted() {
            match (key, value) {
                (Key::Secured(of), Value::Destination(address)) if keys.contains(&of) => {
                    found.entry(of).or_default().destination = Some(address);
                }
                (Key::Route(range), Value::Encrypted { key: of, .. }) if keys.contains(&of) => {
                    found.entry(of).or_default().ranges.push(range);
                }
                _ => {}
            }
        }
        found
    }

    /// What is wrong with the peers.
    pub(crate) fn problems(&self) -> impl Iterator<Item = PeerProblem> {
        let texts = self
            .problems
            .iter()
            .flat_map(|(peer, texts)| texts.iter().map(|text| PeerProblem { peer: peer.clone(), text: text.clone() }));
        texts.chain(self.refused.iter().map(|peer| PeerProblem {
            peer: peer.clone(),
            text: format!("{PEERS_MAX} other nodes are known already, so its pods cannot be reached"),
        }))
    }

    /// Takes changes of this host in; if there are any, everything is decided anew.
    pub(crate) fn set_host(&mut self, host: HostView, delta: &mut Delta) {
        if host == self.host {
            return;
        }
        self.host = host;
        self.claims = Claims::default();
        for member in self.members.values() {
            self.claims.add(&member.peer, &self.host);
        }
        let names = self.members.keys().cloned().collect();
        self.decide_again(names, delta);
    }

    /// Takes a change of one peer in; none removes it.
    pub(crate) fn change(&mut self, name: &str, peer: Option<Peer>, delta: &mut Delta) {
        self.refused.remove(name);
        if self.peer(name) == peer.as_ref() {
            return;
        }
        let mut touched = BTreeSet::from([name.to_owned()]);
        if let Some(old) = self.members.get(name) {
            touched.extend(self.claims.rivals(&old.peer));
            self.claims.remove(&old.peer);
        } else if self.members.len() >= PEERS_MAX {
            self.refused.insert(name.to_owned());
            return;
        }
        match peer {
            Some(peer) => {
                self.claims.add(&peer, &self.host);
                touched.extend(self.claims.rivals(&peer));
                let member = self
                    .members
                    .entry(name.to_owned())
                    .or_insert_with(|| Member { peer: peer.clone(), items: Vec::new() });
                member.peer = peer;
                self.decide_again(touched, delta);
            }
            None => {
                self.withdraw(name, delta);
                self.members.remove(name);
                self.problems.remove(name);
                touched.remove(name);
                self.decide_again(touched, delta);
            }
        }
    }

    fn decide_again(&mut self, names: BTreeSet<String>, delta: &mut Delta) {
        // First all that goes, then all that comes: what passes from one peer to another must stay.
        for name in &names {
            self.withdraw(name, delta);
        }
        for name in names {
            let Some(member) = self.members.get_mut(&name) else { continue };
            let decision = decide(&member.peer, &self.host, &self.claims);
            member.items.clone_from(&decision.items);
            for (key, value) in decision.items {
                let wanted = self.wanted.entry(key).or_insert(Wanted { value, holders: 0 });
                if wanted.holders > 0 {
                    count(&mut self.direct_routes, &mut self.tunnel_routes, wanted.value, false);
                }
                *wanted = Wanted { value, holders: wanted.holders + 1 };
                count(&mut self.direct_routes, &mut self.tunnel_routes, value, true);
                delta.insert(key, Some(value));
            }
            if decision.problems.is_empty() {
                self.problems.remove(&name);
            } else {
                self.problems.insert(name, decision.problems);
            }
        }
    }

    fn withdraw(&mut self, name: &str, delta: &mut Delta) {
        let Some(member) = self.members.get_mut(name) else { return };
        for (key, _) in std::mem::take(&mut member.items) {
            let Some(wanted) = self.wanted.get_mut(&key) else { continue };
            wanted.holders -= 1;
            if wanted.holders == 0 {
                count(&mut self.direct_routes, &mut self.tunnel_routes, wanted.value, false);
                self.wanted.remove(&key);
                delta.insert(key, None);
            }
        }
    }
}

/// Counts a route in or out; other values are no routes.
fn count(direct: &mut BTreeMap<u32, usize>, tunnel: &mut BTreeMap<Underlay, usize>, value: Value, is_added: bool) {
    match value {
        Value::Direct { interface, .. } => step(direct, interface, is_added),
        Value::Tunnel { underlay, .. } => step(tunnel, underlay, is_added),
        Value::Admitted | Value::Destination(_) | Value::LinkAddress(_) | Value::Encrypted { .. } => {}
    }
}

fn step<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K, is_added: bool) {
    let count = counts.entry(key).or_insert(0);
    *count = if is_added { *count + 1 } else { count.saturating_sub(1) };
    if *count == 0 {
        // The entry is the one just counted; a map without zeros says which interfaces are in use.
        counts.retain(|_, count| *count > 0);
    }
}
