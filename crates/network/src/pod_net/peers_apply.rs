//! Brings the kernel's routes, tunnels and neighbours to what the peers need, by the difference alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::attach::PodNetwork;
use super::encryption::{self, Encryption, NO_KEY};
use super::error::Error;
use super::host_setup;
use super::peer_table::{Delta, PeerTable};
use super::peers::{Encapsulation, HostView, Key, Peer, PeerProblem, Subnet, Underlay, Value};
use super::vxlan::{self, IPV6_MTU_BYTES_MIN, TUNNEL_TABLE, Tunnel, tunnel_links};
use crate::Prefix;
use crate::netlink::{self, AddressInfo, Forwarding, LinkInfo, Neighbour, NftBatch, ROUTE_PROTOCOL, Route, RouteBatch};

/// The kernel's main routing table.
const TABLE_MAIN: u32 = 254;

/// What a change of peers led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeersReport {
    /// Pod ranges that are routed over a shared subnet.
    pub direct_ranges: usize,
    /// Pod ranges behind the tunnel.
    pub tunnelled_ranges: usize,
    /// Pod ranges that packets are encrypted for.
    pub encrypted_ranges: usize,
    /// Objects made or replaced in the kernel now.
    pub added: usize,
    /// Objects deleted from the kernel now.
    pub removed: usize,
    /// The MTU that new pods get from now on.
    pub mtu_bytes: u32,
    /// All that is wrong with the peers, also what was told before; the rest is in place.
    pub problems: Vec<PeerProblem>,
}

/// What this node knows of its peers, and of what the kernel holds for them.
#[derive(Default)]
pub(super) struct PeerState {
    pub(super) table: PeerTable,
    encapsulation: Encapsulation,
    pub(super) encryption: Option<Encryption>,
    pub(super) kernel: HashMap<Key, Value>,
    /// Whether `kernel` is true; if not, the kernel is read first.
    is_known: bool,
    /// The tunnels whose senders in the kernel are those in `kernel`. They cannot be read: they are made anew instead.
    filters: BTreeSet<Underlay>,
    /// The MTU of the way out, read with the kernel's routes.
    pub(super) mtu_bytes_default: u32,
    /// The interfaces whose reverse path filter has been looked at.
    loosened: BTreeSet<u32>,
}

/// The numbers of the interfaces to other nodes that are there.
#[derive(Default)]
struct TunnelIndexes {
    tunnels: BTreeMap<Underlay, u32>,
    /// Those whose packets are too small for IPv6.
    without_ipv6: BTreeSet<Underlay>,
    encrypted: Option<u32>,
    is_encrypted_without_ipv6: bool,
}

impl PodNetwork {
    /// Makes these, and only these, the other nodes of the cluster. Only differences reach the kernel; the first call, and one after a
    /// failure, reads what the kernel holds and removes leftovers. What is wrong with one peer is reported, and the others are reached.
    pub fn set_peers(&mut self, peers: &[Peer]) -> Result<PeersReport, Error> {
        let mut by_name: BTreeMap<&str, &Peer> = BTreeMap::new();
        let mut doubled = BTreeSet::new();
        for peer in peers {
            if by_name.insert(&peer.name, peer).is_some_and(|other| other != peer) {
                doubled.insert(peer.name.clone());
            }
        }
        let table = &self.peers.table;
        let gone = table.names().filter(|name| !by_name.contains_key(name)).map(|name| (name.to_owned(), None));
        let new = by_name.values().filter(|peer| table.peer(&peer.name) != Some(**peer));
        let changes: Vec<_> = gone.chain(new.map(|peer| (peer.name.clone(), Some((*peer).clone())))).collect();
        let mut report = self.change_peers(changes)?;
        report.problems.extend(doubled.into_iter().map(|peer| PeerProblem {
            peer,
            text: "it is listed twice with different addresses or ranges; the last one holds".to_owned(),
        }));
        Ok(report)
    }

