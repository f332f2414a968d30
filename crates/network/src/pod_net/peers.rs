//! Decides how packets reach the pods of one other node: directly, or through a tunnel. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use super::peer_claims::Claims;
use crate::Prefix;
use crate::netlink::{Family, LinkAddress, PublicKey};

/// More addresses or ranges of one node than this are no node of ours; the rest is left out and reported.
pub(crate) const PARTS_PER_PEER_MAX: usize = 16;

/// Another node, as its Node object describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node's name.
    pub name: String,
    /// Its addresses (InternalIP), the preferred one of each family first. They must be those that its packets arrive from.
    pub addresses: Vec<IpAddr>,
    /// The ranges of its pods (spec.podCIDRs), at most one per family as a rule; empty while it has none.
    pub pod_ranges: Vec<Prefix>,
    /// Its key, if it encrypts what goes between nodes.
    pub encryption_key: Option<PublicKey>,
    /// Since when it is in the cluster (Unix seconds): of two that claim the same, the first keeps it.
    pub since_s: i64,
}

/// When packets between nodes are carried inside others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encapsulation {
    /// Only to nodes that are on none of our own subnets.
    #[default]
    CrossSubnet,
    /// To all nodes: for networks that drop packets with addresses they did not assign, as many clouds do unless told otherwise.
    Always,
}

/// Something about a peer that cannot be done, in words for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerProblem {
    /// The node it is about; empty if it is about this node.
    pub peer: String,
    /// What is wrong, and what to do.
    pub text: String,
}

impl fmt::Display for PeerProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.peer.is_empty() {
            self.text.fmt(formatter)
        } else {
            write!(formatter, "node {}: {}", self.peer, self.text)
        }
    }
}

/// The family of the packets that carry others. Each has an interface of its own, since one interface speaks one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Underlay {
    V4,
    V6,
}

impl Underlay {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(crate) const fn family(self) -> Family {
        match self {
            Self::V4 => Family::Ip,
            Self::V6 => Family::Ip6,
        }
    }
}

/// A thing in the kernel, by what it is looked up by. The order is that in which things are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    /// An address from which the tunnel's packets are accepted.
    Sender(IpAddr),
    /// Where the tunnel sends frames for an Ethernet address.
    Forwarding(Underlay, LinkAddress),
    /// The Ethernet address of a node's end of the tunnel.
    Neighbour(Underlay, IpAddr),
    /// A node that packets are encrypted for.
    Secured(PublicKey),
    /// The way to a range of pods.
    Route(Prefix),
}

/// The other half of a [`Key`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    Admitted,
    Destination(IpAddr),
    LinkAddress(LinkAddress),
    /// Over one of our subnets.
    Direct {
        gateway: IpAddr,
        interface: u32,
        source: Option<IpAddr>,
    },
    /// Through the tunnel.
    Tunnel {
        underlay: Underlay,
        gateway: IpAddr,
        source: Option<IpAddr>,
    },
    /// Encrypted for the node with this key.
    Encrypted {
        key: PublicKey,
        source: Option<IpAddr>,
    },
}

/// A network that one of our interfaces is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subnet {
    pub(crate) prefix: Prefix,
    pub(crate) interface: u32,
    pub(crate) mtu_bytes: u32,
}

/// This node, as far as its peers' routes depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostView {
    /// The networks of interfaces that are up; not those of pods, of tunnels, or of loopback.
    pub(crate) subnets: Vec<Subnet>,
    /// All addresses that this host has.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// The node's primary addresses, at most one per family.
    pub(crate) node_addresses: Vec<IpAddr>,
    /// The ranges of this node's own pods.
    pub(crate) pod_ranges: Vec<Prefix>,
    /// The ranges of all pods of the cluster.
    pub(crate) cluster_ranges: Vec<Prefix>,
    pub(crate) encapsulation: Encapsulation,
    /// This node's own key, if what goes between nodes is encrypted: then nothing goes in plain.
    pub(crate) encryption_key: Option<PublicKey>,
}

