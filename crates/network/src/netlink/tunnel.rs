//! VXLAN interfaces, their forwarding entries and neighbours: requests and queries.

use std::net::{IpAddr, Ipv6Addr};

use super::error::Result;
use super::message::{Attributes, attributes, u16_at, u32_at};
use super::route::{
    DELETE_NEIGHBOUR, FLAG_CREATE, FLAG_EXCLUSIVE, FLAG_REPLACE, FLAG_REQUEST, INFO_DATA, INFO_KIND, LINK_ADDRESS,
    LINK_INFO, LINK_MTU, LINK_NAME, LinkAddress, NEW_LINK, NEW_NEIGHBOUR, Neighbour, RouteBatch, family_number,
};
use super::route_query::{Rtnetlink, parse_ip};
use super::socket::FLAG_ACK;
use crate::prefix::address_bytes;

const GET_NEIGHBOUR: u16 = 30;
const FAMILY_BRIDGE: u8 = 7;

const VXLAN_IDENTIFIER: u16 = 1;
const VXLAN_LOCAL: u16 = 4;
const VXLAN_LEARNING: u16 = 7;
const VXLAN_PORT: u16 = 15;
const VXLAN_LOCAL6: u16 = 17;

const LINK_FAMILY_SPECIFIC: u16 = 26;
const FAMILY_IPV6: u16 = 10;
const IPV6_ADDRESS_GENERATION: u16 = 8;
const ADDRESS_GENERATION_NONE: u8 = 1;

const NEIGHBOUR_ADDRESS: u16 = 1;
const NEIGHBOUR_LINK_ADDRESS: u16 = 2;
/// NUD_PERMANENT.
const STATE_PERMANENT: u16 = 0x80;
/// NUD_NOARP: a forwarding entry that does not age.
const STATE_NO_ARP: u16 = 0x40;
/// NTF_SELF: the entry belongs to the VXLAN interface itself, not to a bridge above it.
const FLAG_SELF: u8 = 0x02;

/// What makes one VXLAN interface differ from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanInfo {
    /// The network identifier (VNI).
    pub identifier: u32,
    /// The UDP port, here and at the others.
    pub port: u16,
    /// The source of the packets that carry the others; unspecified lets the kernel choose. Its family is that of all the tunnel's ends.
    pub local: IpAddr,
    /// Whether it learns where hardware addresses are from what arrives.
    pub is_learning: bool,
}

/// Where a VXLAN interface sends frames for an Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// The VXLAN interface.
    pub interface: u32,
    /// The Ethernet address.
    pub link_address: LinkAddress,
    /// The machine that has it.
    pub destination: IpAddr,
}

impl RouteBatch {
    /// Makes a VXLAN interface, still down.
    pub fn add_vxlan(&mut self, name: &str, address: LinkAddress, mtu_bytes: u32, vxlan: &VxlanInfo) {
        self.begin_link(NEW_LINK, FLAG_CREATE | FLAG_EXCLUSIVE, 0, 0, 0, format!("create VXLAN interface {name}"));
        let batch = &mut self.batch;
        batch.attribute_str(LINK_NAME, name);
        batch.attribute_u32(LINK_MTU, mtu_bytes);
        batch.attribute(LINK_ADDRESS, &address);
        batch.nested(LINK_INFO, |batch| {
            batch.attribute_str(INFO_KIND, "vxlan");
            batch.nested(INFO_DATA, |batch| {
                batch.attribute_u32(VXLAN_IDENTIFIER, vxlan.identifier);
                batch.attribute(VXLAN_PORT, &vxlan.port.to_be_bytes());
                batch.attribute(VXLAN_LEARNING, &[u8::from(vxlan.is_learning)]);
                // The family of this attribute decides which family the tunnel's packets have.
                let local = if vxlan.local.is_ipv4() { VXLAN_LOCAL } else { VXLAN_LOCAL6 };
                batch.attribute(local, &address_bytes(vxlan.local));
            });
        });
        batch.end();
    }

    /// Keeps the kernel from giving an interface an IPv6 link-local address by itself.
    pub fn set_no_link_local(&mut self, interface: u32) {
        let operation = format!("keep interface {interface} without a link-local address");
        self.begin_link(NEW_LINK, 0, interface, 0, 0, operation);
        self.batch.nested(LINK_FAMILY_SPECIFIC, |batch| {
            batch.nested(FAMILY_IPV6, |batch| batch.attribute(IPV6_ADDRESS_GENERATION, &[ADDRESS_GENERATION_NONE]));
        });
        self.batch.end();
    }

    /// Sets the largest packet of an interface.
    pub fn set_mtu(&mut self, interface: u32, mtu_bytes: u32) {
        self.begin_link(NEW_LINK, 0, interface, 0, 0, format!("set the MTU of interface {interface} to {mtu_bytes}"));
        self.batch.attribute_u32(LINK_MTU, mtu_bytes);
        self.batch.end();
    }

    /// Makes or replaces a forwarding entry of a VXLAN interface.
    pub fn add_forwarding(&mut self, forwarding: &Forwarding) {
        self.forwarding(NEW_NEIGHBOUR, FLAG_CREATE | FLAG_REPLACE, forwarding);
    }