    /// Changes single peers; none removes one. The cost does not grow with the number of peers that stay. A failed call is made good by the
    /// next one, of whichever peer.
    pub fn change_peers(
        &mut self,
        changes: impl IntoIterator<Item = (String, Option<Peer>)>,
    ) -> Result<PeersReport, Error> {
        let is_known = std::mem::replace(&mut self.peers.is_known, false);
        let filters = std::mem::take(&mut self.peers.filters);
        let mut delta = Delta::new();
        for (name, peer) in changes {
            self.peers.table.change(&name, peer, &mut delta);
        }
        let links = self.rtnetlink.links()?;
        let addresses = self.rtnetlink.addresses()?;
        let host = self.host_view(&links, &addresses);
        self.peers.table.set_host(host, &mut delta);
        self.carry_out(&links, delta, is_known, filters)
    }

    /// Compares the kernel with what the peers need and repairs what others removed: an interface that went down loses its routes, and
    /// network managers may drop routes that are not theirs. To be called every ten seconds or so; costs a listing of routes and neighbours.
    pub fn verify_peers(&mut self) -> Result<PeersReport, Error> {
        self.peers.is_known = false;
        self.change_peers([])
    }

    /// Chooses when packets between nodes are carried inside others; takes effect at the next call of one of the above.
    pub fn set_encapsulation(&mut self, encapsulation: Encapsulation) {
        self.peers.encapsulation = encapsulation;
    }

    fn host_view(&self, links: &[LinkInfo], addresses: &[AddressInfo]) -> HostView {
        let encrypted = links.iter().filter(|link| link.name == encryption::INTERFACE).map(|link| link.index);
        let tunnels: Vec<u32> = tunnel_links(links).map(|(_, link)| link.index).chain(encrypted).collect();
        let outside = || addresses.iter().filter(|address| !tunnels.contains(&address.interface));
        let subnet = |address: &AddressInfo| {
            let link = links.iter().find(|link| link.index == address.interface)?;
            (link.is_up && link.name != "lo" && address.is_global).then(|| Subnet {
                prefix: Prefix::new(address.address, address.prefix_length),
                interface: link.index,
                mtu_bytes: link.mtu_bytes,
            })
        };
        HostView {
            subnets: outside().filter_map(subnet).collect(),
            addresses: outside().map(|address| address.address).collect(),
            node_addresses: self.options.node_addresses.clone(),
            pod_ranges: self.options.pod_ranges.clone(),
            cluster_ranges: self.options.cluster_ranges.clone(),
            encapsulation: self.peers.encapsulation,
            encryption_key: self.peers.encryption.as_ref().map(|encryption| encryption.public_key),
        }
    }