impl HostView {
    /// The node's address of a family, if the host has it: the kernel refuses a source that is not its own (a node behind NAT).
    pub(crate) fn node_address(&self, is_ipv4: bool) -> Option<IpAddr> {
        self.node_addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == is_ipv4 && self.addresses.contains(address))
    }

    /// The address of our end of the tunnel in a family.
    pub(crate) fn tunnel_address(&self, is_ipv4: bool) -> Option<IpAddr> {
        self.pod_ranges.iter().find(|range| range.network().is_ipv4() == is_ipv4).map(tunnel_address)
    }

    /// Whether an address is this host's.
    fn has(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address) || self.node_addresses.contains(&address)
    }

    /// Whether a range is part of the cluster's.
    fn is_in_cluster(&self, range: &Prefix) -> bool {
        self.cluster_ranges.iter().any(|all| all.length() <= range.length() && all.contains(range.network()))
    }

    /// The ranges of a peer that this node could route, whatever other peers want.
    pub(crate) fn routable_ranges(&self, peer: &Peer) -> impl Iterator<Item = Prefix> {
        let is_routable = !peer.addresses.is_empty()
            && !peer.addresses.iter().take(PARTS_PER_PEER_MAX).any(|address| self.has(address.to_canonical()));
        let ranges = peer.pod_ranges.iter().take(if is_routable { PARTS_PER_PEER_MAX } else { 0 });
        ranges
            .copied()
            .filter(|range| self.is_in_cluster(range) && !self.pod_ranges.iter().any(|own| own.overlaps(range)))
    }

    /// The network that has an address: the one with the longest prefix, as the kernel decides.
    fn subnet_of(&self, address: IpAddr) -> Option<&Subnet> {
        self.subnets
            .iter()
            .filter(|subnet| subnet.prefix.contains(address))
            .max_by_key(|subnet| (subnet.prefix.length(), std::cmp::Reverse(subnet.interface)))
    }

    /// The interfaces on which peers send to us.
    pub(crate) fn interfaces_of_node_addresses(&self) -> impl Iterator<Item = u32> {
        self.node_addresses.iter().filter_map(|address| self.subnet_of(*address)).map(|subnet| subnet.interface)
    }

    /// The largest packet on the network that has an address.
    pub(crate) fn mtu_of(&self, address: IpAddr) -> Option<u32> {
        self.subnet_of(address).map(|subnet| subnet.mtu_bytes)
    }

    /// The largest packet on an interface.
    pub(crate) fn mtu_of_interface(&self, interface: u32) -> Option<u32> {
        self.subnets.iter().find(|subnet| subnet.interface == interface).map(|subnet| subnet.mtu_bytes)
    }

    /// The family of the tunnel to a peer, decided alike at both ends: IPv4 where both have it.
    fn underlay(&self, addresses: &[IpAddr]) -> Option<(Underlay, IpAddr)> {
        [true, false].into_iter().find_map(|is_ipv4| {
            self.node_addresses.iter().find(|own| own.is_ipv4() == is_ipv4)?;
            let address = addresses.iter().copied().find(|address| address.is_ipv4() == is_ipv4)?;
            Some((Underlay::of(address), address))
        })
    }
}

/// The address of a node's end of the tunnel: the second of its range, which no pod gets (see [`super::addresses`]). Not the first, which
/// is no host's address in IPv4 and every router's in IPv6.
pub(crate) fn tunnel_address(range: &Prefix) -> IpAddr {
    let second = match range.network() {
        IpAddr::V4(address) => IpAddr::from(address.to_bits().saturating_add(1).to_be_bytes()),
        IpAddr::V6(address) => IpAddr::from(address.to_bits().saturating_add(1).to_be_bytes()),
    };
    if range.contains(second) { second } else { range.network() }
}

