//! Connections that lead to endpoints which went. Conntrack would send UDP clients there for as long as they ask. TCP connections that stand stay,
//! as upstream's do; those that never came to stand are forgotten: a client that takes the same port of its own again, or repeats its
//! SYN, would be led to where nobody is.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::compile::{CompiledPort, FrontKey};
use super::state::TransportProtocol;
use crate::netlink::{Conntrack, Family, Flow, FlowFilter, TcpState};

/// How many questions are asked of one kind of connections; past that, all of the kind are looked through once.
const FILTERS_MAX: usize = 4;

/// A protocol of one family: what conntrack is asked for when single addresses would be too many questions.
type Kind = (TransportProtocol, Family);

/// What changes leave behind in conntrack. Several changes' leftovers are one, so that they cost one look: the kernel walks its whole
/// table for each, however few connections match.
#[derive(Default)]
pub(crate) struct Leftovers {
    udp: HashMap<FrontKey, Stale>,
    /// TCP endpoints that went.
    attempts: HashSet<(IpAddr, u16)>,
    /// After a rebuild: what every front leads to, so that whatever leads elsewhere goes.
    known: Option<HashMap<FrontKey, Vec<(IpAddr, u16)>>>,
}

/// UDP connections of a front that lead nowhere any more.
#[derive(Default)]
struct Stale {
    endpoints: HashSet<(IpAddr, u16)>,
    /// Those as well that were never translated: they were sent before the first endpoint came.
    untranslated: bool,
}

impl Leftovers {
    /// Whether there is nothing to forget.
    pub(crate) fn is_empty(&self) -> bool {
        self.udp.is_empty() && self.attempts.is_empty() && self.known.is_none()
    }

    /// Takes in what a port's change leaves behind.
    pub(crate) fn note(&mut self, old: Option<&CompiledPort>, new: Option<&CompiledPort>) {
        let Some(any) = new.or(old) else { return };
        let (before, after) = (endpoints_of(old), endpoints_of(new));
        let gone = before.difference(&after).copied();
        match any.protocol {
            TransportProtocol::Tcp => self.attempts.extend(gone),
            TransportProtocol::Udp => {
                let gone: Vec<_> = gone.collect();
                if !gone.is_empty() {
                    for front in old.iter().flat_map(|port| &port.fronts) {
                        self.udp.entry(front.key).or_default().endpoints.extend(&gone);
                    }
                }
                if before.is_empty() && !after.is_empty() {
                    for front in new.iter().flat_map(|port| &port.fronts) {
                        self.udp.entry(front.key).or_default().untranslated = true;
                    }
                }
            }
            TransportProtocol::Sctp => {}
        }
    }