    fn carry_out(
        &mut self,
        links: &[LinkInfo],
        delta: Delta,
        was_known: bool,
        mut filters: BTreeSet<Underlay>,
    ) -> Result<PeersReport, Error> {
        let mut problems: Vec<PeerProblem> = self.peers.table.problems().collect();
        let mut is_known = was_known;
        if !is_known {
            self.peers.mtu_bytes_default = host_setup::mtu(&self.options, &mut self.rtnetlink)?;
        }
        let mut indexes = TunnelIndexes::default();
        let mut mtu_bytes = self.peers.mtu_bytes_default;
        let mut is_whole = true;
        for underlay in Underlay::ALL {
            if self.peers.table.tunnel_routes(underlay) == 0 {
                continue;
            }
            let tunnel = Tunnel::plan(underlay, self.peers.table.host(), self.peers.mtu_bytes_default);
            match self.ensure_tunnel(&tunnel, links, is_known) {
                Ok((index, is_new)) => {
                    indexes.tunnels.insert(underlay, index);
                    if !tunnel.carries(false) {
                        indexes.without_ipv6.insert(underlay);
                    }
                    is_known &= !is_new;
                    mtu_bytes = mtu_bytes.min(tunnel.mtu_bytes());
                    problems.extend(tunnel.problem().map(own_problem));
                }
                Err(error) => {
                    is_whole = false;
                    problems.push(own_problem(tunnel_failure(underlay, &error)));
                }
            }
        }
        if self.peers.encryption.is_some() {
            match self.ensure_secured(links, is_known) {
                Ok((index, secured_mtu_bytes, is_new)) => {
                    indexes.encrypted = Some(index);
                    if !vxlan::carries(secured_mtu_bytes, false)
                        && self.peers.table.host().tunnel_address(false).is_some()
                    {
                        indexes.is_encrypted_without_ipv6 = true;
                        problems.push(own_problem(format!(
                            "encrypted packets are limited to {secured_mtu_bytes} bytes, and IPv6 needs {IPV6_MTU_BYTES_MIN}, so that pods of other \
                             nodes are reached by IPv4 alone; raise the MTU between the nodes to {}",
                            IPV6_MTU_BYTES_MIN + encryption::OVERHEAD_BYTES
                        )));
                    }
                    is_known &= !is_new;
                    mtu_bytes = mtu_bytes.min(secured_mtu_bytes);
                }
                Err(error) => {
                    is_whole = false;
                    problems.push(own_problem(format!(
                        "the interface {} to other nodes cannot be made, so their pods are not reached: {error}",
                        encryption::INTERFACE
                    )));
                }
            }
        }
        let delta = if is_known {
            delta
        } else {
            let tables = self.nft.tables()?;
            let has_table =
                |of: &Underlay| tables.iter().any(|table| table.family == of.family() && table.name == TUNNEL_TABLE);
            filters.retain(has_table);
            self.read_kernel(links, &indexes, &filters)?
        };
        let (added, removed, failures) = self.apply_delta(&delta, &indexes, &filters)?;
        is_whole &= failures.is_empty();
        problems.extend(failures);
        self.remove_unused_tunnels(links)?;
        self.remove_unused_encryption(links)?;
        self.complete_secured();
        self.loosen_reverse_path(links, &indexes, !is_known)?;
        let table = &self.peers.table;
        for (interface, _) in table.direct_routes() {
            mtu_bytes = table.host().mtu_of_interface(interface).map_or(mtu_bytes, |mtu| mtu_bytes.min(mtu));
        }
        self.mtu_bytes = host_setup::pods_mtu(&self.options, mtu_bytes);
        self.peers.is_known = is_whole;
        self.peers.filters = indexes.tunnels.into_keys().collect();
        Ok(PeersReport {
            direct_ranges: table.direct_routes().map(|(_, count)| count).sum(),
            tunnelled_ranges: Underlay::ALL.iter().map(|underlay| table.tunnel_routes(*underlay)).sum(),
            encrypted_ranges: table.encrypted_routes(),
            added,
            removed,
            mtu_bytes: self.mtu_bytes,
            problems,
        })
    }

    fn ensure_tunnel(&mut self, tunnel: &Tunnel, links: &[LinkInfo], is_known: bool) -> Result<(u32, bool), Error> {
        let (index, is_new) = tunnel.ensure(&mut self.rtnetlink, links)?;
        if is_new || !is_known {
            let mut batch = RouteBatch::new();
            tunnel.add_addresses(index, &mut batch);
            batch.send(self.rtnetlink.socket())?;
        }
        Ok((index, is_new))
    }

