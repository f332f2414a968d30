//! Names and addresses that the server finds out by itself.

use crate::cli::{Failure, Global, ServerArguments};
use controllers::node_ranges::PodRange;
use network::Prefix;
use network::netlink::{AddressInfo, LinkInfo, Rtnetlink};
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

/// The pods of one node share a range of this length (upstream's defaults).
const NODE_LENGTH_IPV4: u8 = 24;
const NODE_LENGTH_IPV6: u8 = 64;

/// The address that others reach this host at: the source address of its default route; without one the first address of an interface,
/// hardware before what programs made; loopback where there is nothing else, which pods cannot reach.
pub(crate) fn advertised() -> IpAddr {
    routed_from(true).unwrap_or_else(without_default_route)
}

/// The source address of the host's default route of a family.
fn routed_from(is_ipv4: bool) -> Option<IpAddr> {
    // Connecting a datagram socket sends nothing; it only asks the kernel for a route (TEST-NET-3, RFC 5737; RFC 3849).
    let (any, far) = if is_ipv4 { ("0.0.0.0:0", "203.0.113.1:9") } else { ("[::]:0", "[2001:db8::1]:9") };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(far).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_unspecified())
}

/// Addresses as `--advertise` takes them.
pub(crate) fn listed(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The node's addresses: the primary one, and one of the other family where pods have both and the host has one. Those that were
/// given stand as they are.
pub(crate) fn node_addresses(
    given: &[IpAddr],
    primary: impl FnOnce() -> IpAddr,
    ranges: &Ranges,
) -> Result<Vec<IpAddr>, Failure> {
    let mut addresses = match given {
        [] => vec![primary()],
        [_] => given.to_vec(),
        [first, second] if first.is_ipv4() != second.is_ipv4() => given.to_vec(),
        _ => {
            let why = "give one address, or one of each family";
            return Err(Failure::Usage(format!("--advertise {}: {why}", listed(given))));
        }
    };
    if let [only] = addresses[..]
        && ranges.pods.len() == 2
        && let Some(second) = routed_from(only.is_ipv6())
    {
        addresses.push(second);
    }
    Ok(addresses)
}

/// Refuses addresses that no interface of this machine has: packets of pods and to other nodes leave with the node's address as their source.
pub(crate) fn check_held(given: &[IpAddr]) -> Result<(), Failure> {
    if given.is_empty() {
        return Ok(());
    }
    let failed =
        |error: network::netlink::Error| Failure::Failed(format!("cannot read this host's addresses: {error}"));
    let held = Rtnetlink::open().map_err(failed)?.addresses().map_err(failed)?;
    match given.iter().find(|address| !held.iter().any(|held| held.address == **address)) {
        Some(missing) => Err(Failure::Usage(format!(
            "--advertise {missing}: no interface of this machine has this address; give one of its own (`ip address` lists them)"
        ))),
        None => Ok(()),
    }
}

fn without_default_route() -> IpAddr {
    let found = Rtnetlink::open().and_then(|mut rtnetlink| Ok((rtnetlink.links()?, rtnetlink.addresses()?)));
    let found = found.map(|(links, addresses)| first_address(&links, &addresses)).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot read this host's addresses");
        None
    });
    found.unwrap_or_else(|| {
        tracing::warn!(
            "this host has no address but loopback's: pods will not reach the API; name one with --advertise"
        );
        IpAddr::from([127, 0, 0, 1])
    })
}

fn first_address(links: &[LinkInfo], addresses: &[AddressInfo]) -> Option<IpAddr> {
    let candidates = addresses.iter().filter(|held| held.is_global && held.address.is_ipv4()).filter_map(|held| {
        let link = links.iter().find(|link| link.index == held.interface && link.is_up && link.name != "lo")?;
        let is_ours = link.name.starts_with(network::POD_INTERFACE_PREFIX) || link.name.starts_with("klynge");
        (!is_ours).then_some((!link.kind.is_empty(), link.index, held.address))
    });
    candidates.min().map(|(.., address)| address)
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

const USUAL_PODS: &str = "10.42.0.0/16";
const USUAL_SERVICES: &str = "10.43.0.0/16";

/// Whether a server has begun a cluster in this data directory.
pub(super) fn store_exists(global: &Global) -> bool {
    global.data_dir.join("store").exists()
}

/// Where the ranges were chosen, which decides what can be done about one that is not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chosen {
    /// On this machine, by options.
    Here,
    /// Where the cluster was made, which this machine is to join.
    Elsewhere,
}

