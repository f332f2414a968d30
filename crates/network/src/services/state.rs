//! What the rest of the node tells the data plane about Services.

use std::net::IpAddr;

use crate::Prefix;

/// Names one Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ServiceKey {
    /// The Service of this namespace and name.
    #[must_use]
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// A transport protocol that Services carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum TransportProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl TransportProtocol {
    /// Its number in an IP header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// Which endpoints may take a connection (externalTrafficPolicy, internalTrafficPolicy).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum TrafficPolicy {
    /// Any endpoint.
    #[default]
    Cluster,
    /// Only endpoints of this node.
    Local,
}

/// One address behind a Service's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whether it runs on this node.
    pub node_local: bool,
    /// Whether a Cluster policy uses it while it is ready; false keeps traffic near (spec.trafficDistribution).
    pub is_preferred: bool,
    /// EndpointConditions.ready.
    pub ready: bool,
    /// EndpointConditions.serving.
    pub serving: bool,
    /// EndpointConditions.terminating.
    pub terminating: bool,
}

impl Endpoint {
    /// A ready endpoint on another node.
    #[must_use]
    pub const fn ready(ip: IpAddr, port: u16) -> Self {
        Self { ip, port, node_local: false, is_preferred: true, ready: true, serving: true, terminating: false }
    }
}

/// A port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, empty if it has none.
    pub name: String,
    /// Its protocol.
    pub protocol: TransportProtocol,
    /// The port on the Service's addresses.
    pub port: u16,
    /// The port on every node's addresses, if any.
    pub node_port: Option<u16>,
    /// The endpoints of both families.
    pub endpoints: Vec<Endpoint>,
}

/// A Service with its endpoints, as this node needs to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceState {
    /// Its cluster addresses; empty for a headless Service.
    pub cluster_ips: Vec<IpAddr>,
    /// spec.externalIPs.
    pub external_ips: Vec<IpAddr>,
    /// status.loadBalancer.ingress with ipMode VIP.
    pub load_balancer_ips: Vec<IpAddr>,
    /// spec.loadBalancerSourceRanges; empty admits everyone.
    pub source_ranges: Vec<Prefix>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// spec.externalTrafficPolicy.
    pub external_policy: TrafficPolicy,
    /// spec.internalTrafficPolicy.
    pub internal_policy: TrafficPolicy,
    /// The timeout of sessionAffinity ClientIP, if that is set.
    pub affinity_timeout_s: Option<u32>,
    /// spec.healthCheckNodePort, which the node's health server answers on.
    pub health_check_node_port: Option<u16>,
}
