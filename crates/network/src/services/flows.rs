//! UDP connections that lead to endpoints which went: conntrack would send their clients there for as long as they ask.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::compile::{CompiledPort, FrontKey};
use super::state::TransportProtocol;
use crate::netlink::{Conntrack, Family, Flow, FlowFilter};

/// UDP connections that a change leaves behind.
pub(crate) struct Stale {
    front: FrontKey,
    /// Endpoints that went; empty: connections that never were translated.
    endpoints: Vec<(IpAddr, u16)>,
}

/// Forgets UDP connections to endpoints that went. A failure is told and not fatal: they time out by themselves.
pub(crate) fn purge_stale(conntrack: &mut Conntrack, stale: &Stale) -> usize {
    let filter = match stale.front {
        FrontKey::Address { ip, protocol, port } => FlowFilter {
            protocol: protocol.number(),
            destination: Some(ip),
            destination_port: Some(port),
            ipv6: ip.is_ipv6(),
        },
        FrontKey::NodePort { family, protocol, port } => FlowFilter {
            protocol: protocol.number(),
            destination: None,
            destination_port: Some(port),
            ipv6: family == Family::Ip6,
        },
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

/// After a restart: forgets UDP connections through Services to endpoints that went meanwhile.
pub(crate) fn purge_orphans<'a>(
    conntrack: &mut Conntrack,
    families: &[Family],
    ports: impl Iterator<Item = &'a CompiledPort>,
) -> usize {
    let mut endpoints: HashMap<FrontKey, Vec<(IpAddr, u16)>> = HashMap::new();
    for port in ports {
        if port.protocol == TransportProtocol::Udp {
            for front in &port.fronts {
                endpoints.insert(front.key, port.cluster.iter().chain(&port.local).copied().collect());
            }
        }
    }
    if endpoints.is_empty() {
        return 0;
    }
    let protocol = TransportProtocol::Udp;
    let mut purged = 0;
    for family in families.iter().copied() {
        let filter = FlowFilter {
            protocol: protocol.number(),
            destination: None,
            destination_port: None,
            ipv6: family == Family::Ip6,
        };
        purged += forget(conntrack, &filter, |flow| {
            let answers = (flow.reply_source, flow.reply_source_port);
            let by_address = FrontKey::Address { ip: flow.destination, protocol, port: flow.destination_port };
            match endpoints.get(&by_address) {
                Some(list) => !list.contains(&answers),
                None => {
                    let by_port = FrontKey::NodePort { family, protocol, port: flow.destination_port };
                    answers.0 != flow.destination
                        && endpoints.get(&by_port).is_some_and(|list| !list.contains(&answers))
                }
            }
        });
    }
    purged
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
    let lists = |port: Option<&CompiledPort>| -> HashSet<(IpAddr, u16)> {
        port.map(|port| port.cluster.iter().chain(&port.local).copied().collect()).unwrap_or_default()
    };
    let Some(any) = new.or(old) else { return Vec::new() };
    if any.protocol != TransportProtocol::Udp {
        return Vec::new();
    }
    let (before, after) = (lists(old), lists(new));
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