/// The Ethernet address of a node's end of the tunnel, which follows from its first range: locally administered, and distinct for
/// distinct IPv4 ranges, and for IPv6 ranges of one length.
pub(crate) fn link_address(ranges: &[Prefix]) -> Option<LinkAddress> {
    let range = ranges.iter().find(|range| range.network().is_ipv4()).or_else(|| ranges.first())?;
    Some(match range.network() {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [0x0e, 0x6b, a, b, c, d]
        }
        IpAddr::V6(address) => {
            // The forty bits that end the prefix are those in which the ranges of one cluster differ.
            let tail = address.to_bits().checked_shr(128 - u32::from(range.length())).unwrap_or(0);
            let octets = tail.to_be_bytes();
            [0x1e, octets[11], octets[12], octets[13], octets[14], octets[15]]
        }
    })
}

/// The gateway of IPv6 ranges behind the tunnel. The kernel accepts any link-local one, while it refuses one that is itself within a range
/// that still leads elsewhere (a node that moves to another subnet).
fn link_local([a, b, c, d, e, f]: LinkAddress) -> IpAddr {
    // The modified EUI-64 form (RFC 4291, appendix A).
    IpAddr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// What a peer needs in the kernel, and what about it is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) items: Vec<(Key, Value)>,
    pub(crate) problems: Vec<String>,
}

/// Decides how a peer is reached. What is wrong with one part of it does not keep the others from being reached.
pub(crate) fn decide(peer: &Peer, host: &HostView, claims: &Claims) -> Decision {
    let mut decision = Decision::default();
    let Some(addresses) = usable_addresses(peer, host, claims, &mut decision.problems) else { return decision };
    let ranges = usable_ranges(peer, host, claims, &mut decision.problems);
    if ranges.is_empty() {
        return decision;
    }
    if addresses.is_empty() {
        decision.problems.push("it has no address, so its pods cannot be reached until it has one".to_owned());
        return decision;
    }
    if let Some(own) = host.encryption_key {
        decide_encrypted(peer, host, own, &addresses, ranges, &mut decision);
        return decision;
    }
    let mut is_tunnelled = false;
    for range in ranges {
        let is_ipv4 = range.network().is_ipv4();
        let near = addresses.iter().filter(|address| address.is_ipv4() == is_ipv4).find_map(|address| {
            (host.encapsulation == Encapsulation::CrossSubnet).then_some(())?;
            Some((*address, host.subnet_of(*address)?.interface))
        });
        if let Some((gateway, interface)) = near {
            let way = Value::Direct { gateway, interface, source: host.node_address(is_ipv4) };
            decision.items.push((Key::Route(range), way));
            continue;
        }
        let Some((underlay, destination)) = host.underlay(&addresses) else {
            let text =
                format!("it has no address of a family that this node has, so the pods in {range} cannot be reached");
            decision.problems.push(text);
            continue;
        };
        let Some(link_address) = link_address(&peer.pod_ranges) else { continue };
        if let Some(other) = claims.link_address_rival(link_address, peer) {
            decision.problems.push(format!(
                "its end of the tunnel would have the Ethernet address of node {other}'s; give the ranges of all nodes one length"
            ));
            continue;
        }
        let gateway = if is_ipv4 { tunnel_address(&range) } else { link_local(link_address) };
        let source = host.tunnel_address(is_ipv4);
        decision.items.push((Key::Neighbour(underlay, gateway), Value::LinkAddress(link_address)));
        decision.items.push((Key::Route(range), Value::Tunnel { underlay, gateway, source }));
        if !is_tunnelled {
            is_tunnelled = true;
            decision.items.push((Key::Forwarding(underlay, link_address), Value::Destination(destination)));
            let senders = addresses.iter().filter(|address| Underlay::of(**address) == underlay);
            decision.items.extend(senders.map(|address| (Key::Sender(*address), Value::Admitted)));
        }
    }
    decision
}

