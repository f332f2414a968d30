//! Decides names, Ethernet addresses, routes and neighbours of a pod's interface: pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::host_setup::Options;
use crate::netlink::{LinkAddress, Neighbour, NetworkNamespace, Route};
use crate::services::TransportProtocol;
use crate::{POD_INTERFACE_PREFIX, Prefix};

/// The Ethernet address of the host's side of every pod's interface: always the same, so that pods need not ask.
pub(crate) const HOST_LINK_ADDRESS: LinkAddress = [0xee; 6];
/// The gateway that pods see. Nobody has the address: a permanent neighbour entry in the pod stands for it.
const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// A port of the host that leads to a pod (hostPort).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The protocol.
    pub protocol: TransportProtocol,
    /// The host's address; any when absent.
    pub host_ip: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
}

/// A pod to be attached.
#[derive(Clone, Debug)]
pub struct PodAttachment {
    /// Its uid.
    pub uid: String,
    /// Its network namespace.
    pub namespace: NetworkNamespace,
    /// The ports of the host that lead to it.
    pub host_ports: Vec<HostPort>,
}

/// What an attached pod's two namespaces hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachPlan {
    /// The host's interface.
    pub interface: String,
    /// Who it belongs to, kept with the interface: uid and addresses.
    pub alias: String,
    /// The Ethernet address of the pod.
    pub pod_link_address: LinkAddress,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The host's routes to the pod (interface to be filled in).
    pub host_routes: Vec<Route>,
    /// The host's neighbours (interface to be filled in).
    pub host_neighbours: Vec<Neighbour>,
    /// The pod's routes (interface to be filled in), in the order in which they must be made.
    pub pod_routes: Vec<Route>,
    /// The pod's neighbours (interface to be filled in).
    pub pod_neighbours: Vec<Neighbour>,
}

/// The host's interface of a pod: the same for the same uid at any time, within the 15 characters that Linux allows.
#[must_use]
pub fn interface_name(uid: &str) -> String {
    // FNV-1a; two uids that collide are found by the alias.
    let hash = uid
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{POD_INTERFACE_PREFIX}{:012x}", hash & 0xffff_ffff_ffff)
}

/// Plans the interface of a pod.
#[must_use]
pub fn compile(uid: &str, addresses: &[IpAddr], options: &Options) -> AttachPlan {
    let mut plan = AttachPlan {
        interface: interface_name(uid),
        alias: alias(uid, addresses),
        pod_link_address: pod_link_address(addresses),
        addresses: addresses.to_vec(),
        host_routes: Vec::new(),
        host_neighbours: Vec::new(),
        pod_routes: Vec::new(),
        pod_neighbours: Vec::new(),
    };
    for address in addresses {
        let gateway = if address.is_ipv4() { GATEWAY_V4 } else { GATEWAY_V6 };
        let source = options.node_addresses.iter().copied().find(|node| node.is_ipv4() == address.is_ipv4());
        let to = |destination| Route { destination, gateway: None, interface: None, source: None, on_link: false };
        plan.host_routes.push(Route { source, ..to(Prefix::host(*address)) });
        plan.host_neighbours.push(Neighbour { interface: 0, address: *address, link_address: plan.pod_link_address });
        plan.pod_neighbours.push(Neighbour { interface: 0, address: gateway, link_address: HOST_LINK_ADDRESS });
        plan.pod_routes.push(to(Prefix::host(gateway)));
        let everywhere = Prefix::new(*address, 0);
        plan.pod_routes.push(Route { gateway: Some(gateway), on_link: true, ..to(everywhere) });
    }
    plan
}

/// A locally administered address that follows from the pod's first address.
fn pod_link_address(addresses: &[IpAddr]) -> LinkAddress {
    let tail: [u8; 4] = match addresses.first() {
        Some(IpAddr::V4(address)) => address.octets(),
        Some(IpAddr::V6(address)) => {
            let octets = address.octets();
            [octets[12], octets[13], octets[14], octets[15]]
        }
        None => [0; 4],
    };
    [0x0a, 0x58, tail[0], tail[1], tail[2], tail[3]]
}

fn alias(uid: &str, addresses: &[IpAddr]) -> String {
    let mut text = format!(
        "klynge pod {}",
        uid.chars().filter(|character| !character.is_whitespace()).take(128).collect::<String>()
    );
    for address in addresses {
        text.push(' ');
        text.push_str(&address.to_string());
    }
    text
}

/// The uid and addresses in an interface's alias, if it is one of ours.
pub(crate) fn parse_alias(alias: &str) -> Option<(String, Vec<IpAddr>)> {
    let mut words = alias.strip_prefix("klynge pod ")?.split(' ');
    let uid = words.next()?.to_owned();
    let addresses = words.map(str::parse).collect::<Result<Vec<IpAddr>, _>>().ok()?;
    Some((uid, addresses))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn names_fit_and_aliases_come_back() {
        for uid in ["", "2f1c9a0e-8f52-4d0c-9d3e-5f9f0a4f2f11", &"x".repeat(500)] {
            assert_eq!(interface_name(uid).len(), 15);
        }
        let addresses: Vec<IpAddr> = vec!["10.42.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        assert_eq!(parse_alias(&alias("u-1", &addresses)), Some(("u-1".to_owned(), addresses)));
        assert_eq!(parse_alias("somebody else's"), None);
        assert_eq!(parse_alias("klynge pod u-1 not-an-address"), None);
    }
}
