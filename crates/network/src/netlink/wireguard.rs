//! WireGuard interfaces: made through rtnetlink, configured and read through generic netlink (linux/wireguard.h).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::error::{Error, Result};
use super::message::{Attributes, Batch, attributes, u16_at};
use super::namespace::NetworkNamespace;
use super::route::{
    FLAG_CREATE, FLAG_EXCLUSIVE, FLAG_REQUEST, INFO_KIND, LINK_INFO, LINK_MTU, LINK_NAME, NEW_LINK, RouteBatch,
};
use super::route_query::parse_ip;
use super::socket::{FLAG_ACK, Protocol, Socket};
use crate::Prefix;
use crate::prefix::address_bytes;

/// GENL_ID_CTRL, and what is asked of it.
const CONTROL: u16 = 0x10;
const CONTROL_GET_FAMILY: u8 = 3;
const CONTROL_FAMILY_ID: u16 = 1;
const CONTROL_FAMILY_NAME: u16 = 2;

const GET_DEVICE: u8 = 0;
const SET_DEVICE: u8 = 1;

const DEVICE_NAME: u16 = 2;
const DEVICE_PRIVATE_KEY: u16 = 3;
const DEVICE_PUBLIC_KEY: u16 = 4;
const DEVICE_PORT: u16 = 6;
const DEVICE_PEERS: u16 = 8;

const PEER_PUBLIC_KEY: u16 = 1;
const PEER_FLAGS: u16 = 3;
const PEER_ENDPOINT: u16 = 4;
const PEER_ALLOWED: u16 = 9;
const PEER_REMOVE: u32 = 1;
const PEER_REPLACE_ALLOWED: u32 = 2;

const ALLOWED_FAMILY: u16 = 1;
const ALLOWED_ADDRESS: u16 = 2;
const ALLOWED_LENGTH: u16 = 3;

const FAMILY_INET: u16 = 2;
const FAMILY_INET6: u16 = 10;
/// A message of attributes is limited to 64 KiB: so many peers go into one.
const PEERS_PER_MESSAGE: usize = 100;

/// A Curve25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PublicKey({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// Another end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireguardPeer {
    /// Its key, by which it is known.
    pub key: PublicKey,
    /// Where it is; none where it has not been told or heard.
    pub endpoint: Option<SocketAddr>,
    /// The addresses that it may send from, and that packets are sent to it for.
    pub allowed: Vec<Prefix>,
}

/// What to do about another end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireguardChange {
    /// Make it, or replace where it is and its addresses.
    Set(WireguardPeer),
    /// Remove it.
    Remove(PublicKey),
}

/// A WireGuard interface as found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WireguardInfo {
    /// Its public key; none while it has no private one.
    pub key: Option<PublicKey>,
    /// Its UDP port.
    pub port: u16,
    /// The other ends.
    pub peers: Vec<WireguardPeer>,
}

impl RouteBatch {
    /// Makes a WireGuard interface, still down and without a key.
    pub fn add_wireguard(&mut self, name: &str, mtu_bytes: u32) {
        self.begin_link(NEW_LINK, FLAG_CREATE | FLAG_EXCLUSIVE, 0, 0, 0, format!("create WireGuard interface {name}"));
        self.batch.attribute_str(LINK_NAME, name);
        self.batch.attribute_u32(LINK_MTU, mtu_bytes);
        self.batch.nested(LINK_INFO, |batch| batch.attribute_str(INFO_KIND, "wireguard"));
        self.batch.end();
    }
}

/// A generic netlink socket that configures WireGuard in one namespace.
#[derive(Debug)]
pub struct Wireguard {
    socket: Socket,
    family: u16,
}

