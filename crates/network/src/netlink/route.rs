//! Requests that change links, addresses, routes and neighbours.

use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};

use super::error::Result;
use super::message::Batch;
use super::namespace::NetworkNamespace;
use super::socket::{FLAG_ACK, Socket};
use crate::Prefix;
use crate::prefix::address_bytes;

pub(super) const FLAG_REQUEST: u16 = 0x1;
pub(super) const FLAG_REPLACE: u16 = 0x100;
pub(super) const FLAG_EXCLUSIVE: u16 = 0x200;
pub(super) const FLAG_CREATE: u16 = 0x400;

pub(super) const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
pub(super) const NEW_NEIGHBOUR: u16 = 28;
pub(super) const DELETE_NEIGHBOUR: u16 = 29;

pub(super) const LINK_ADDRESS: u16 = 1;
pub(super) const LINK_NAME: u16 = 3;
pub(super) const LINK_MTU: u16 = 4;
const LINK_MASTER: u16 = 10;
pub(super) const LINK_INFO: u16 = 18;
const LINK_NAMESPACE: u16 = 28;
const LINK_ALIAS: u16 = 20;
const LINK_GROUP: u16 = 27;
pub(super) const INFO_KIND: u16 = 1;
pub(super) const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
pub(super) const INTERFACE_UP: u32 = 1;
const TYPE_UNICAST: u8 = 1;
pub(super) const TYPE_UNREACHABLE: u8 = 7;

/// An Ethernet address.
pub type LinkAddress = [u8; 6];

/// A veth pair whose peer is made inside another namespace.
pub struct VethPair<'a> {
    /// The name on our side.
    pub name: &'a str,
    /// The Ethernet address on our side.
    pub address: LinkAddress,
    /// The name on the other side.
    pub peer_name: &'a str,
    /// The Ethernet address on the other side.
    pub peer_address: LinkAddress,
    /// The namespace of the other side; none keeps it here.
    pub peer_namespace: Option<&'a NetworkNamespace>,
    /// The largest packet, for both sides.
    pub mtu_bytes: u32,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads; a length of zero is the default route.
    pub destination: Prefix,
    /// The next hop, if not directly reachable.
    pub gateway: Option<IpAddr>,
    /// The interface.
    pub interface: Option<u32>,
    /// The source address for packets that this host makes.
    pub source: Option<IpAddr>,
    /// Whether the gateway is reachable without a route of its own.
    pub on_link: bool,
}

/// A permanent neighbour entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface.
    pub interface: u32,
    /// The neighbour's address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub link_address: LinkAddress,
}

/// Collects requests to rtnetlink; they are sent in one system call but are no transaction.
#[derive(Default)]
pub struct RouteBatch {
    pub(super) batch: Batch,
}