    /// Learns what the kernel holds, and returns all that must change.
    fn read_kernel(
        &mut self,
        links: &[LinkInfo],
        indexes: &TunnelIndexes,
        filters: &BTreeSet<Underlay>,
    ) -> Result<Delta, Error> {
        // Tunnels that are used no longer still hold entries and routes; they go with their interface.
        let mut by_index: HashMap<u32, Underlay> =
            tunnel_links(links).map(|(underlay, link)| (link.index, underlay)).collect();
        by_index.extend(indexes.tunnels.iter().map(|(underlay, index)| (*index, *underlay)));
        let is_secured = encryption::is_there(links) || indexes.encrypted.is_some();
        let device = self.read_secured(is_secured)?;
        let secured_index = self.rtnetlink.index_of(encryption::INTERFACE).ok().filter(|_| is_secured);
        let key_of = |range: &Prefix| {
            device.peers.iter().find(|peer| peer.allowed.contains(range)).map_or(NO_KEY, |peer| peer.key)
        };
        let kernel = &mut self.peers.kernel;
        let told: HashMap<Key, Value> = kernel
            .iter()
            .filter(|(key, _)| matches!(key, Key::Secured(_)))
            .map(|(key, value)| (*key, *value))
            .collect();
        let is_known = |key: &Key| matches!(key, Key::Sender(address) if filters.contains(&Underlay::of(*address)));
        kernel.retain(|key, _| is_known(key));
        for route in self.rtnetlink.routes()? {
            // A default route is never a peer's, whoever made it.
            let is_range = route.destination.length() > 0;
            if route.protocol != ROUTE_PROTOCOL || route.table != TABLE_MAIN || !is_range {
                continue;
            }
            let source = route.source;
            if route.interface.is_some() && route.interface == secured_index {
                let value = Value::Encrypted { key: key_of(&route.destination), source };
                kernel.insert(Key::Route(route.destination), value);
                continue;
            }
            let (Some(gateway), Some(interface)) = (route.gateway, route.interface) else { continue };
            let value = match by_index.get(&interface) {
                Some(underlay) => Value::Tunnel { underlay: *underlay, gateway, source },
                None => Value::Direct { gateway, interface, source },
            };
            kernel.insert(Key::Route(route.destination), value);
        }
        for peer in &device.peers {
            // The kernel follows a node whose packets come from elsewhere than its address: what was told once is not told again.
            let Some(endpoint) = peer.endpoint else { continue };
            let key = Key::Secured(peer.key);
            kernel.insert(key, told.get(&key).copied().unwrap_or(Value::Destination(endpoint.ip())));
        }
        for (underlay, index) in &indexes.tunnels {
            for entry in self.rtnetlink.forwardings(*index)? {
                kernel.insert(Key::Forwarding(*underlay, entry.link_address), Value::Destination(entry.destination));
            }
            for entry in self.rtnetlink.neighbours(*index)? {
                kernel.insert(Key::Neighbour(*underlay, entry.address), Value::LinkAddress(entry.link_address));
            }
        }
        let mut delta: Delta = kernel.keys().map(|key| (*key, None)).collect();
        delta.extend(self.peers.table.wanted().map(|(key, value)| (key, Some(value))));
        Ok(delta)
    }

    /// Makes and deletes. Returns how many objects were made and deleted, and what failed.
    fn apply_delta(
        &mut self,
        delta: &Delta,
        indexes: &TunnelIndexes,
        filters: &BTreeSet<Underlay>,
    ) -> Result<(usize, usize, Vec<PeerProblem>), Error> {
        let mut wanted: Vec<(Key, Value)> = Vec::new();
        let mut unwanted: Vec<(Key, Value)> = Vec::new();
        for (key, value) in delta {
            let present = self.peers.kernel.get(key).copied();
            match value.filter(|value| is_possible(key, value, indexes)) {
                Some(value) if present != Some(value) => wanted.push((*key, value)),
                None => unwanted.extend(present.map(|present| (*key, present))),
                Some(_) => {}
            }
        }
        // Made from the bottom up, so that a route leads somewhere when it appears; deleted from the top down.
        unwanted.reverse();
        self.change_filter(&wanted, &unwanted, indexes, filters)?;
        if indexes.encrypted.is_some() {
            self.change_secured(&wanted, &unwanted)?;
        }
        let mut batch = RouteBatch::new();
        let mut steps: Vec<(Key, Option<Value>)> = Vec::new();
        for (key, value) in &wanted {
            if write(&mut batch, *key, *value, indexes, true) {
                steps.push((*key, Some(*value)));
            } else {
                self.peers.kernel.insert(*key, *value);
            }
        }
        for (key, value) in &unwanted {
            if write(&mut batch, *key, *value, indexes, false) {
                steps.push((*key, None));
            } else {
                self.peers.kernel.remove(key);
            }
        }
        let mut failures = Vec::new();
        for ((key, value), outcome) in steps.into_iter().zip(batch.send_each(self.rtnetlink.socket())?) {
            match outcome {
                Err(error) if value.is_some() || !error.is_not_found() => {
                    failures.push(own_problem(format!("{error}; it is tried again at the next change or check")));
                }
                _ => match value {
                    Some(value) => drop(self.peers.kernel.insert(key, value)),
                    None => drop(self.peers.kernel.remove(&key)),
                },
            }
        }
        // Senders that were made anew, because they cannot be read, are no news.
        let is_news =
            |(key, _): &&(Key, Value)| !matches!(key, Key::Sender(of) if !filters.contains(&Underlay::of(*of)));
        Ok((wanted.iter().filter(is_news).count(), unwanted.len(), failures))
    }