impl Wireguard {
    /// Opens it inside a namespace. The kernel has to have WireGuard: it is there once an interface was made.
    pub fn open_in(namespace: &NetworkNamespace) -> Result<Self> {
        let mut socket = Socket::open_in(namespace, Protocol::Generic)?;
        let mut family = None;
        socket.get(
            CONTROL,
            "find the kernel's WireGuard",
            |batch| {
                batch.raw(&[CONTROL_GET_FAMILY, 1, 0, 0]);
                batch.attribute_str(CONTROL_FAMILY_NAME, "wireguard");
            },
            |_, payload| {
                let all = attributes(payload.get(4..).unwrap_or_default());
                family = all.find_kind(CONTROL_FAMILY_ID).and_then(|bytes| u16_at(bytes, 0)).or(family);
            },
        )?;
        let malformed =
            || Error::Malformed { operation: "find the kernel's WireGuard".to_owned(), reason: "no family number" };
        Ok(Self { socket, family: family.ok_or_else(malformed)? })
    }

    /// Gives an interface its private key and its port. The peers stay.
    pub fn set_identity(&mut self, interface: &str, private_key: &[u8; 32], port: u16) -> Result<()> {
        let mut batch = Batch::new();
        self.begin(&mut batch, interface, "give the WireGuard interface its key");
        batch.attribute(DEVICE_PRIVATE_KEY, private_key);
        batch.attribute(DEVICE_PORT, &port.to_ne_bytes());
        batch.end();
        self.socket.request_all(&batch)
    }

    /// Changes peers.
    pub fn change_peers(&mut self, interface: &str, changes: &[WireguardChange]) -> Result<()> {
        for part in changes.chunks(PEERS_PER_MESSAGE) {
            let mut batch = Batch::new();
            self.begin(&mut batch, interface, "change the peers of the WireGuard interface");
            batch.nested(DEVICE_PEERS, |batch| {
                for change in part {
                    batch.nested(0, |batch| peer(batch, change));
                }
            });
            batch.end();
            self.socket.request_all(&batch)?;
        }
        Ok(())
    }

    fn begin(&self, batch: &mut Batch, interface: &str, operation: &str) {
        batch.begin(self.family, FLAG_REQUEST | FLAG_ACK, format!("{operation} {interface}"));
        batch.raw(&[SET_DEVICE, 1, 0, 0]);
        batch.attribute_str(DEVICE_NAME, interface);
    }

    /// Reads an interface: its public key, port and peers.
    pub fn device(&mut self, interface: &str) -> Result<WireguardInfo> {
        let mut info = WireguardInfo::default();
        self.socket.dump(
            self.family,
            "read the WireGuard interface",
            |batch| {
                batch.raw(&[GET_DEVICE, 1, 0, 0]);
                batch.attribute_str(DEVICE_NAME, interface);
            },
            |_, payload| parse_device(payload, &mut info),
        )?;
        Ok(info)
    }
}

fn peer(batch: &mut Batch, change: &WireguardChange) {
    let peer = match change {
        WireguardChange::Remove(key) => {
            batch.attribute(PEER_PUBLIC_KEY, &key.0);
            batch.attribute_u32(PEER_FLAGS, PEER_REMOVE);
            return;
        }
        WireguardChange::Set(peer) => peer,
    };
    batch.attribute(PEER_PUBLIC_KEY, &peer.key.0);
    batch.attribute_u32(PEER_FLAGS, PEER_REPLACE_ALLOWED);
    if let Some(endpoint) = peer.endpoint {
        batch.attribute(PEER_ENDPOINT, &socket_address(endpoint));
    }
    batch.nested(PEER_ALLOWED, |batch| {
        for range in &peer.allowed {
            batch.nested(0, |batch| {
                let family = if range.network().is_ipv4() { FAMILY_INET } else { FAMILY_INET6 };
                batch.attribute(ALLOWED_FAMILY, &family.to_ne_bytes());
                batch.attribute(ALLOWED_ADDRESS, &address_bytes(range.network()));
                batch.attribute(ALLOWED_LENGTH, &[range.length()]);
            });
        }
    });
}

