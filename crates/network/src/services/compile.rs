//! Turns a Service into addresses to listen on and lists of endpoints: pure, and independent of how nftables holds them.

use std::net::IpAddr;

use super::state::{Endpoint, ServicePort, ServiceState, TrafficPolicy, TransportProtocol};
use crate::Prefix;
use crate::netlink::Family;

/// Where clients call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrontKey {
    /// An address and port.
    Address {
        /// The address.
        ip: IpAddr,
        /// The protocol.
        protocol: TransportProtocol,
        /// The port.
        port: u16,
    },
    /// A port on every address of the node, in one family.
    NodePort {
        /// IPv4 or IPv6.
        family: Family,
        /// The protocol.
        protocol: TransportProtocol,
        /// The port.
        port: u16,
    },
}

/// Which endpoints are chosen from, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Balance {
    /// One of this many endpoints of the cluster.
    Cluster(u32),
    /// One of this many endpoints of this node.
    Local(u32),
    /// There are none: refuse.
    Reject,
    /// There are none here, but elsewhere: drop, as upstream does for a Local policy.
    Drop,
}

/// Whose source address is replaced by the node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Masquerade {
    /// Nobody's.
    Never,
    /// That of sources outside the cluster, so that answers come back through this node.
    Outside,
    /// Everyone's.
    Always,
}

/// What happens to a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Action {
    /// Where it goes.
    pub balance: Balance,
    /// Whether its source address is replaced.
    pub masquerade: Masquerade,
    /// How long a client keeps its endpoint.
    pub affinity_timeout_s: Option<u32>,
    /// Whether only loadBalancerSourceRanges may call.
    pub is_restricted: bool,
    /// Whether pods and the node itself take the alternate action instead (externalTrafficPolicy Local).
    pub has_alternate: bool,
}

impl Action {
    const fn plain(balance: Balance) -> Self {
        Self {
            balance,
            masquerade: Masquerade::Never,
            affinity_timeout_s: None,
            is_restricted: false,
            has_alternate: false,
        }
    }
}

/// One place where clients call a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Front {
    /// The place.
    pub key: FrontKey,
    /// What happens to most connections.
    pub action: Action,
    /// What happens to those of pods and of the node, if [`Action::has_alternate`].
    pub alternate: Action,
}

/// One port of a Service in one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledPort {
    /// IPv4 or IPv6.
    pub family: Family,
    /// The protocol.
    pub protocol: TransportProtocol,
    /// The port's number, with the protocol and family its identity within the Service.
    pub port: u16,
    /// Endpoints to choose from under a Cluster policy.
    pub cluster: Vec<(IpAddr, u16)>,
    /// Endpoints to choose from under a Local policy; empty where no policy is Local.
    pub local: Vec<(IpAddr, u16)>,
    /// Addresses of endpoints on this node: they may call themselves through the Service.
    pub hairpins: Vec<IpAddr>,
    /// Where clients call.
    pub fronts: Vec<Front>,
    /// Who may call the load balancer's addresses, in this family.
    pub source_ranges: Vec<Prefix>,
    /// Whether some front keeps clients on their endpoint.
    pub has_affinity: bool,
}

/// The most endpoints of one port that are used; more are left out, which spreads the load over fewer of them.
pub(crate) const ENDPOINTS_PER_PORT_MAX: usize = 65_000;

/// Compiles a Service.
#[must_use]
pub fn compile(service: &ServiceState) -> Vec<CompiledPort> {
    let mut compiled = Vec::new();
    for family in [Family::Ip, Family::Ip6] {
        for port in &service.ports {
            let port = compile_port(service, port, family);
            if !port.fronts.is_empty() {
                compiled.push(port);
            }
        }
    }
    compiled
}

