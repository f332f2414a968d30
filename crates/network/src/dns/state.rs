//! What the rest of the node tells cluster DNS about Services.

use std::net::IpAddr;

use crate::services::TransportProtocol;

/// A Service as DNS sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsService {
    /// What its name stands for.
    pub kind: DnsKind,
    /// Its ports; those without a name have no SRV record.
    pub ports: Vec<DnsPort>,
}

/// What a Service's name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsKind {
    /// Its cluster addresses.
    ClusterIps(Vec<IpAddr>),
    /// Its endpoints (headless): those that are ready, or all with publishNotReadyAddresses.
    Headless(Vec<DnsEndpoint>),
    /// Another name (spec.externalName).
    ExternalName(String),
}

/// A named port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsPort {
    /// Its name.
    pub name: String,
    /// Its protocol.
    pub protocol: TransportProtocol,
    /// Its number; with a headless Service the number at the endpoints.
    pub port: u16,
}

/// An endpoint of a headless Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsEndpoint {
    /// Its address.
    pub ip: IpAddr,
    /// Its hostname (spec.hostname of a pod whose spec.subdomain names the Service).
    pub hostname: Option<String>,
}