/// The address ranges of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Ranges {
    /// For pods: one, or one of each family with the preferred one first.
    pub(crate) pods: Vec<Prefix>,
    /// For Services, likewise.
    pub(crate) services: Vec<Prefix>,
}

impl Ranges {
    /// Those that the command line names, else those that the cluster was made with, else the usual ones; they may not overlap.
    pub(super) fn choose(arguments: &ServerArguments, kept: Option<&Self>) -> Result<Self, Failure> {
        let chosen = |option: &str, given: Option<&String>, kept: Option<&Vec<Prefix>>, usual: &str| match (given, kept)
        {
            (None, Some(kept)) => Ok(kept.clone()),
            (given, _) => prefixes(option, given.map_or(usual, String::as_str)),
        };
        let pods = chosen("--pod-cidr", arguments.pod_cidr.as_ref(), kept.map(|kept| &kept.pods), USUAL_PODS)?;
        let services =
            chosen("--service-cidr", arguments.service_cidr.as_ref(), kept.map(|kept| &kept.services), USUAL_SERVICES)?;
        if pods.iter().any(|pods| services.iter().any(|services| pods.overlaps(services))) {
            return Err(Failure::Usage(format!(
                "--pod-cidr {} and --service-cidr {} overlap; choose ranges that do not",
                joined(&pods),
                joined(&services)
            )));
        }
        if let Some(alone) = services.iter().find(|range| !pods.iter().any(|pods| pods.family() == range.family())) {
            return Err(Failure::Usage(format!(
                "--service-cidr {alone} has no --pod-cidr of its family: no pod could stand behind such a Service"
            )));
        }
        Ok(Ranges { pods, services })
    }