    /// After a rebuild, and after a restart: whatever leads to an endpoint that is not among these went meanwhile.
    pub(crate) fn after_rebuild<'a>(ports: impl Iterator<Item = &'a CompiledPort>) -> Self {
        let mut known: HashMap<FrontKey, Vec<(IpAddr, u16)>> = HashMap::new();
        for port in ports {
            for front in &port.fronts {
                known.insert(front.key, port.cluster.iter().chain(&port.local).copied().collect());
            }
        }
        Self { known: (!known.is_empty()).then_some(known), ..Self::default() }
    }

    /// Takes in the leftovers of later changes.
    pub(crate) fn append(&mut self, later: Self) {
        for (front, stale) in later.udp {
            let mine = self.udp.entry(front).or_default();
            mine.endpoints.extend(stale.endpoints);
            mine.untranslated |= stale.untranslated;
        }
        self.attempts.extend(later.attempts);
        self.known = later.known.or_else(|| self.known.take());
    }

    /// Forgets them; returns how many. A failure is told and not fatal: they time out by themselves.
    pub(crate) fn forget(&self, conntrack: &mut Conntrack, families: &[Family]) -> usize {
        let filters = if self.known.is_some() {
            let kinds = [TransportProtocol::Udp, TransportProtocol::Tcp].into_iter();
            kinds
                .flat_map(|protocol| families.iter().map(move |family| (protocol, *family)))
                .map(|kind| (kind, whole(kind)))
                .collect()
        } else {
            self.filters()
        };
        filters.iter().map(|(kind, filter)| self.forget_matching(conntrack, *kind, filter)).sum()
    }

    fn forget_matching(&self, conntrack: &mut Conntrack, kind: Kind, filter: &FlowFilter) -> usize {
        let outcome = conntrack.list(filter).and_then(|mut flows| {
            flows.retain(|flow| self.is_stale(kind, flow));
            conntrack.delete(filter.protocol, &flows)?;
            Ok(flows.len())
        });
        outcome.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot forget connections to endpoints that are gone; they end by timeout");
            0
        })
    }

    /// What to ask the kernel for: few fronts and addresses one after another, of more all connections of a kind once.
    fn filters(&self) -> Vec<(Kind, FlowFilter)> {
        let mut of_kind: HashMap<Kind, Vec<FlowFilter>> = HashMap::new();
        for front in self.udp.keys() {
            let (kind, destination, port) = match *front {
                FrontKey::Address { ip, protocol, port } => ((protocol, Family::of(ip)), Some(ip), port),
                FrontKey::NodePort { family, protocol, port } => ((protocol, family), None, port),
            };
            let filter = FlowFilter { destination, destination_port: Some(port), ..whole(kind) };
            of_kind.entry(kind).or_default().push(filter);
        }
        let addresses: HashSet<IpAddr> = self.attempts.iter().map(|(address, _)| *address).collect();
        for address in addresses {
            let kind = (TransportProtocol::Tcp, Family::of(address));
            let filter = FlowFilter { reply_source: Some(address), ..whole(kind) };
            of_kind.entry(kind).or_default().push(filter);
        }
        let asked = of_kind.into_iter().flat_map(|(kind, filters)| {
            if filters.len() > FILTERS_MAX {
                vec![(kind, whole(kind))]
            } else {
                filters.into_iter().map(|filter| (kind, filter)).collect()
            }
        });
        asked.collect()
    }

    fn is_stale(&self, (protocol, family): Kind, flow: &Flow) -> bool {
        let is_udp = protocol == TransportProtocol::Udp;
        if !is_udp && !is_attempt(flow) {
            return false;
        }
        let answers = (flow.reply_source, flow.reply_source_port);
        if !is_udp && self.attempts.contains(&answers) {
            return true;
        }
        let is_untranslated = answers == (flow.destination, flow.destination_port);
        let by_address = FrontKey::Address { ip: flow.destination, protocol, port: flow.destination_port };
        let by_port = FrontKey::NodePort { family, protocol, port: flow.destination_port };
        let mut of_changes = [by_address, by_port].into_iter().filter_map(|front| self.udp.get(&front));
        if of_changes.any(|it| it.endpoints.contains(&answers) || it.untranslated && is_untranslated) {
            return true;
        }
        let Some(known) = &self.known else { return false };
        match known.get(&by_address) {
            Some(endpoints) => !endpoints.contains(&answers),
            // On any address of the host, unless the host itself answers.
            None => {
                answers.0 != flow.destination
                    && known.get(&by_port).is_some_and(|endpoints| !endpoints.contains(&answers))
            }
        }
    }
}

/// All connections of a kind.
fn whole((protocol, family): Kind) -> FlowFilter {
    FlowFilter::of_protocol(protocol.number(), family)
}

fn endpoints_of(port: Option<&CompiledPort>) -> HashSet<(IpAddr, u16)> {
    port.map(|port| port.cluster.iter().chain(&port.local).copied().collect()).unwrap_or_default()
}

/// Whether a TCP connection never came to stand, or stands no more.
fn is_attempt(flow: &Flow) -> bool {
    matches!(flow.tcp_state, Some(TcpState::SynSent | TcpState::Close))
}
