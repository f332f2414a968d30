//! Reads links, addresses and routes of one namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::error::{Error, Result};
use super::message::{attributes, text, u32_at};
use super::namespace::NetworkNamespace;
use super::route::{LinkAddress, ROUTE_PROTOCOL, TYPE_UNREACHABLE};
use super::socket::{Protocol, Socket};
use super::tunnel::{VxlanInfo, parse_vxlan};
use crate::Prefix;

const GET_LINK: u16 = 18;
const GET_ADDRESS: u16 = 22;
const GET_ROUTE: u16 = 26;

/// An interface as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The text kept with it, empty without one.
    pub alias: String,
    /// The largest packet.
    pub mtu_bytes: u32,
    /// Its Ethernet address, if it has one.
    pub address: Option<LinkAddress>,
    /// Whether it is up.
    pub is_up: bool,
    /// Its kind ("veth", "bridge"), empty for a device without one.
    pub kind: String,
    /// Its parameters, if it is a VXLAN interface.
    pub vxlan: Option<VxlanInfo>,
}

/// An address as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressInfo {
    /// The interface that has it.
    pub interface: u32,
    /// The address.
    pub address: IpAddr,
    /// The length of its prefix.
    pub prefix_length: u8,
    /// Whether it is valid beyond this link (scope global).
    pub is_global: bool,
}

/// A route as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteInfo {
    /// Where it leads.
    pub destination: Prefix,
    /// The interface.
    pub interface: Option<u32>,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// The preferred source address.
    pub source: Option<IpAddr>,
    /// The routing table.
    pub table: u32,
    /// Who made it (114: Klynge).
    pub protocol: u8,
    /// Smaller is preferred.
    pub metric: u32,
}

/// An rtnetlink socket in one namespace.
#[derive(Debug)]
pub struct Rtnetlink {
    socket: Socket,
}

impl Rtnetlink {
    /// Opens the socket in the calling thread's namespace.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::open(Protocol::Route)? })
    }

    /// Opens the socket inside a namespace.
    pub fn open_in(namespace: &NetworkNamespace) -> Result<Self> {
        Ok(Self { socket: Socket::open_in(namespace, Protocol::Route)? })
    }

    /// The socket, for requests that change something.
    pub fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// All interfaces.
    pub fn links(&mut self) -> Result<Vec<LinkInfo>> {
        let mut found = Vec::new();
        self.socket.dump(
            GET_LINK,
            "list interfaces",
            |batch| batch.raw(&[0; 16]),
            |_, payload| found.extend(parse_link(payload)),
        )?;
        Ok(found)
    }

    /// The interface of this name.
    pub fn link_by_name(&mut self, name: &str) -> Result<LinkInfo> {
        self.links()?.into_iter().find(|link| link.name == name).ok_or_else(|| Error::Refused {
            operation: format!("find interface {name}"),
            message: String::new(),
            source: std::io::Error::from_raw_os_error(libc::ENODEV),
        })
    }

    /// The number of the interface of this name, without listing all.
    pub fn index_of(&self, name: &str) -> Result<u32> {
        rustix::net::netdevice::name_to_index(self.socket.descriptor(), name)
            .map_err(|source| Error::system(format!("find interface {name}"), source))
    }

    /// All addresses.
    pub fn addresses(&mut self) -> Result<Vec<AddressInfo>> {
        let mut found = Vec::new();
        self.socket.dump(
            GET_ADDRESS,
            "list addresses",
            |batch| batch.raw(&[0; 8]),
            |_, payload| found.extend(parse_address(payload)),
        )?;
        Ok(found)
    }

    /// All unicast routes of all tables.
    pub fn routes(&mut self) -> Result<Vec<RouteInfo>> {
        let mut found = Vec::new();
        self.socket.dump(
            GET_ROUTE,
            "list routes",
            |batch| batch.raw(&[0; 12]),
            |_, payload| found.extend(parse_route(payload)),
        )?;
        Ok(found)
    }

    /// The ranges that Klynge's own routes refuse.
    pub fn unreachable_ranges(&mut self) -> Result<Vec<Prefix>> {
        let mut found = Vec::new();
        self.socket.dump(
            GET_ROUTE,
            "list routes",
            |batch| batch.raw(&[0; 12]),
            |_, payload| {
                found.extend(
                    parse_route_of_type(payload, TYPE_UNREACHABLE)
                        .filter(|route| route.protocol == ROUTE_PROTOCOL)
                        .map(|route| route.destination),
                );
            },
        )?;
        Ok(found)
    }

    /// The preferred default route of the main table.
    pub fn default_route(&mut self, ipv6: bool) -> Result<Option<RouteInfo>> {
        let routes = self.routes()?;
        Ok(routes
            .into_iter()
            .filter(|route| {
                route.destination.length() == 0 && route.table == 254 && route.destination.network().is_ipv6() == ipv6
            })
            .min_by_key(|route| route.metric))
    }
}

fn parse_link(payload: &[u8]) -> Option<LinkInfo> {
    let all = attributes(payload.get(16..)?);
    let information = all.find_kind(18).map(attributes);
    let kind = information.as_ref().and_then(|info| info.find_kind(1)).map(text).unwrap_or_default();
    let data = information.filter(|_| kind == "vxlan").and_then(|info| info.find_kind(2)).map(attributes);
    Some(LinkInfo {
        index: u32_at(payload, 4)?,
        name: text(all.find_kind(3)?),
        alias: all.find_kind(20).map(text).unwrap_or_default(),
        mtu_bytes: all.find_kind(4).and_then(|bytes| u32_at(bytes, 0)).unwrap_or(0),
        address: all.find_kind(1).and_then(|bytes| bytes.try_into().ok()),
        is_up: u32_at(payload, 8)? & 1 != 0,
        kind,
        vxlan: data.and_then(parse_vxlan),
    })
}

fn parse_address(payload: &[u8]) -> Option<AddressInfo> {
    let all = attributes(payload.get(8..)?);
    // IFA_LOCAL is the address itself on point-to-point links; IPv6 has only IFA_ADDRESS.
    let address = all.find_kind(2).or_else(|| all.find_kind(1)).and_then(parse_ip)?;
    Some(AddressInfo {
        interface: u32_at(payload, 4)?,
        address,
        prefix_length: *payload.get(1)?,
        is_global: *payload.get(3)? == 0,
    })
}

fn parse_route(payload: &[u8]) -> Option<RouteInfo> {
    parse_route_of_type(payload, 1)
}

fn parse_route_of_type(payload: &[u8], route_type: u8) -> Option<RouteInfo> {
    let [family, length, _, _, table, protocol, _, found_type] = *payload.first_chunk::<8>()?;
    if found_type != route_type {
        return None;
    }
    let all = attributes(payload.get(12..)?);
    let unspecified = match family {
        2 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        10 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let number = |kind| all.find_kind(kind).and_then(|bytes| u32_at(bytes, 0));
    Some(RouteInfo {
        destination: Prefix::new(all.find_kind(1).and_then(parse_ip).unwrap_or(unspecified), length),
        interface: number(4),
        gateway: all.find_kind(5).and_then(parse_ip),
        source: all.find_kind(7).and_then(parse_ip),
        table: number(15).unwrap_or(u32::from(table)),
        protocol,
        metric: number(6).unwrap_or(0),
    })
}

pub(super) fn parse_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
