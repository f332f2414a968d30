//! Who claims which range, address and Ethernet address, so that two peers that want the same are found without comparing all. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::peers::{HostView, PARTS_PER_PEER_MAX, Peer, link_address};
use crate::Prefix;
use crate::netlink::LinkAddress;

/// A peer by its age and, among those that came in the same second, its name: who was there first keeps what it has.
type Claimant = (i64, String);

fn claimant(peer: &Peer) -> Claimant {
    (peer.since_s, peer.name.clone())
}

/// The claims of all peers.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    ranges: BTreeMap<Prefix, BTreeSet<Claimant>>,
    addresses: HashMap<IpAddr, BTreeSet<Claimant>>,
    link_addresses: HashMap<LinkAddress, BTreeSet<Claimant>>,
}

impl Claims {
    /// Notes the claims of a peer. What this node would not route anyway is no claim: one wrong range must not keep the others from theirs.
    pub(crate) fn add(&mut self, peer: &Peer, host: &HostView) {
        for range in host.routable_ranges(peer) {
            self.ranges.entry(range).or_default().insert(claimant(peer));
        }
        for address in peer.addresses.iter().take(PARTS_PER_PEER_MAX) {
            self.addresses.entry(address.to_canonical()).or_default().insert(claimant(peer));
        }
        if let Some(link_address) = link_address(&peer.pod_ranges) {
            self.link_addresses.entry(link_address).or_default().insert(claimant(peer));
        }
    }

    /// Forgets the claims of a peer, given as they were added.
    pub(crate) fn remove(&mut self, peer: &Peer) {
        for range in peer.pod_ranges.iter().take(PARTS_PER_PEER_MAX) {
            if let Some(names) = self.ranges.get_mut(range) {
                names.remove(&claimant(peer));
                if names.is_empty() {
                    self.ranges.remove(range);
                }
            }
        }
        for address in peer.addresses.iter().take(PARTS_PER_PEER_MAX) {
            forget(&mut self.addresses, &address.to_canonical(), &claimant(peer));
        }
        if let Some(link_address) = link_address(&peer.pod_ranges) {
            forget(&mut self.link_addresses, &link_address, &claimant(peer));
        }
    }

    /// All whose claims meet one of this peer's, itself included if it is there.
    pub(crate) fn rivals(&self, peer: &Peer) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for range in peer.pod_ranges.iter().take(PARTS_PER_PEER_MAX) {
            names.extend(self.overlapping(range).flat_map(|(_, names)| names).map(|(_, name)| name.clone()));
        }
        for address in peer.addresses.iter().take(PARTS_PER_PEER_MAX) {
            let of_address = self.addresses.get(&address.to_canonical()).into_iter().flatten();
            names.extend(of_address.map(|(_, name)| name.clone()));
        }
        let link_address = link_address(&peer.pod_ranges);
        let of_link_address = link_address.and_then(|one| self.link_addresses.get(&one)).into_iter().flatten();
        names.extend(of_link_address.map(|(_, name)| name.clone()));
        names
    }

    /// Who keeps a range from this peer: one that was in the cluster before it. So all nodes decide alike, whatever they heard of first. The
    /// overlap of prefixes leaves nobody between two chairs: who overlaps a loser overlaps the winner as well.
    pub(crate) fn range_rival(&self, range: &Prefix, peer: &Peer) -> Option<(&str, Prefix)> {
        self.overlapping(range)
            .filter_map(|(range, claimants)| claimants.first().map(|first| (first, *range)))
            .min()
            .filter(|(first, _)| **first < claimant(peer))
            .map(|((_, name), range)| (name.as_str(), range))
    }

    /// Another peer with this address.
    pub(crate) fn address_rival(&self, address: IpAddr, name: &str) -> Option<&str> {
        self.addresses.get(&address)?.iter().map(|(_, other)| other.as_str()).find(|other| *other != name)
    }

    /// Who keeps an Ethernet address from this peer.
    pub(crate) fn link_address_rival(&self, link_address: LinkAddress, peer: &Peer) -> Option<&str> {
        let first = self.link_addresses.get(&link_address)?.first();
        first.filter(|first| **first < claimant(peer)).map(|(_, name)| name.as_str())
    }

    /// The claims that share an address with a range: those within it, and those around it.
    fn overlapping(&self, range: &Prefix) -> impl Iterator<Item = (&Prefix, &BTreeSet<Claimant>)> {
        let around = (0..range.length()).map(|length| Prefix::new(range.network(), length));
        let around = around.filter_map(|wider| self.ranges.get_key_value(&wider));
        around.chain(self.ranges.range(*range..=Prefix::host(range.last())))
    }
}

fn forget<K: std::hash::Hash + Eq>(claims: &mut HashMap<K, BTreeSet<Claimant>>, key: &K, claimant: &Claimant) {
    if let Some(names) = claims.get_mut(key) {
        names.remove(claimant);
        if names.is_empty() {
            claims.remove(key);
        }
    }
}