fn compile_port(service: &ServiceState, port: &ServicePort, family: Family) -> CompiledPort {
    let in_family = |ip: &&IpAddr| ip.is_ipv6() == (family == Family::Ip6);
    let of_family: Vec<&Endpoint> = port.endpoints.iter().filter(|endpoint| in_family(&&endpoint.ip)).collect();
    let cluster = usable(of_family.iter().copied().filter(|endpoint| endpoint.is_preferred));
    let needs_local =
        service.external_policy == TrafficPolicy::Local || service.internal_policy == TrafficPolicy::Local;
    let local =
        if needs_local { usable(of_family.iter().copied().filter(|endpoint| endpoint.node_local)) } else { Vec::new() };
    // Without a ready endpoint anywhere, a Local policy may still use terminating ones of this node.
    let has_any = !cluster.is_empty() || !local.is_empty();

    let balance = |policy: TrafficPolicy| match policy {
        TrafficPolicy::Cluster if cluster.is_empty() => Balance::Reject,
        TrafficPolicy::Cluster => Balance::Cluster(count(&cluster)),
        TrafficPolicy::Local if !local.is_empty() => Balance::Local(count(&local)),
        TrafficPolicy::Local if has_any => Balance::Drop,
        TrafficPolicy::Local => Balance::Reject,
    };
    let action = |balance: Balance, masquerade: Masquerade| match balance {
        Balance::Reject | Balance::Drop => Action::plain(balance),
        _ => Action { masquerade, affinity_timeout_s: service.affinity_timeout_s, ..Action::plain(balance) },
    };
    let internal = action(balance(service.internal_policy), Masquerade::Outside);
    let within = action(balance(TrafficPolicy::Cluster), Masquerade::Never);
    let external = match service.external_policy {
        TrafficPolicy::Cluster => action(balance(TrafficPolicy::Cluster), Masquerade::Always),
        TrafficPolicy::Local => {
            let outside = action(balance(TrafficPolicy::Local), Masquerade::Never);
            // Pods and the node itself may use any endpoint: the policy preserves addresses of outside clients only.
            Action { has_alternate: outside.balance != Balance::Reject, ..outside }
        }
    };
    let source_ranges: Vec<Prefix> =
        service.source_ranges.iter().copied().filter(|range| range.family() == family).collect();
    // A list without a range of this family admits nobody in it.
    let load_balancer =
        Action { is_restricted: !service.source_ranges.is_empty() && external.balance != Balance::Reject, ..external };

    let address = |ip: &IpAddr| FrontKey::Address { ip: *ip, protocol: port.protocol, port: port.port };
    let mut fronts = Vec::new();
    for ip in service.cluster_ips.iter().filter(in_family) {
        fronts.push(Front { key: address(ip), action: internal, alternate: within });
    }
    for ip in service.external_ips.iter().filter(in_family) {
        fronts.push(Front { key: address(ip), action: external, alternate: within });
    }
    for ip in service.load_balancer_ips.iter().filter(in_family) {
        fronts.push(Front { key: address(ip), action: load_balancer, alternate: within });
    }
    // A single-stack Service listens in its own family only.
    if let Some(node_port) = port.node_port
        && service.cluster_ips.iter().any(|ip| in_family(&ip))
    {
        let key = FrontKey::NodePort { family, protocol: port.protocol, port: node_port };
        fronts.push(Front { key, action: external, alternate: within });
    }
    fronts.sort_by_key(|front| front.key);
    fronts.dedup_by_key(|front| front.key);
    let mut hairpins: Vec<IpAddr> =
        of_family.iter().filter(|endpoint| endpoint.node_local).map(|endpoint| endpoint.ip).collect();
    hairpins.sort_unstable();
    hairpins.dedup();
    CompiledPort {
        family,
        protocol: port.protocol,
        port: port.port,
        cluster,
        local,
        hairpins,
        fronts,
        source_ranges,
        has_affinity: service.affinity_timeout_s.is_some(),
    }
}

fn count(endpoints: &[(IpAddr, u16)]) -> u32 {
    u32::try_from(endpoints.len()).unwrap_or(u32::MAX)
}