impl RouteBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends it and fails with the first refusal.
    pub fn send(&self, socket: &mut Socket) -> Result<()> {
        socket.request_all(&self.batch)
    }

    /// Sends it and returns the outcome of each request.
    pub fn send_each(&self, socket: &mut Socket) -> Result<Vec<Result<()>>> {
        socket.request_each(&self.batch)
    }

    /// Makes a veth pair, up on our side.
    pub fn add_veth(&mut self, pair: &VethPair<'_>) {
        self.begin_link(
            NEW_LINK,
            FLAG_CREATE | FLAG_EXCLUSIVE,
            0,
            INTERFACE_UP,
            INTERFACE_UP,
            format!("create interface {}", pair.name),
        );
        let batch = &mut self.batch;
        batch.attribute_str(LINK_NAME, pair.name);
        batch.attribute_u32(LINK_MTU, pair.mtu_bytes);
        batch.attribute(LINK_ADDRESS, &pair.address);
        batch.nested(LINK_INFO, |batch| {
            batch.attribute_str(INFO_KIND, "veth");
            batch.nested(INFO_DATA, |batch| {
                batch.nested(VETH_PEER, |batch| {
                    batch.raw(&[0; 16]);
                    batch.attribute_str(LINK_NAME, pair.peer_name);
                    batch.attribute_u32(LINK_MTU, pair.mtu_bytes);
                    batch.attribute(LINK_ADDRESS, &pair.peer_address);
                    if let Some(namespace) = pair.peer_namespace {
                        batch.attribute(LINK_NAMESPACE, &namespace.as_fd().as_raw_fd().to_ne_bytes());
                    }
                });
            });
        });
        batch.end();
    }

    /// Sets the text kept with an interface; the kernel ignores it when the interface is made.
    pub fn set_alias(&mut self, name: &str, alias: &str) {
        self.begin_link(NEW_LINK, 0, 0, 0, 0, format!("label interface {name}"));
        self.batch.attribute_str(LINK_NAME, name);
        self.batch.attribute_str(LINK_ALIAS, alias);
        self.batch.end();
    }

    /// Puts an interface into a group, so that many can be deleted at once.
    pub fn set_group(&mut self, name: &str, group: u32) {
        self.begin_link(NEW_LINK, 0, 0, 0, 0, format!("put interface {name} into group {group}"));
        self.batch.attribute_str(LINK_NAME, name);
        self.batch.attribute_u32(LINK_GROUP, group);
        self.batch.end();
    }

    /// Deletes all interfaces of a group. The kernel waits once for all of them, some 20 ms, and not once for each.
    pub fn delete_group(&mut self, group: u32) {
        self.begin_link(DELETE_LINK, 0, 0, 0, 0, format!("delete the interfaces of group {group}"));
        self.batch.attribute_u32(LINK_GROUP, group);
        self.batch.end();
    }

    /// Makes a bridge, up.
    pub fn add_bridge(&mut self, name: &str) {
        self.begin_link(
            NEW_LINK,
            FLAG_CREATE | FLAG_EXCLUSIVE,
            0,
            INTERFACE_UP,
            INTERFACE_UP,
            format!("create bridge {name}"),
        );
        self.batch.attribute_str(LINK_NAME, name);
        self.batch.nested(LINK_INFO, |batch| batch.attribute_str(INFO_KIND, "bridge"));
        self.batch.end();
    }

    /// Brings an interface up.
    pub fn set_up(&mut self, interface: u32) {
        self.begin_link(NEW_LINK, 0, interface, INTERFACE_UP, INTERFACE_UP, format!("bring interface {interface} up"));
        self.batch.end();
    }

    /// Takes an interface down.
    pub fn set_down(&mut self, interface: u32) {
        self.begin_link(NEW_LINK, 0, interface, 0, INTERFACE_UP, format!("take interface {interface} down"));
        self.batch.end();
    }

    /// Makes an interface a port of a bridge.
    pub fn set_master(&mut self, interface: u32, master: u32) {
        self.begin_link(NEW_LINK, 0, interface, 0, 0, format!("put interface {interface} into bridge {master}"));
        self.batch.attribute_u32(LINK_MASTER, master);
        self.batch.end();
    }

    /// Deletes an interface by name (and with a veth its peer).
    pub fn delete_link(&mut self, name: &str) {
        self.begin_link(DELETE_LINK, 0, 0, 0, 0, format!("delete interface {name}"));
        self.batch.attribute_str(LINK_NAME, name);
        self.batch.end();
    }

    pub(super) fn begin_link(&mut self, kind: u16, flags: u16, index: u32, values: u32, mask: u32, operation: String) {
        self.batch.begin(kind, FLAG_REQUEST | FLAG_ACK | flags, operation);
        let mut header = [0_u8; 16];
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        header[8..12].copy_from_slice(&values.to_ne_bytes());
        header[12..16].copy_from_slice(&mask.to_ne_bytes());
        self.batch.raw(&header);
    }

    /// Gives an interface an address; one that it has already stays. IPv6 addresses are usable at once (no duplicate detection).
    pub fn add_address(&mut self, interface: u32, address: IpAddr, prefix_length: u8) {
        self.address(NEW_ADDRESS, FLAG_CREATE | FLAG_REPLACE, interface, address, prefix_length);
    }

    /// Takes an address from an interface.
    pub fn delete_address(&mut self, interface: u32, address: IpAddr, prefix_length: u8) {
        self.address(DELETE_ADDRESS, 0, interface, address, prefix_length);
    }

    fn address(&mut self, kind: u16, flags: u16, interface: u32, address: IpAddr, prefix_length: u8) {
        let verb = if kind == NEW_ADDRESS { "give" } else { "take" };
        let operation = format!("{verb} address {address}/{prefix_length}, interface {interface}");
        self.batch.begin(kind, FLAG_REQUEST | FLAG_ACK | flags, operation);
        let mut header = [family_number(address), prefix_length, 0, 0, 0, 0, 0, 0];
        header[4..8].copy_from_slice(&interface.to_ne_bytes());
        self.batch.raw(&header);
        let bytes = address_bytes(address);
        self.batch.attribute(1, &bytes);
        self.batch.attribute(2, &bytes);
        if address.is_ipv6() && kind == NEW_ADDRESS {
            // IFA_F_NODAD: the address is ours by allocation, and waiting would delay the pod by a second.
            self.batch.attribute_u32(8, 0x02);
        }
        self.batch.end();
    }

    /// Makes or replaces a route.
    pub fn add_route(&mut self, route: &Route) {
        self.route(NEW_ROUTE, FLAG_CREATE | FLAG_REPLACE, TYPE_UNICAST, route);
    }

    /// Deletes a route.
    pub fn delete_route(&mut self, route: &Route) {
        self.route(DELETE_ROUTE, 0, TYPE_UNICAST, route);
    }

    /// Refuses packets to a range for which there is no longer prefix, instead of letting them leave through the default route.
    pub fn add_unreachable(&mut self, range: Prefix) {
        self.route(NEW_ROUTE, FLAG_CREATE | FLAG_REPLACE, TYPE_UNREACHABLE, &unreachable(range));
    }

    /// Takes such a refusal back.
    pub fn delete_unreachable(&mut self, range: Prefix) {
        self.route(DELETE_ROUTE, 0, TYPE_UNREACHABLE, &unreachable(range));
    }

    fn route(&mut self, kind: u16, flags: u16, route_type: u8, route: &Route) {
        let verb = if kind == NEW_ROUTE { "add" } else { "delete" };
        self.batch.begin(kind, FLAG_REQUEST | FLAG_ACK | flags, format!("{verb} route to {}", route.destination));
        let is_direct = route_type == TYPE_UNICAST && route.gateway.is_none() && route.destination.network().is_ipv4();
        let scope: u8 = if is_direct { 253 } else { 0 };
        // table main, protocol 114: ours, so that purge finds it.
        let mut header = [
            family_number(route.destination.network()),
            route.destination.length(),
            0,
            0,
            254,
            ROUTE_PROTOCOL,
            scope,
            route_type,
            0,
            0,
            0,
            0,
        ];
        if route.on_link {
            header[8..12].copy_from_slice(&4_u32.to_ne_bytes());
        }
        self.batch.raw(&header);
        if route.destination.length() > 0 {
            self.batch.attribute(1, &route.destination.network_bytes());
        }
        if let Some(gateway) = route.gateway {
            self.batch.attribute(5, &address_bytes(gateway));
        }
        if let Some(interface) = route.interface {
            self.batch.attribute_u32(4, interface);
        }
        if let Some(source) = route.source {
            self.batch.attribute(7, &address_bytes(source));
        }
        self.batch.end();
    }

    /// Makes or replaces a permanent neighbour entry.
    pub fn add_neighbour(&mut self, neighbour: &Neighbour) {
        self.batch.begin(
            NEW_NEIGHBOUR,
            FLAG_REQUEST | FLAG_ACK | FLAG_CREATE | FLAG_REPLACE,
            format!("add neighbour {}", neighbour.address),
        );
        let mut header = [family_number(neighbour.address), 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0];
        header[4..8].copy_from_slice(&neighbour.interface.to_ne_bytes());
        self.batch.raw(&header);
        self.batch.attribute(1, &address_bytes(neighbour.address));
        self.batch.attribute(2, &neighbour.link_address);
        self.batch.end();
    }
}

fn unreachable(destination: Prefix) -> Route {
    Route { destination, gateway: None, interface: None, source: None, on_link: false }
}

/// The routing protocol number that marks Klynge's routes.
pub(crate) const ROUTE_PROTOCOL: u8 = 114;

pub(super) fn family_number(address: IpAddr) -> u8 {
    if address.is_ipv4() { 2 } else { 10 }
}
