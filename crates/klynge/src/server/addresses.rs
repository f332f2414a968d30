//! Names and addresses that the server finds out by itself.

use crate::cli::{Failure, ServerArguments};
use controllers::node_ranges::PodRange;
use network::Prefix;
use network::netlink::Rtnetlink;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

/// The pods of one node share a range of this length (upstream's defaults).
const NODE_LENGTH_IPV4: u8 = 24;
const NODE_LENGTH_IPV6: u8 = 64;

/// The address that others reach this host at: the source address of its default route; loopback where it has none.
pub(crate) fn advertised() -> IpAddr {
    // Connecting a datagram socket sends nothing; it only asks the kernel for a route (TEST-NET-3, RFC 5737).
    let routed = UdpSocket::bind(("0.0.0.0", 0)).and_then(|socket| {
        socket.connect(("203.0.113.1", 9))?;
        socket.local_addr()
    });
    routed.map_or(IpAddr::from([127, 0, 0, 1]), |address| address.ip())
}

/// The host's name as a node's name: lower case, as DNS-1123 wants it.
pub(super) fn node_name() -> Result<String, Failure> {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    check_node_name(&name).map(|()| name.clone()).map_err(|why| {
        Failure::Failed(format!("the host name {name:?} cannot be a node's name: {why}; choose one with --node-name"))
    })
}

/// DNS-1123 subdomain.
pub(super) fn check_node_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > 253 {
        return Err("it must have 1 to 253 characters");
    }
    let edge = |character: Option<char>| character.is_some_and(|one| one.is_ascii_lowercase() || one.is_ascii_digit());
    for label in name.split('.') {
        let inner = label.chars().all(|one| one.is_ascii_lowercase() || one.is_ascii_digit() || one == '-');
        if !inner || !edge(label.chars().next()) || !edge(label.chars().next_back()) {
            return Err(
                "it must consist of lower case letters, digits, '-' and '.', beginning and ending with a letter or digit",
            );
        }
    }
    Ok(())
}

/// The address ranges of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Ranges {
    /// For pods.
    pub(crate) pods: Prefix,
    /// For Services.
    pub(crate) services: Prefix,
}

impl Ranges {
    /// From the command line; they may not overlap.
    pub(super) fn parse(arguments: &ServerArguments) -> Result<Self, Failure> {
        let pods = prefix("--pod-cidr", &arguments.pod_cidr)?;
        let services = prefix("--service-cidr", &arguments.service_cidr)?;
        if pods.overlaps(&services) {
            return Err(Failure::Usage(format!(
                "--pod-cidr {} and --service-cidr {} overlap; choose ranges that do not",
                arguments.pod_cidr, arguments.service_cidr
            )));
        }
        Ok(Ranges { pods, services })
    }

    /// Refuses a range that holds an address of this host itself, and warns of one that only touches a network of it. Loopback
    /// and pods' interfaces carry addresses of the ranges by design.
    pub(super) fn check_against_host(&self) -> Result<(), Failure> {
        let failed =
            |error: network::netlink::Error| Failure::Failed(format!("cannot read this host's addresses: {error}"));
        let mut rtnetlink = Rtnetlink::open().map_err(failed)?;
        let links = rtnetlink.links().map_err(failed)?;
        for held in rtnetlink.addresses().map_err(failed)? {
            let interface =
                links.iter().find(|link| link.index == held.interface).map_or("?", |link| link.name.as_str());
            if !held.is_global
                || interface == "lo"
                || interface.starts_with(network::POD_INTERFACE_PREFIX)
                || interface.starts_with("klynge")
            {
                continue;
            }
            self.check_against(interface, held.address, held.prefix_length)?;
        }
        Ok(())
    }

    fn check_against(&self, interface: &str, address: IpAddr, length: u8) -> Result<(), Failure> {
        for (option, range) in [("--pod-cidr", self.pods), ("--service-cidr", self.services)] {
            if range.contains(address) {
                return Err(Failure::Usage(format!(
                    "{option} {range} holds this host's own address {address} ({interface}); choose another range with {option}"
                )));
            }
            if range.overlaps(&Prefix::new(address, length)) {
                tracing::warn!(
                    "{option} {range} is a part of the network {address}/{length} of {interface}: its hosts in that range cannot be reached"
                );
            }
        }
        Ok(())
    }

    /// Keeps them beside the data, so that purge knows them without options; the first line is the format.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Failure> {
        let text = format!("1\n{}\n{}\n", self.pods, self.services);
        std::fs::write(path, text).map_err(|error| Failure::Failed(format!("cannot write {}: {error}", path.display())))
    }

    /// What [`Self::save`] kept; None where nothing was.
    pub(crate) fn load(path: &Path) -> Result<Option<Self>, Failure> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::Failed(format!("cannot read {}: {error}", path.display()))),
        };
        let lines: Vec<&str> = text.lines().collect();
        match lines.as_slice() {
            ["1", pods, services] => {
                Ok(Some(Ranges { pods: prefix("pods", pods)?, services: prefix("services", services)? }))
            }
            _ => Err(Failure::Failed(format!(
                "{} is of a newer release or damaged; use the release that wrote it",
                path.display()
            ))),
        }
    }

    /// What nodes' pod ranges are cut from: a /24 each, or the whole range where it is no larger.
    pub(super) fn for_nodes(&self) -> PodRange {
        let node_length = if self.pods.network().is_ipv4() { NODE_LENGTH_IPV4 } else { NODE_LENGTH_IPV6 };
        let length = self.pods.length();
        PodRange { network: self.pods.network(), length, node_length: node_length.max(length) }
    }

    /// The address of the Service `kubernetes`.
    pub(super) fn first_service_address(&self) -> IpAddr {
        self.service_address(1)
    }

    /// The address at `offset` of the Services' range.
    pub(super) fn service_address(&self, offset: u32) -> IpAddr {
        match self.services.network() {
            IpAddr::V4(base) => IpAddr::from(std::net::Ipv4Addr::from(u32::from(base).wrapping_add(offset))),
            IpAddr::V6(base) => IpAddr::from(std::net::Ipv6Addr::from(u128::from(base).wrapping_add(offset.into()))),
        }
    }
}

fn prefix(option: &str, text: &str) -> Result<Prefix, Failure> {
    text.parse()
        .map_err(|error| Failure::Usage(format!("{option} {text}: {error}; expected a range such as 10.42.0.0/16")))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn ranges_may_not_hold_the_hosts_own_addresses() {
        let ranges = Ranges { pods: "10.42.0.0/16".parse().unwrap(), services: "10.43.0.0/16".parse().unwrap() };
        let refused = |address: &str, length| ranges.check_against("eth0", address.parse().unwrap(), length).is_err();
        assert!(refused("10.42.3.1", 24));
        assert!(refused("10.43.0.1", 8));
        assert!(!refused("10.9.0.1", 8), "a larger network around it is only warned of");
        assert!(!refused("192.0.2.2", 24));
        assert!(!refused("2001:db8::1", 64));
    }

    #[test]
    fn node_names_are_dns_subdomains() {
        for good in ["a", "node-1", "node-1.example.org", "0"] {
            assert_eq!(check_node_name(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "a..b", "a_b", "A"] {
            assert!(check_node_name(bad).is_err(), "{bad}");
        }
    }
}