    /// Refuses a range that holds an address of this host itself, and warns of one that only touches a network of it. Loopback
    /// and pods' interfaces carry addresses of the ranges by design.
    pub(crate) fn check_against_host(&self, chosen: Chosen) -> Result<(), Failure> {
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
            self.check_against(chosen, interface, held.address, held.prefix_length)?;
        }
        Ok(())
    }

    fn check_against(&self, chosen: Chosen, interface: &str, address: IpAddr, length: u8) -> Result<(), Failure> {
        let pods = self.pods.iter().map(|range| ("--pod-cidr", range));
        for (option, range) in pods.chain(self.services.iter().map(|range| ("--service-cidr", range))) {
            if range.contains(address) {
                let advice = match chosen {
                    Chosen::Here => format!("choose another range with {option}"),
                    Chosen::Elsewhere => format!(
                        "take this machine out of that network, or make the cluster with another {option}; a join token is not used up by this"
                    ),
                };
                return Err(Failure::Usage(format!(
                    "{option} {range} holds this host's own address {address} ({interface}); {advice}"
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

    /// What the cluster in this data directory was made with; None before it is made, whatever a start that failed has left.
    pub(crate) fn kept(global: &Global) -> Result<Option<Self>, Failure> {
        if store_exists(global) { Self::load(&super::agent::ranges_path(global)) } else { Ok(None) }
    }

    /// Refuses ranges other than those that the cluster was made with: pods and Services have addresses of them. A second family may
    /// be added.
    pub(super) fn check_against_kept(&self, kept: Option<&Self>) -> Result<(), Failure> {
        let Some(kept) = kept else { return Ok(()) };
        if self.pods.starts_with(&kept.pods) && self.services.starts_with(&kept.services) {
            return Ok(());
        }
        Err(Failure::Usage(format!(
            "this cluster was made with --pod-cidr {pods} --service-cidr {services}, and its ranges stay; give these, or begin anew: \
             `klynge down --purge`, then `klynge up` with --pod-cidr {} --service-cidr {}",
            joined(&self.pods),
            joined(&self.services),
            pods = joined(&kept.pods),
            services = joined(&kept.services),
        )))
    }

    /// Keeps them beside the data, so that purge knows them without options; the first line is the format.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Failure> {
        // Format 1 has one range each; older releases read that.
        let format = if self.pods.len() + self.services.len() > 2 { 2 } else { 1 };
        let text = format!("{format}\n{}\n{}\n", joined(&self.pods), joined(&self.services));
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        made.and_then(|()| std::fs::write(path, text))
            .map_err(|error| Failure::Failed(format!("cannot write {}: {error}", path.display())))
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
            ["1" | "2", pods, services] => {
                Ok(Some(Ranges { pods: prefixes("pods", pods)?, services: prefixes("services", services)? }))
            }
            _ => Err(Failure::Failed(format!(
                "{} is of a newer release or damaged; use the release that wrote it",
                path.display()
            ))),
        }
    }

    /// What nodes' pod ranges are cut from: a /24 each, or the whole range where it is no larger.
    pub(super) fn for_nodes(&self) -> Vec<PodRange> {
        let cut = |range: &Prefix| {
            let node_length = if range.network().is_ipv4() { NODE_LENGTH_IPV4 } else { NODE_LENGTH_IPV6 };
            let length = range.length();
            PodRange { network: range.network(), length, node_length: node_length.max(length) }
        };
        self.pods.iter().map(cut).collect()
    }

    /// The address of the Service `kubernetes`.
    pub(super) fn first_service_address(&self) -> IpAddr {
        self.service_address(1)
    }

    /// The address at `offset` of the Services' range.
    pub(super) fn service_address(&self, offset: u32) -> IpAddr {
        match self.services.first().map_or(IpAddr::from([0, 0, 0, 0]), Prefix::network) {
            IpAddr::V4(base) => IpAddr::from(std::net::Ipv4Addr::from(u32::from(base).wrapping_add(offset))),
            IpAddr::V6(base) => IpAddr::from(std::net::Ipv6Addr::from(u128::from(base).wrapping_add(offset.into()))),
        }
    }
}

/// One range, or two of different families with a comma between.
pub(super) fn prefixes(option: &str, text: &str) -> Result<Vec<Prefix>, Failure> {
    let wrong = |why: &dyn std::fmt::Display| {
        Failure::Usage(format!(
            "{option} {text}: {why}; expected a range such as 10.42.0.0/16, or one of each family such as \
             10.42.0.0/16,fd42::/56"
        ))
    };
    let parsed = text.split(',').map(|one| one.trim().parse().map_err(|_| one));
    let ranges: Vec<Prefix> =
        parsed.collect::<Result<_, _>>().map_err(|one| wrong(&format!("{one:?} is no address range")))?;
    match ranges.as_slice() {
        [first, second] if first.family() == second.family() => Err(wrong(&"both ranges are of one family")),
        [_] | [_, _] => Ok(ranges),
        _ => Err(wrong(&"there are more than two ranges")),
    }
}

/// As [`prefixes`] reads them.
pub(crate) fn joined(ranges: &[Prefix]) -> String {
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::unreachable, reason = "tests")]
    use super::*;
    use crate::cli::{Arguments, Command};
    use clap::Parser;

    #[test]
    fn without_a_default_route_hardware_comes_first() {
        let link = |index, name: &str, kind: &str, is_up| LinkInfo {
            index,
            name: name.to_owned(),
            alias: String::new(),
            mtu_bytes: 1500,
            address: None,
            is_up,
            kind: kind.to_owned(),
            vxlan: None,
        };
        let links = [
            link(1, "lo", "", true),
            link(2, "docker0", "bridge", true),
            link(3, "eth9", "", false),
            link(4, "eth0", "", true),
            link(5, "kly0", "veth", true),
        ];
        let held = |interface, address: &str, is_global| AddressInfo {
            interface,
            address: address.parse().unwrap(),
            prefix_length: 24,
            is_global,
        };
        let all = [
            held(1, "127.0.0.1", false),
            held(1, "10.43.0.10", true),
            held(2, "172.17.0.1", true),
            held(3, "192.0.2.9", true),
            held(4, "2001:db8::4", true),
            held(4, "192.0.2.4", true),
            held(5, "192.0.2.5", true),
        ];
        assert_eq!(first_address(&links, &all), Some("192.0.2.4".parse().unwrap()));
        assert_eq!(first_address(&links, &all[..3]), Some("172.17.0.1".parse().unwrap()));
        assert_eq!(first_address(&links, &all[..2]), None);
    }

    #[test]
    fn ranges_may_not_hold_the_hosts_own_addresses() {
        let ranges = Ranges {
            pods: vec!["10.42.0.0/16".parse().unwrap(), "fd42::/56".parse().unwrap()],
            services: vec!["10.43.0.0/16".parse().unwrap()],
        };
        let refused = |address: &str, length| {
            ranges.check_against(Chosen::Here, "eth0", address.parse().unwrap(), length).is_err()
        };
        assert!(refused("10.42.3.1", 24));
        assert!(refused("10.43.0.1", 8));
        assert!(!refused("10.9.0.1", 8), "a larger network around it is only warned of");
        assert!(!refused("192.0.2.2", 24));
        assert!(!refused("2001:db8::1", 64));
        assert!(refused("fd42::1:0:0:0:1", 64));
    }

    #[test]
    fn ranges_are_one_or_one_of_each_family() {
        let read = |text| prefixes("--pod-cidr", text).map(|ranges| joined(&ranges)).ok();
        assert_eq!(read("10.42.0.0/16"), Some("10.42.0.0/16".to_owned()));
        assert_eq!(read("fd42::/56, 10.42.0.0/16"), Some("fd42::/56,10.42.0.0/16".to_owned()));
        for bad in ["", "10.42.0.0", "10.42.0.0/16,10.44.0.0/16", "10.42.0.0/16,", "10.42.0.0/16,fd42::/56,fd43::/56"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ranges");
        for (pods, services) in
            [("10.42.0.0/16", "10.43.0.0/16"), ("10.42.0.0/16,fd42::/56", "10.43.0.0/16,fd43::/112")]
        {
            let ranges = Ranges { pods: prefixes("", pods).unwrap(), services: prefixes("", services).unwrap() };
            ranges.save(&path).unwrap();
            let read = Ranges::load(&path).unwrap().unwrap();
            assert_eq!((joined(&read.pods).as_str(), joined(&read.services).as_str()), (pods, services));
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().next(), Some("2"));
    }

    #[test]
    fn the_ranges_of_a_cluster_stay() {
        let directory = tempfile::tempdir().unwrap();
        let global = Global { data_dir: directory.path().to_owned(), kubeconfig: None, output: None, quiet: false };
        let started = |options: &[&str]| {
            let words = ["klynge", "--data-dir", directory.path().to_str().unwrap(), "server"];
            let parsed = Arguments::try_parse_from(words.iter().chain(options)).unwrap();
            let Command::Server(arguments) = parsed.command else { unreachable!("it is said above") };
            let kept = Ranges::kept(&global)?;
            let chosen = Ranges::choose(&arguments, kept.as_ref())?;
            chosen.check_against_kept(kept.as_ref())?;
            chosen.save(&super::super::agent::ranges_path(&global))?;
            Ok(format!("{} {}", joined(&chosen.pods), joined(&chosen.services)))
        };
        let text = |outcome: Result<String, Failure>| outcome.unwrap_or_else(|failure| failure.to_string());
        assert_eq!(text(started(&[])), "10.42.0.0/16 10.43.0.0/16");
        // A first start that failed before there was a store decides nothing.
        let own = ["--pod-cidr", "10.50.0.0/16", "--service-cidr", "10.51.0.0/16"];
        assert_eq!(text(started(&own)), "10.50.0.0/16 10.51.0.0/16");
        std::fs::create_dir(directory.path().join("store")).unwrap();
        for options in [&[], &own[..2], &own[2..], &own[..]] {
            assert_eq!(text(started(options)), "10.50.0.0/16 10.51.0.0/16", "{options:?}");
        }
        for other in [["--pod-cidr", "10.42.0.0/16"], ["--service-cidr", "10.43.0.0/16"]] {
            let refused = started(&other).unwrap_err();
            assert!(matches!(refused, Failure::Usage(_)));
            assert!(refused.to_string().contains("made with --pod-cidr 10.50.0.0/16"), "{refused}");
        }
        let both = "10.50.0.0/16,fd42::/56 10.51.0.0/16,fd43::/112";
        let (pods, services) = both.split_once(' ').unwrap();
        assert_eq!(text(started(&["--pod-cidr", pods, "--service-cidr", services])), both);
        assert_eq!(text(started(&[])), both);
        let wrong = prefixes("--pod-cidr", "ten").unwrap_err().to_string();
        assert_eq!(wrong.matches("such as").count(), 2, "one range, and one of each family: {wrong}");
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