/// The ready endpoints; without any, those that terminate but still serve (KEP-1669).
fn usable<'a>(endpoints: impl Iterator<Item = &'a Endpoint> + Clone) -> Vec<(IpAddr, u16)> {
    let collect = |wanted: &dyn Fn(&Endpoint) -> bool| {
        let mut list: Vec<_> = endpoints
            .clone()
            .filter(|endpoint| wanted(endpoint))
            .map(|endpoint| (endpoint.ip, endpoint.port))
            .collect();
        list.sort_unstable();
        list.dedup();
        list.truncate(ENDPOINTS_PER_PORT_MAX);
        list
    };
    let ready = collect(&|endpoint| endpoint.ready);
    if ready.is_empty() { collect(&|endpoint| endpoint.serving && endpoint.terminating) } else { ready }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn endpoint(ip: &str, node_local: bool, ready: bool, terminating: bool) -> Endpoint {
        Endpoint { node_local, ready, terminating, ..Endpoint::ready(ip.parse().unwrap(), 8080) }
    }

    fn service(endpoints: Vec<Endpoint>) -> ServiceState {
        ServiceState {
            cluster_ips: vec!["10.43.0.7".parse().unwrap()],
            load_balancer_ips: vec!["192.0.2.7".parse().unwrap()],
            ports: vec![ServicePort { port: 80, node_port: Some(30_080), endpoints, ..ServicePort::default() }],
            ..ServiceState::default()
        }
    }

    fn actions(service: &ServiceState) -> Vec<Action> {
        compile(service).into_iter().flat_map(|port| port.fronts).map(|front| front.action).collect()
    }

    #[test]
    fn without_endpoints_every_front_refuses() {
        assert!(actions(&service(vec![])).iter().all(|action| action.balance == Balance::Reject));
    }

    #[test]
    fn terminating_endpoints_serve_only_as_last_resort() {
        let both = service(vec![endpoint("10.42.0.2", true, true, false), endpoint("10.42.0.3", true, false, true)]);
        assert!(actions(&both).iter().all(|action| action.balance == Balance::Cluster(1)));
        let last = service(vec![endpoint("10.42.0.3", true, false, true)]);
        assert_eq!(compile(&last)[0].cluster, [("10.42.0.3".parse().unwrap(), 8080)]);
    }

    #[test]
    fn a_local_policy_drops_where_only_others_have_endpoints() {
        let mut state = service(vec![endpoint("10.42.1.2", false, true, false)]);
        state.external_policy = TrafficPolicy::Local;
        let ports = compile(&state);
        let by_key = |wanted: &dyn Fn(&FrontKey) -> bool| {
            ports[0].fronts.iter().find(|front| wanted(&front.key)).unwrap().clone()
        };
        let node_port = by_key(&|key| matches!(key, FrontKey::NodePort { .. }));
        assert_eq!(node_port.action.balance, Balance::Drop);
        assert!(node_port.action.has_alternate);
        assert_eq!(node_port.alternate.balance, Balance::Cluster(1));
        let cluster =
            by_key(&|key| matches!(key, FrontKey::Address { ip, .. } if *ip == "10.43.0.7".parse::<IpAddr>().unwrap()));
        assert_eq!(cluster.action.balance, Balance::Cluster(1));
        state.internal_policy = TrafficPolicy::Local;
        let cluster = compile(&state)[0].fronts[0].clone();
        assert_eq!(cluster.action.balance, Balance::Drop);
    }

    #[test]
    fn only_preferred_endpoints_serve_a_cluster_policy_and_all_local_ones_a_local_policy() {
        let mut state =
            service(vec![endpoint("10.42.0.2", true, true, false), endpoint("10.42.1.2", false, true, false)]);
        state.ports[0].endpoints[0].is_preferred = false;
        state.external_policy = TrafficPolicy::Local;
        let port = compile(&state).remove(0);
        assert_eq!(port.cluster, [("10.42.1.2".parse().unwrap(), 8080)]);
        assert_eq!(port.local, [("10.42.0.2".parse().unwrap(), 8080)]);
    }

    #[test]
    fn families_do_not_mix() {
        let mut state = service(vec![endpoint("10.42.0.2", true, true, false), endpoint("fd00::2", true, true, false)]);
        assert_eq!(compile(&state).len(), 1, "a single-stack Service has no IPv6 front, not even a node port");
        state.cluster_ips.push("fd00:43::7".parse().unwrap());
        let ports = compile(&state);
        assert_eq!(ports.len(), 2);
        assert_eq!(ports[1].cluster, [("fd00::2".parse().unwrap(), 8080)]);
    }
}
