//! Connections that lead to endpoints which went. Conntrack would send UDP clients there for as long as they ask. TCP connections that stand stay,
//! as upstream's do; those that never came to stand are forgotten: a client that takes the same port of its own again, or repeats its
//! SYN, would be led to where nobody is.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::compile::{CompiledPort, FrontKey};
use super::state::TransportProtocol;
use crate::netlink::{Conntrack, Family, Flow, FlowFilter, TcpState};

/// How many addresses are looked for one after another; of more, all TCP connections are looked through once.
const ADDRESSES_MAX: usize = 4;

/// UDP connections that a change leaves behind.
pub(crate) struct Stale {
    front: FrontKey,
    /// Endpoints that went; empty: connections that never were translated.
    endpoints: Vec<(IpAddr, u16)>,
}

/// Forgets UDP connections to endpoints that went. A failure is told and not fatal: they time out by themselves.
pub(crate) fn purge_stale(conntrack: &mut Conntrack, stale: &Stale) -> usize {
    let filter = match stale.front {
        FrontKey::Address { ip, protocol, port } => {
            let family = if ip.is_ipv6() { Family::Ip6 } else { Family::Ip };
            let all = FlowFilter::of_protocol(protocol.number(), family);
            FlowFilter { destination: Some(ip), destination_port: Some(port), ..all }
        }
        FrontKey::NodePort { family, protocol, port } => {
            FlowFilter { destination_port: Some(port), ..FlowFilter::of_protocol(protocol.number(), family) }
        }
    };
    let is_stale = |flow: &Flow| {
        let answers = (flow.reply_source, flow.reply_source_port);
        if stale.endpoints.is_empty() {
            answers == (flow.destination, flow.destination_port)
        } else {
            stale.endpoints.contains(&answers)
        }
    };
    forget(conntrack, &filter, is_stale)
}

/// Forgets what TCP clients tried at endpoints that went: calls without answer, and connections that were reset.
pub(crate) fn purge_attempts(conntrack: &mut Conntrack, gone: &HashSet<(IpAddr, u16)>) -> usize {
    let protocol = TransportProtocol::Tcp.number();
    let is_stale = |flow: &Flow| is_attempt(flow) && gone.contains(&(flow.reply_source, flow.reply_source_port));
    let addresses: HashSet<IpAddr> = gone.iter().map(|(address, _)| *address).collect();
    let family = |address: &IpAddr| if address.is_ipv6() { Family::Ip6 } else { Family::Ip };
    let filters: HashSet<FlowFilter> = if addresses.len() <= ADDRESSES_MAX {
        let of = |it: &IpAddr| FlowFilter { reply_source: Some(*it), ..FlowFilter::of_protocol(protocol, family(it)) };
        addresses.iter().map(of).collect()
    } else {
        addresses.iter().map(|it| FlowFilter::of_protocol(protocol, family(it))).collect()
    };
    filters.iter().map(|filter| forget(conntrack, filter, is_stale)).sum()
}

/// The TCP endpoints that a change takes out of a port.
pub(crate) fn gone_endpoints(old: Option<&CompiledPort>, new: Option<&CompiledPort>) -> HashSet<(IpAddr, u16)> {
    let Some(old) = old.filter(|old| old.protocol == TransportProtocol::Tcp) else { return HashSet::new() };
    let (before, after) = (endpoints_of(Some(old)), endpoints_of(new));
    before.difference(&after).copied().collect()
}

fn endpoints_of(port: Option<&CompiledPort>) -> HashSet<(IpAddr, u16)> {
    port.map(|port| port.cluster.iter().chain(&port.local).copied().collect()).unwrap_or_default()
}

/// After a restart: forgets UDP connections and TCP attempts through Services to endpoints that went meanwhile.
pub(crate) fn purge_orphans<'a>(
    conntrack: &mut Conntrack,
    families: &[Family],
    ports: impl Iterator<Item = &'a CompiledPort>,
) -> usize {
    let mut endpoints: HashMap<FrontKey, Vec<(IpAddr, u16)>> = HashMap::new();
    for port in ports {
        for front in &port.fronts {
            endpoints.insert(front.key, port.cluster.iter().chain(&port.local).copied().collect());
        }
    }
    if endpoints.is_empty() {
        return 0;
    }
    let mut purged = 0;
    for protocol in [TransportProtocol::Udp, TransportProtocol::Tcp] {
        for family in families.iter().copied() {
            let filter = FlowFilter::of_protocol(protocol.number(), family);
            purged += forget(conntrack, &filter, |flow| {
                let answers = (flow.reply_source, flow.reply_source_port);
                let by_address = FrontKey::Address { ip: flow.destination, protocol, port: flow.destination_port };
                let orphaned = match endpoints.get(&by_address) {
                    Some(list) => !list.contains(&answers),
                    None => {
                        let by_port = FrontKey::NodePort { family, protocol, port: flow.destination_port };
                        answers.0 != flow.destination
                            && endpoints.get(&by_port).is_some_and(|list| !list.contains(&answers))
                    }
                };
                orphaned && (protocol == TransportProtocol::Udp || is_attempt(flow))
            });
        }
    }
    purged
}

/// Whether a TCP connection never came to stand, or stands no more.
fn is_attempt(flow: &Flow) -> bool {
    matches!(flow.tcp_state, Some(TcpState::SynSent | TcpState::Close))
}

fn forget(conntrack: &mut Conntrack, filter: &FlowFilter, is_stale: impl Fn(&Flow) -> bool) -> usize {
    let outcome = conntrack.list(filter).and_then(|mut flows| {
        flows.retain(|flow| is_stale(flow));
        conntrack.delete(filter.protocol, &flows)?;
        Ok(flows.len())
    });
    outcome.unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot forget connections to endpoints that are gone; they end by timeout");
        0
    })
}

pub(crate) fn stale_flows(old: Option<&CompiledPort>, new: Option<&CompiledPort>) -> Vec<Stale> {
    let Some(any) = new.or(old) else { return Vec::new() };
    if any.protocol != TransportProtocol::Udp {
        return Vec::new();
    }
    let (before, after) = (endpoints_of(old), endpoints_of(new));
    let gone: Vec<_> = before.difference(&after).copied().collect();
    let mut stale = Vec::new();
    if !gone.is_empty() {
        for front in old.iter().flat_map(|port| &port.fronts) {
            stale.push(Stale { front: front.key, endpoints: gone.clone() });
        }
    }
    if before.is_empty() && !after.is_empty() {
        // Packets that were sent before the first endpoint came left connections that point nowhere.
        for front in new.iter().flat_map(|port| &port.fronts) {
            stale.push(Stale { front: front.key, endpoints: Vec::new() });
        }
    }
    stale
}