    /// Deletes a forwarding entry of a VXLAN interface.
    pub fn delete_forwarding(&mut self, forwarding: &Forwarding) {
        self.forwarding(DELETE_NEIGHBOUR, 0, forwarding);
    }

    fn forwarding(&mut self, kind: u16, flags: u16, forwarding: &Forwarding) {
        let verb = if kind == NEW_NEIGHBOUR { "add" } else { "delete" };
        let operation = format!("{verb} the tunnel's way to {}", forwarding.destination);
        self.begin_neighbour(
            kind,
            flags,
            FAMILY_BRIDGE,
            forwarding.interface,
            STATE_PERMANENT | STATE_NO_ARP,
            FLAG_SELF,
            operation,
        );
        self.batch.attribute(NEIGHBOUR_LINK_ADDRESS, &forwarding.link_address);
        self.batch.attribute(NEIGHBOUR_ADDRESS, &address_bytes(forwarding.destination));
        self.batch.end();
    }

    /// Deletes a neighbour entry.
    pub fn delete_neighbour(&mut self, interface: u32, address: IpAddr) {
        let operation = format!("delete neighbour {address}");
        self.begin_neighbour(DELETE_NEIGHBOUR, 0, family_number(address), interface, 0, 0, operation);
        self.batch.attribute(NEIGHBOUR_ADDRESS, &address_bytes(address));
        self.batch.end();
    }

    fn begin_neighbour(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        interface: u32,
        state: u16,
        entry_flags: u8,
        operation: String,
    ) {
        self.batch.begin(kind, FLAG_REQUEST | FLAG_ACK | flags, operation);
        let mut header = [family, 0, 0, 0, 0, 0, 0, 0, 0, 0, entry_flags, 0];
        header[4..8].copy_from_slice(&interface.to_ne_bytes());
        header[8..10].copy_from_slice(&state.to_ne_bytes());
        self.batch.raw(&header);
    }
}

impl Rtnetlink {
    /// The permanent neighbours of an interface.
    pub fn neighbours(&mut self, interface: u32) -> Result<Vec<Neighbour>> {
        let mut found = Vec::new();
        self.socket().dump(
            GET_NEIGHBOUR,
            "list neighbours",
            |batch| batch.raw(&[0; 12]),
            |_, payload| found.extend(parse_neighbour(payload, interface)),
        )?;
        Ok(found)
    }

    /// The forwarding entries of a VXLAN interface.
    pub fn forwardings(&mut self, interface: u32) -> Result<Vec<Forwarding>> {
        let mut found = Vec::new();
        self.socket().dump(
            GET_NEIGHBOUR,
            "list the ways of a tunnel",
            |batch| {
                // The older form of the request, struct ifinfomsg, lets the kernel leave other interfaces out.
                let mut header = [0_u8; 16];
                header[0] = FAMILY_BRIDGE;
                header[4..8].copy_from_slice(&interface.to_ne_bytes());
                batch.raw(&header);
            },
            |_, payload| found.extend(parse_forwarding(payload, interface)),
        )?;
        Ok(found)
    }
}

/// The address family, state and attributes of an entry, if it is one of this interface.
fn entry(payload: &[u8], interface: u32) -> Option<(u8, u16, Attributes<'_>)> {
    (u32_at(payload, 4)? == interface).then_some(())?;
    Some((*payload.first()?, u16_at(payload, 8)?, attributes(payload.get(12..)?)))
}

fn parse_neighbour(payload: &[u8], interface: u32) -> Option<Neighbour> {
    let (family, state, all) = entry(payload, interface)?;
    (family != FAMILY_BRIDGE && state & STATE_PERMANENT != 0).then_some(())?;
    Some(Neighbour {
        interface,
        address: all.find_kind(NEIGHBOUR_ADDRESS).and_then(parse_ip)?,
        link_address: all.find_kind(NEIGHBOUR_LINK_ADDRESS)?.try_into().ok()?,
    })
}

fn parse_forwarding(payload: &[u8], interface: u32) -> Option<Forwarding> {
    let (family, _, all) = entry(payload, interface)?;
    (family == FAMILY_BRIDGE).then_some(())?;
    Some(Forwarding {
        interface,
        link_address: all.find_kind(NEIGHBOUR_LINK_ADDRESS)?.try_into().ok()?,
        destination: all.find_kind(NEIGHBOUR_ADDRESS).and_then(parse_ip)?,
    })
}

/// The parameters in the link information of a VXLAN interface.
pub(super) fn parse_vxlan(data: Attributes<'_>) -> Option<VxlanInfo> {
    let port = data.find_kind(VXLAN_PORT)?;
    Some(VxlanInfo {
        identifier: data.find_kind(VXLAN_IDENTIFIER).and_then(|bytes| u32_at(bytes, 0))?,
        port: u16::from_be_bytes(port.try_into().ok()?),
        local: data
            .find_kind(VXLAN_LOCAL)
            .or_else(|| data.find_kind(VXLAN_LOCAL6))
            .and_then(parse_ip)
            .unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        is_learning: data.find_kind(VXLAN_LEARNING).is_some_and(|bytes| bytes.first() == Some(&1)),
    })
}
