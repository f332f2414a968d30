//! Finds and forgets tracked connections, so that clients do not stick to endpoints that are gone.

use std::net::IpAddr;

use super::error::Result;
use super::message::{Attributes, Batch, attributes};
use super::namespace::NetworkNamespace;
use super::nft_constants::Family;
use super::socket::{FLAG_ACK, Protocol, Socket};

const SUBSYSTEM_CONNTRACK: u16 = 1 << 8;
const MSG_GET: u16 = 1;
const MSG_DELETE: u16 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const PROTOCOL_INFO: u16 = 4;
const PROTOCOL_INFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// CTA_FILTER_FLAG for the addresses, the protocol number and the destination port (linux, ctnetlink).
const MATCH_IP_SOURCE: u32 = 1;
const MATCH_IP_DESTINATION: u32 = 1 << 1;
const MATCH_PROTOCOL: u32 = 1 << 3;
const MATCH_PORT_DESTINATION: u32 = 1 << 5;

/// Which connections to look for. What the client called is the original direction, who answers the reply's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowFilter {
    /// The transport protocol's number.
    pub protocol: u8,
    /// The address that the client called; any when absent.
    pub destination: Option<IpAddr>,
    /// The port that the client called; any when absent.
    pub destination_port: Option<u16>,
    /// The address that answers; any when absent.
    pub reply_source: Option<IpAddr>,
    /// IPv6 instead of IPv4.
    pub ipv6: bool,
}

impl FlowFilter {
    /// All connections of a protocol in one family.
    #[must_use]
    pub fn of_protocol(protocol: u8, family: Family) -> Self {
        let ipv6 = family == Family::Ip6;
        Self { protocol, destination: None, destination_port: None, reply_source: None, ipv6 }
    }
}

/// How far a TCP connection has come, as far as it matters here (`enum tcp_conntrack`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpState {
    /// The client has called and has no answer yet.
    SynSent,
    /// Reset: a memory of ten seconds.
    Close,
    /// Any other.
    Other,
}

/// One tracked connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The client's address.
    pub source: IpAddr,
    /// The address that the client called.
    pub destination: IpAddr,
    /// The client's port.
    pub source_port: u16,
    /// The port that the client called.
    pub destination_port: u16,
    /// The address that answers.
    pub reply_source: IpAddr,
    /// The port that answers.
    pub reply_source_port: u16,
    /// Of TCP alone.
    pub tcp_state: Option<TcpState>,
}

