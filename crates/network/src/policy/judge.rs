//! Says what the rules say of a connection, without the kernel: for connections that stand, and for tests.

use std::net::IpAddr;

use super::layout::{ChainName, ChainRule, Direction, Layout, PeerSet, PortSet};
use super::ranges;
use super::selections::{Member, Selections};

/// A connection after translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
}

/// Whether the rules of this node let a new connection pass in a direction. Those of the node itself never meet the rules of ingress.
pub(crate) fn allows(layout: &Layout, selections: &Selections, direction: Direction, connection: &Connection) -> bool {
    if connection.source == connection.destination {
        return true;
    }
    let (own, peer) = match direction {
        Direction::Ingress => (connection.destination, connection.source),
        Direction::Egress => (connection.source, connection.destination),
    };
    match layout.isolated(direction).get(&own) {
        None => true,
        Some(group) => accepts(layout, selections, ChainName::Group(direction, *group), peer, connection),
    }
}

fn accepts(layout: &Layout, selections: &Selections, chain: ChainName, peer: IpAddr, connection: &Connection) -> bool {
    let has = |id: &u32, member: Member| selections.contains(*id, &member);
    let rules = layout.chains.get(&chain).map(Vec::as_slice).unwrap_or_default();
    rules.iter().any(|rule| match rule {
        ChainRule::Jump(policy) => accepts(layout, selections, *policy, peer, connection),
        ChainRule::Drop => false,
        ChainRule::Accept(peers, ports) => {
            let is_peer = match peers {
                PeerSet::Any => true,
                PeerSet::Selection(id) => has(id, Member::Address(peer)),
                PeerSet::Blocks(id) => layout.blocks.get(id).is_some_and(|blocks| ranges::contains(blocks, peer)),
            };
            let Connection { destination, protocol, port, .. } = *connection;
            is_peer
                && match ports {
                    PortSet::Any => true,
                    PortSet::Named(id) => has(id, Member::Port(destination, protocol, port)),
                    PortSet::Numbers(id) => layout
                        .ports
                        .get(id)
                        .into_iter()
                        .flat_map(|ranges| ranges.iter())
                        .any(|(of, first, last)| of.number() == protocol && (*first..=*last).contains(&port)),
                }
        }
    })
}
