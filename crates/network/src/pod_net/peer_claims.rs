//! Who claims which range, address and Ethernet address, so that two peers that want the same are found without comparing all. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::peers::{HostView, PARTS_PER_PEER_MAX, Peer, link_address};
use crate::Prefix;
use crate::netlink::LinkAddress;

/// The claims of all peers.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    ranges: BTreeMap<Prefix, BTreeSet<String>>,
    addresses: HashMap<IpAddr, BTreeSet<String>>,
    link_addresses: HashMap<LinkAddress, BTreeSet<String>>,
}

impl Claims {
    /// Notes the claims of a peer. What this node would not route anyway is no claim: one wrong range must not keep the others from theirs.
    pub(crate) fn add(&mut self, peer: &Peer, host: &HostView) {
        for range in host.routable_ranges(peer) {
            self.ranges.entry(range).or_default().insert(peer.name.clone());
        }
        for address in peer.addresses.iter().take(PARTS_PER_PEER_MAX) {
            self.addresses.entry(address.to_canonical()).or_default().insert(peer.name.clone());
        }
        if let Some(link_address) = link_address(&peer.pod_ranges) {
            self.link_addresses.entry(link_address).or_default().insert(peer.name.clone());
        }
    }

    /// Forgets the claims of a peer, given as they were added.
    pub(crate) fn remove(&mut self, peer: &Peer) {
        for range in peer.pod_ranges.iter().take(PARTS_PER_PEER_MAX) {
            if let Some(names) = self.ranges.get_mut(range) {
                names.remove(&peer.name);
                if names.is_empty() {
                    self.ranges.remove(range);
                }
            }
        }
        for address in peer.addresses.iter().take(PARTS_PER_PEER_MAX) {
            forget(&mut self.addresses, &address.to_canonical(), &peer.name);
        }
        if let Some(link_address) = link_address(&peer.pod_ranges) {
            forget(&mut self.link_addresses, &link_address, &peer.name);
        }
    }

    /// All whose claims meet one of this peer's, itself included if it is there.
    pub(crate) fn rivals(&self, peer: &Peer) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for range in peer.pod_ranges.iter().take(PARTS_PER_PEER_MAX) {
            names.extend(self.overlapping(range).flat_map(|(_, names)| names).cloned());
        }
        for address in peer.addresses.iter().take(PARTS_PER_PEER_MAX) {
            names.extend(self.addresses.get(&address.to_canonical()).into_iter().flatten().cloned());
        }
        let link_address = link_address(&peer.pod_ranges);
        names.extend(link_address.and_then(|one| self.link_addresses.get(&one)).into_iter().flatten().cloned());
        names
    }

    /// Who keeps a range from this peer: one whose name is before its own. So all nodes decide alike, whatever they heard of first. The
    /// overlap of prefixes leaves nobody between two chairs: who overlaps a loser overlaps the winner as well.
    pub(crate) fn range_rival(&self, range: &Prefix, name: &str) -> Option<(&str, Prefix)> {
        self.overlapping(range)
            .filter_map(|(range, names)| names.first().map(|first| (first.as_str(), *range)))
            .min()
            .filter(|(first, _)| *first < name)
    }

    /// Another peer with this address.
    pub(crate) fn address_rival(&self, address: IpAddr, name: &str) -> Option<&str> {
        self.addresses.get(&address)?.iter().map(String::as_str).find(|other| *other != name)
    }

    /// Who keeps an Ethernet address from this peer.
    pub(crate) fn link_address_rival(&self, link_address: LinkAddress, name: &str) -> Option<&str> {
        self.link_addresses.get(&link_address)?.first().map(String::as_str).filter(|first| *first < name)
    }

    /// The claims that share an address with a range: those within it, and those around it.
    fn overlapping(&self, range: &Prefix) -> impl Iterator<Item = (&Prefix, &BTreeSet<String>)> {
        let around = (0..range.length()).map(|length| Prefix::new(range.network(), length));
        let around = around.filter_map(|wider| self.ranges.get_key_value(&wider));
        around.chain(self.ranges.range(*range..=Prefix::host(range.last())))
    }
}

fn forget<K: std::hash::Hash + Eq>(claims: &mut HashMap<K, BTreeSet<String>>, key: &K, name: &str) {
    if let Some(names) = claims.get_mut(key) {
        names.remove(name);
        if names.is_empty() {
            claims.remove(key);
        }
    }
}