/// Ranges of a peer when everything between nodes is encrypted. A peer without a key is not reached: better not at all than in plain.
fn decide_encrypted(
    peer: &Peer,
    host: &HostView,
    own: PublicKey,
    addresses: &[IpAddr],
    ranges: Vec<Prefix>,
    decision: &mut Decision,
) {
    let Some(key) = peer.encryption_key else {
        let text = "it has no key, and what goes between nodes is encrypted here, so its pods cannot be reached; start its agent with \
                    --encryption wireguard";
        decision.problems.push(text.to_owned());
        return;
    };
    if key == own {
        let text = "it has this node's own key, so its pods cannot be reached; remove network/wireguard.key in the data directory \
                    of one of the two, and start its agent anew";
        decision.problems.push(text.to_owned());
        return;
    }
    let Some((_, destination)) = host.underlay(addresses) else {
        let text = "it has no address of a family that this node has, so its pods cannot be reached".to_owned();
        decision.problems.push(text);
        return;
    };
    decision.items.push((Key::Secured(key), Value::Destination(destination)));
    let way = |range: &Prefix| Value::Encrypted { key, source: host.tunnel_address(range.network().is_ipv4()) };
    decision.items.extend(ranges.iter().map(|range| (Key::Route(*range), way(range))));
}

/// The addresses through which a peer may be reached; none at all if one of them is our own.
fn usable_addresses(peer: &Peer, host: &HostView, claims: &Claims, problems: &mut Vec<String>) -> Option<Vec<IpAddr>> {
    let mut usable = Vec::new();
    if peer.addresses.len() > PARTS_PER_PEER_MAX {
        problems
            .push(format!("it has {} addresses; only the first {PARTS_PER_PEER_MAX} are used", peer.addresses.len()));
    }
    for address in peer.addresses.iter().take(PARTS_PER_PEER_MAX).map(IpAddr::to_canonical) {
        if host.has(address) {
            problems.push(format!(
                "its address {address} is this node's own, so none of its pods can be reached; give one of the two another address"
            ));
            return None;
        }
        if !is_node_address(address) {
            problems.push(format!("its address {address} cannot be reached from other nodes and is not used"));
            continue;
        }
        if let Some(other) = claims.address_rival(address, &peer.name) {
            problems.push(format!(
                "node {other} has the same address {address}; delete the Node that is no longer there, or give one another address"
            ));
        }
        if !usable.contains(&address) {
            usable.push(address);
        }
    }
    Some(usable)
}

/// The ranges of a peer that are its alone.
fn usable_ranges(peer: &Peer, host: &HostView, claims: &Claims, problems: &mut Vec<String>) -> Vec<Prefix> {
    let mut usable = Vec::new();
    if peer.pod_ranges.len() > PARTS_PER_PEER_MAX {
        problems
            .push(format!("it has {} pod ranges; only the first {PARTS_PER_PEER_MAX} are used", peer.pod_ranges.len()));
    }
    for range in peer.pod_ranges.iter().take(PARTS_PER_PEER_MAX) {
        if !host.is_in_cluster(range) {
            let cluster: Vec<String> = host.cluster_ranges.iter().map(ToString::to_string).collect();
            problems.push(format!(
                "its pod range {range} is not within the cluster's ({}), so it is not routed; give it a range of the cluster",
                cluster.join(", ")
            ));
        } else if let Some(own) = host.pod_ranges.iter().find(|own| own.overlaps(range)) {
            problems.push(format!(
                "its pod range {range} overlaps this node's own, {own}, so it is not routed; give one of the two another range"
            ));
        } else if let Some((other, theirs)) = claims.range_rival(range, peer) {
            problems.push(format!(
                "its pod range {range} overlaps {theirs} of node {other}, which keeps it; give one of the two another range"
            ));
        } else if !usable.contains(range) {
            usable.push(*range);
        }
    }
    usable
}

fn is_node_address(address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_link_local)
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