    /// Changes who may send into the tunnels, in one transaction.
    fn change_filter(
        &mut self,
        wanted: &[(Key, Value)],
        unwanted: &[(Key, Value)],
        indexes: &TunnelIndexes,
        filters: &BTreeSet<Underlay>,
    ) -> Result<(), Error> {
        let mut batch = NftBatch::new();
        for underlay in indexes.tunnels.keys().copied() {
            let is_sender = |key: Key| match key {
                Key::Sender(address) if Underlay::of(address) == underlay => Some(address),
                _ => None,
            };
            if filters.contains(&underlay) {
                let senders = |items: &[(Key, Value)]| items.iter().filter_map(|(key, _)| is_sender(*key)).collect();
                let (new, gone): (Vec<IpAddr>, Vec<IpAddr>) = (senders(wanted), senders(unwanted));
                vxlan::change_senders(&mut batch, underlay, gone.into_iter(), false);
                vxlan::change_senders(&mut batch, underlay, new.into_iter(), true);
            } else {
                let all = self.peers.table.wanted().filter_map(|(key, _)| is_sender(key));
                vxlan::add_filter(&mut batch, underlay, all);
            }
        }
        Ok(batch.commit(self.nft.socket())?)
    }

    fn remove_unused_tunnels(&mut self, links: &[LinkInfo]) -> Result<(), Error> {
        let mut batch = RouteBatch::new();
        let mut filters = NftBatch::new();
        let mut is_any = false;
        for (underlay, link) in tunnel_links(links) {
            if self.peers.table.tunnel_routes(underlay) == 0 {
                is_any = true;
                batch.delete_link(&link.name);
                filters.delete_table_if_exists(underlay.family(), TUNNEL_TABLE);
                self.peers.kernel.retain(|key, value| !belongs_to(key, value, underlay));
            }
        }
        if !is_any {
            return Ok(());
        }
        // The interface goes last: while it is there, a next attempt knows that something is left.
        filters.commit(self.nft.socket())?;
        for outcome in batch.send_each(self.rtnetlink.socket())? {
            match outcome {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Answers may come in by another way than packets go out: a peer sends to the network of our address, we to that of its. A strict
    /// reverse path filter drops them.
    fn loosen_reverse_path(
        &mut self,
        links: &[LinkInfo],
        indexes: &TunnelIndexes,
        is_anew: bool,
    ) -> Result<(), netlink::Error> {
        let loosened = &mut self.peers.loosened;
        if is_anew {
            loosened.clear();
        }
        let names = links.iter().map(|link| (link.index, link.name.as_str(), true));
        let tunnels = indexes.tunnels.iter().map(|(underlay, index)| (*index, underlay.interface_name(), false));
        let mut direct: BTreeSet<u32> = self.peers.table.direct_routes().map(|(interface, _)| interface).collect();
        if !direct.is_empty() {
            direct.extend(self.peers.table.host().interfaces_of_node_addresses());
        }
        let wanted: Vec<(u32, String, bool)> = names
            .filter(|(index, ..)| direct.contains(index))
            .chain(tunnels)
            .filter(|(index, ..)| !loosened.contains(index))
            .map(|(index, name, is_lasting)| (index, name.to_owned(), is_lasting))
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        host_setup::loosen_reverse_path(
            &self.options,
            wanted.iter().map(|(_, name, lasting)| (name.as_str(), *lasting)),
        )?;
        loosened.extend(wanted.into_iter().map(|(index, ..)| index));
        Ok(())
    }
}

fn own_problem(text: String) -> PeerProblem {
    PeerProblem { peer: String::new(), text }
}

fn tunnel_failure(underlay: Underlay, error: &Error) -> String {
    let advice = match error {
        Error::Netlink(error) if error.errno() == Some(libc::EOPNOTSUPP) => {
            "; the kernel has no VXLAN: load its module (modprobe vxlan) or put all nodes on one subnet".to_owned()
        }
        Error::Netlink(error) if matches!(error.errno(), Some(libc::EEXIST | libc::EADDRINUSE)) => {
            format!("; another interface uses UDP port {}: remove it (see `ip -d link`)", vxlan::TUNNEL_PORT)
        }
        _ => String::new(),
    };
    let name = underlay.interface_name();
    format!(
        "the tunnel {name} to nodes on other subnets cannot be made, so their pods are not reached: {error}{advice}"
    )
}

/// Whether the tunnel that an object belongs to is there, and carries its family.
fn is_possible(key: &Key, value: &Value, indexes: &TunnelIndexes) -> bool {
    let is_encrypted = matches!((key, value), (Key::Secured(_), _) | (_, Value::Encrypted { .. }));
    (indexes.encrypted.is_some() || !is_encrypted)
        && Underlay::ALL
            .iter()
            .all(|underlay| indexes.tunnels.contains_key(underlay) || !belongs_to(key, value, *underlay))
        && !(is_ipv6(key) && indexes.is_encrypted_without_ipv6 && matches!(value, Value::Encrypted { .. }))
        && !(is_ipv6(key) && indexes.without_ipv6.iter().any(|underlay| belongs_to(key, value, *underlay)))
}

/// Whether an object exists on interfaces with IPv6 alone.
fn is_ipv6(key: &Key) -> bool {
    match key {
        Key::Route(range) => range.network().is_ipv6(),
        Key::Neighbour(_, address) => address.is_ipv6(),
        _ => false,
    }
}

/// Whether an object goes with a tunnel.
fn belongs_to(key: &Key, value: &Value, underlay: Underlay) -> bool {
    match (key, value) {
        (Key::Sender(address), _) => Underlay::of(*address) == underlay,
        (Key::Forwarding(of, _) | Key::Neighbour(of, _), _) => *of == underlay,
        (_, Value::Tunnel { underlay: of, .. }) => *of == underlay,
        _ => false,
    }
}

/// Adds the request that makes or deletes an object; false if it is not rtnetlink's, or went with its interface.
fn write(batch: &mut RouteBatch, key: Key, value: Value, indexes: &TunnelIndexes, is_added: bool) -> bool {
    match (key, value) {
        (Key::Forwarding(underlay, link_address), Value::Destination(destination)) => {
            let Some(interface) = indexes.tunnels.get(&underlay).copied() else { return false };
            let forwarding = Forwarding { interface, link_address, destination };
            if is_added { batch.add_forwarding(&forwarding) } else { batch.delete_forwarding(&forwarding) }
        }
        (Key::Neighbour(underlay, address), Value::LinkAddress(link_address)) => {
            let Some(interface) = indexes.tunnels.get(&underlay).copied() else { return false };
            if is_added {
                batch.add_neighbour(&Neighbour { interface, address, link_address });
            } else {
                batch.delete_neighbour(interface, address);
            }
        }
        (Key::Route(destination), Value::Direct { gateway, interface, source }) => {
            route(batch, destination, Some(gateway), interface, source, is_added);
        }
        (Key::Route(destination), Value::Tunnel { underlay, gateway, source }) => {
            let Some(interface) = indexes.tunnels.get(&underlay).copied() else { return false };
            route(batch, destination, Some(gateway), interface, source, is_added);
        }
        (Key::Route(destination), Value::Encrypted { source, .. }) => {
            let Some(interface) = indexes.encrypted else { return false };
            route(batch, destination, None, interface, source, is_added);
        }
        _ => return false,
    }
    true
}

fn route(
    batch: &mut RouteBatch,
    destination: Prefix,
    gateway: Option<IpAddr>,
    interface: u32,
    source: Option<IpAddr>,
    is_added: bool,
) {
    let route = Route { destination, gateway, interface: Some(interface), source, on_link: gateway.is_some() };
    if is_added {
        batch.add_route(&route);
    } else {
        batch.delete_route(&Route { source: None, on_link: false, ..route });
    }
}