/// A conntrack socket in one namespace.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// Opens the socket inside a namespace.
    pub fn open_in(namespace: &NetworkNamespace) -> Result<Self> {
        Ok(Self { socket: Socket::open_in(namespace, Protocol::Netfilter)? })
    }

    /// Lists the connections that match. The kernel filters where it can (Linux 5.8); older ones send all, and the filter here decides.
    pub fn list(&mut self, filter: &FlowFilter) -> Result<Vec<Flow>> {
        match self.list_with(filter, true) {
            Err(error) if error.errno() == Some(libc::EOPNOTSUPP) || error.errno() == Some(libc::EINVAL) => {
                self.list_with(filter, false)
            }
            other => other,
        }
    }

    fn list_with(&mut self, filter: &FlowFilter, in_kernel: bool) -> Result<Vec<Flow>> {
        let mut found = Vec::new();
        let family = if filter.ipv6 { Family::Ip6 } else { Family::Ip };
        self.socket.dump(
            SUBSYSTEM_CONNTRACK | MSG_GET,
            "list tracked connections",
            |batch| {
                batch.raw(&[family.number(), 0, 0, 0]);
                if in_kernel {
                    write_filter(batch, filter);
                }
            },
            |_, payload| {
                if let Some((protocol, flow)) = payload.get(4..).and_then(parse)
                    && protocol == filter.protocol
                    && filter.destination_port.is_none_or(|port| port == flow.destination_port)
                    && filter.destination.is_none_or(|address| address == flow.destination)
                    && filter.reply_source.is_none_or(|address| address == flow.reply_source)
                {
                    found.push(flow);
                }
            },
        )?;
        Ok(found)
    }

    /// Lists all connections, each with its protocol's number. The kernel walks its whole table for a list, whatever is asked for: this costs
    /// as much as one of [`Conntrack::list`].
    pub fn list_all(&mut self) -> Result<Vec<(u8, Flow)>> {
        let mut found = Vec::new();
        self.socket.dump(
            SUBSYSTEM_CONNTRACK | MSG_GET,
            "list all tracked connections",
            // Of no family in particular.
            |batch| batch.raw(&[0; 4]),
            |_, payload| found.extend(payload.get(4..).and_then(parse)),
        )?;
        Ok(found)
    }

    /// Forgets connections; one that ended by itself meanwhile is no error.
    pub fn delete(&mut self, protocol: u8, flows: &[Flow]) -> Result<()> {
        // Small batches keep the acknowledgements within the socket's receive queue.
        for chunk in flows.chunks(512) {
            let mut batch = Batch::new();
            for flow in chunk {
                let family = if flow.source.is_ipv6() { Family::Ip6 } else { Family::Ip };
                batch.begin(SUBSYSTEM_CONNTRACK | MSG_DELETE, 1 | FLAG_ACK, "forget a tracked connection");
                batch.raw(&[family.number(), 0, 0, 0]);
                batch.nested(TUPLE_ORIGINAL, |batch| {
                    batch.nested(1, |batch| {
                        write_address(batch, flow.source, 1, 3);
                        write_address(batch, flow.destination, 2, 4);
                    });
                    batch.nested(2, |batch| {
                        batch.attribute(1, &[protocol]);
                        batch.attribute(2, &flow.source_port.to_be_bytes());
                        batch.attribute(3, &flow.destination_port.to_be_bytes());
                    });
                });
                batch.end();
            }
            for outcome in self.socket.request_each(&batch)? {
                match outcome {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn write_address(batch: &mut Batch, address: IpAddr, kind_v4: u16, kind_v6: u16) {
    match address {
        IpAddr::V4(address) => batch.attribute(kind_v4, &address.octets()),
        IpAddr::V6(address) => batch.attribute(kind_v6, &address.octets()),
    }
}

fn write_filter(batch: &mut Batch, filter: &FlowFilter) {
    let mut flags = MATCH_PROTOCOL;
    batch.nested(TUPLE_ORIGINAL, |batch| {
        if let Some(address) = filter.destination {
            flags |= MATCH_IP_DESTINATION;
            batch.nested(1, |batch| write_address(batch, address, 2, 4));
        }
        batch.nested(2, |batch| {
            batch.attribute(1, &[filter.protocol]);
            if let Some(port) = filter.destination_port {
                flags |= MATCH_PORT_DESTINATION;
                batch.attribute(3, &port.to_be_bytes());
            }
        });
    });
    let mut reply_flags = 0;
    if let Some(address) = filter.reply_source {
        reply_flags |= MATCH_IP_SOURCE | MATCH_PROTOCOL;
        batch.nested(TUPLE_REPLY, |batch| {
            batch.nested(1, |batch| write_address(batch, address, 1, 3));
            batch.nested(2, |batch| batch.attribute(1, &[filter.protocol]));
        });
    }
    batch.nested(FILTER, |batch| {
        batch.attribute_u32(FILTER_ORIGINAL, flags);
        batch.attribute_u32(FILTER_REPLY, reply_flags);
    });
}

struct Tuple {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
}

fn parse(bytes: &[u8]) -> Option<(u8, Flow)> {
    let all = attributes(bytes);
    let original = parse_tuple(&attributes(all.find_kind(TUPLE_ORIGINAL)?))?;
    let reply = parse_tuple(&attributes(all.find_kind(TUPLE_REPLY)?))?;
    let flow = Flow {
        source: original.source,
        destination: original.destination,
        source_port: original.source_port,
        destination_port: original.destination_port,
        reply_source: reply.source,
        reply_source_port: reply.source_port,
        tcp_state: all.find_kind(PROTOCOL_INFO).and_then(tcp_state),
    };
    Some((original.protocol, flow))
}

fn tcp_state(protocol_info: &[u8]) -> Option<TcpState> {
    let info = attributes(protocol_info);
    let tcp = attributes(info.find_kind(PROTOCOL_INFO_TCP)?);
    Some(match tcp.find_kind(TCP_STATE)?.first()? {
        1 => TcpState::SynSent,
        8 => TcpState::Close,
        _ => TcpState::Other,
    })
}

fn parse_tuple(tuple: &Attributes<'_>) -> Option<Tuple> {
    let addresses = attributes(tuple.find_kind(1)?);
    let protocol = attributes(tuple.find_kind(2)?);
    let address = |kind_v4: u16, kind_v6: u16| match (addresses.find_kind(kind_v4), addresses.find_kind(kind_v6)) {
        (Some(bytes), _) => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        (None, Some(bytes)) => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        (None, None) => None,
    };
    let port = |kind| protocol.find_kind(kind).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_be_bytes);
    Some(Tuple {
        source: address(1, 3)?,
        destination: address(2, 4)?,
        protocol: *protocol.find_kind(1)?.first()?,
        source_port: port(2),
        destination_port: port(3),
    })
}