/// struct sockaddr_in or sockaddr_in6.
fn socket_address(endpoint: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    let port = endpoint.port().to_be_bytes();
    match endpoint.ip() {
        IpAddr::V4(address) => {
            bytes.extend_from_slice(&FAMILY_INET.to_ne_bytes());
            bytes.extend_from_slice(&port);
            bytes.extend_from_slice(&address.octets());
            bytes.extend_from_slice(&[0; 8]);
        }
        IpAddr::V6(address) => {
            bytes.extend_from_slice(&FAMILY_INET6.to_ne_bytes());
            bytes.extend_from_slice(&port);
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&address.octets());
            bytes.extend_from_slice(&[0; 4]);
        }
    }
    bytes
}

fn parse_socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let address = match u16_at(bytes, 0)? {
        FAMILY_INET => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(4..8)?).ok()?)),
        FAMILY_INET6 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(8..24)?).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

/// One part of a device: an answer that is too long for a message comes in several, and a peer may go on in the next one.
fn parse_device(payload: &[u8], info: &mut WireguardInfo) {
    let all = attributes(payload.get(4..).unwrap_or_default());
    info.key = all.find_kind(DEVICE_PUBLIC_KEY).and_then(key).or(info.key);
    info.port = all.find_kind(DEVICE_PORT).and_then(|bytes| u16_at(bytes, 0)).unwrap_or(info.port);
    for (_, bytes) in all.find_kind(DEVICE_PEERS).map(attributes).into_iter().flatten() {
        let Some(peer) = parse_peer(&attributes(bytes)) else { continue };
        match info.peers.last_mut().filter(|last| last.key == peer.key) {
            Some(last) => last.allowed.extend(peer.allowed),
            None => info.peers.push(peer),
        }
    }
}

fn key(bytes: &[u8]) -> Option<PublicKey> {
    bytes.try_into().ok().map(PublicKey)
}

fn parse_peer(all: &Attributes<'_>) -> Option<WireguardPeer> {
    let allowed = all.find_kind(PEER_ALLOWED).map(attributes).into_iter().flatten();
    let range = |bytes: &[u8]| {
        let all = attributes(bytes);
        let length = *all.find_kind(ALLOWED_LENGTH)?.first()?;
        Some(Prefix::new(all.find_kind(ALLOWED_ADDRESS).and_then(parse_ip)?, length))
    };
    Some(WireguardPeer {
        key: all.find_kind(PEER_PUBLIC_KEY).and_then(key)?,
        endpoint: all.find_kind(PEER_ENDPOINT).and_then(parse_socket_address),
        allowed: allowed.filter_map(|(_, bytes)| range(bytes)).collect(),
    })
}

/// Whether an error says that the kernel has no WireGuard.
pub(crate) fn is_missing(error: &Error) -> bool {
    matches!(error.errno(), Some(libc::EOPNOTSUPP | libc::ENOENT | libc::ENODEV))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn peers_and_endpoints_come_back() {
        for endpoint in ["192.0.2.7:8478", "[2001:db8::7]:8478"] {
            let endpoint: SocketAddr = endpoint.parse().unwrap();
            assert_eq!(parse_socket_address(&socket_address(endpoint)), Some(endpoint));
            let wanted = WireguardPeer {
                key: PublicKey([7; 32]),
                endpoint: Some(endpoint),
                allowed: vec!["10.42.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
            };
            let mut batch = Batch::new();
            batch.begin(0, 0, "test");
            peer(&mut batch, &WireguardChange::Set(wanted.clone()));
            batch.end();
            let bytes = batch.finished().unwrap();
            assert_eq!(parse_peer(&attributes(&bytes[16..])), Some(wanted));
        }
        for bytes in [&[][..], &[2, 0], &[10, 0, 1, 1, 0], &[99, 0, 1, 1, 0, 0, 0, 0, 0]] {
            assert_eq!(parse_socket_address(bytes), None);
        }
    }
}
