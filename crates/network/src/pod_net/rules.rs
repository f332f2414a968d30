//! The pod network's nftables: masquerading what leaves the cluster, and host ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::compile::HostPort;
use super::host_setup::Options;
use super::vxlan::TUNNEL_INTERFACE_PREFIX;
use crate::Prefix;
use crate::netlink::{
    ChainSpec, DataType, Element, Expressions, Family, Hook, MapValue, NftBatch, Register, SetFlags, TypedSetSpec,
    Verdict,
};
use crate::prefix::address_bytes;
use crate::services::MASQUERADE_MARK;

/// The name of the tables (one for IPv4, one for IPv6).
pub const TABLE: &str = "klynge-pods";

/// The chains whose rules do not depend on single pods: all there are.
pub(crate) const CHAINS: &[&str] = &["from-pods", "host-port", "prerouting", "output", "postrouting"];

const KEY: Register = Register::new(0);
const FOUND: Register = Register::new(9);
/// After Services, before Docker.
const PRIORITY_DESTINATION: i32 = -104;
const PRIORITY_SOURCE: i32 = 96;
/// Before connection tracking: what answers a translated connection does not carry its addresses yet.
const PRIORITY_RAW: i32 = -300;

/// The families that the node's pods have.
pub(crate) fn families(options: &Options) -> Vec<Family> {
    [Family::Ip, Family::Ip6]
        .into_iter()
        .filter(|family| options.pod_ranges.iter().any(|range| range.family() == *family))
        .collect()
}

/// Makes the tables anew, with the host ports of the pods attached.
pub(crate) fn add_tables<'a>(
    batch: &mut NftBatch,
    options: &Options,
    host_ports: impl Iterator<Item = (&'a HostPort, IpAddr)> + Clone,
) {
    for family in [Family::Ip, Family::Ip6] {
        if !families(options).contains(&family) {
            continue;
        }
        batch.delete_table_if_exists(family, TABLE);
        batch.add_table(family, TABLE);
        let address = DataType::address(family);
        let by_port = [DataType::Protocol, DataType::Port];
        let by_address = [address, DataType::Protocol, DataType::Port];
        for (name, key) in [("host-ports", &by_port[..]), ("host-address-ports", &by_address)] {
            let set = TypedSetSpec {
                name,
                key,
                value: MapValue::Data(&[address, DataType::Port]),
                flags: SetFlags::default(),
                size_max: None,
            };
            batch.add_typed_set(family, TABLE, &set);
        }
        for (name, base) in [
            ("from-pods", Some((Hook::Prerouting, "filter", PRIORITY_RAW))),
            ("host-port", None),
            ("prerouting", Some((Hook::Prerouting, "nat", PRIORITY_DESTINATION))),
            ("output", Some((Hook::Output, "nat", PRIORITY_DESTINATION))),
            ("postrouting", Some((Hook::Postrouting, "nat", PRIORITY_SOURCE))),
        ] {
            batch.add_chain(family, TABLE, &ChainSpec { name, base });
        }
        add_host_port_rules(batch, family, options);
        add_masquerade_rules(batch, family, options);
        let loopback = loopback(family);
        // Pods with host ports have interfaces that take packets to loopback addresses (`allow_loopback`): answers only, never a pod's own.
        let from_pods = || Expressions::new().match_input_interface(crate::POD_INTERFACE_PREFIX, true, KEY);
        let to_loopback = from_pods().match_destination_prefix(&loopback, false, KEY);
        batch.add_rule(family, TABLE, "from-pods", &to_loopback.verdict(Verdict::Drop));
        let of_loopback = from_pods().match_source_prefix(&loopback, false, KEY);
        batch.add_rule(family, TABLE, "from-pods", &of_loopback.verdict(Verdict::Drop));
        let elsewhere = Expressions::new().match_destination_prefix(&loopback, true, KEY);
        batch.add_rule(family, TABLE, "prerouting", &elsewhere.verdict(Verdict::Jump("host-port".to_owned())));
        batch.add_rule(family, TABLE, "output", &Expressions::new().verdict(Verdict::Jump("host-port".to_owned())));
    }
    change_host_ports(batch, host_ports, true);
}

fn loopback(family: Family) -> Prefix {
    match family {
        Family::Ip6 => Prefix::host(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        _ => Prefix::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8),
    }
}

fn add_host_port_rules(batch: &mut NftBatch, family: Family, options: &Options) {
    let width = if family == Family::Ip6 { 4 } else { 1 };
    let loopback = loopback(family);
    let mut rule = |rule: Expressions| batch.add_rule(family, TABLE, "host-port", &rule);
    if family == Family::Ip6 {
        // The kernel leads nothing from ::1 to another interface.
        rule(Expressions::new().match_destination_prefix(&loopback, false, KEY).verdict(Verdict::Return));
    }
    // A pod of this node that calls a host port may reach itself; the node's address makes the answer come back here. The mark is set
    // before the port is looked for, and taken back where nothing was found: a translation ends this chain.
    // What comes from a loopback address can only be answered at an address of the node, too.
    let ranges = || options.pod_ranges.iter().filter(|range| range.family() == family).chain([&loopback]);
    let from_pods = |range: &Prefix| Expressions::new().match_source_prefix(range, false, KEY);
    for range in ranges() {
        rule(from_pods(range).set_mark_bits(MASQUERADE_MARK, KEY));
    }
    let by_address = Expressions::new()
        .load_destination(family, KEY)
        .load_protocol(KEY.plus(width))
        .load_destination_port(KEY.plus(width + 1));
    rule(by_address.lookup("host-address-ports", KEY, FOUND).translate_destination(family, FOUND, FOUND.plus(width)));
    let by_port =
        Expressions::new().match_destination_is_local(KEY).load_protocol(KEY).load_destination_port(KEY.plus(1));
    rule(by_port.lookup("host-ports", KEY, FOUND).translate_destination(family, FOUND, FOUND.plus(width)));
    for range in ranges() {
        rule(from_pods(range).clear_mark_bits(MASQUERADE_MARK, KEY));
    }
}

fn add_masquerade_rules(batch: &mut NftBatch, family: Family, options: &Options) {
    let mut rule = |rule: Expressions| batch.add_rule(family, TABLE, "postrouting", &rule);
    let marked = || Expressions::new().match_mark_bits(MASQUERADE_MARK, KEY).clear_mark_bits(MASQUERADE_MARK, KEY);
    // What goes through the tunnel comes from an address of the cluster, our end's if from no pod's: so the answer comes back through the
    // tunnel, and no router between the nodes sees a pod's address.
    let into_tunnel = |rule: Expressions| rule.match_output_interface(TUNNEL_INTERFACE_PREFIX, true, KEY);
    let to_tunnel_end = |rule: Expressions| rule.clear_mark_bits(MASQUERADE_MARK, KEY).masquerade();
    rule(to_tunnel_end(into_tunnel(Expressions::new()).match_mark_bits(MASQUERADE_MARK, KEY)));
    for range in options.cluster_ranges.iter().filter(|range| range.family() == family) {
        rule(into_tunnel(Expressions::new()).match_source_prefix(range, false, KEY).verdict(Verdict::Return));
    }
    rule(to_tunnel_end(into_tunnel(Expressions::new())));
    if let Some(address) = options.node_addresses.iter().find(|address| Family::of(**address) == family) {
        rule(
            Expressions::new()
                .match_output_interface(crate::POD_INTERFACE_PREFIX, true, KEY)
                .match_mark_bits(MASQUERADE_MARK, KEY)
                .clear_mark_bits(MASQUERADE_MARK, KEY)
                .load_value(&address_bytes(*address), KEY)
                .translate_source(family, KEY),
        );
    }
    rule(marked().masquerade());
    let multicast = match family {
        Family::Ip6 => Prefix::new(IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
        _ => Prefix::new(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4),
    };
    for inside in options
        .cluster_ranges
        .iter()
        .chain(&options.service_ranges)
        .chain([&multicast])
        .filter(|range| range.family() == family)
    {
        rule(Expressions::new().match_destination_prefix(inside, false, KEY).verdict(Verdict::Return));
    }
    // Only what leaves the host passes here: the node itself sees its pods' own addresses, as upstream requires.
    for range in options.pod_ranges.iter().filter(|range| range.family() == family) {
        rule(Expressions::new().match_source_prefix(range, false, KEY).masquerade());
    }
}

/// Adds or deletes host ports.
pub(crate) fn change_host_ports<'a>(
    batch: &mut NftBatch,
    host_ports: impl Iterator<Item = (&'a HostPort, IpAddr)>,
    is_added: bool,
) {
    for (host_port, pod) in host_ports {
        let family = Family::of(pod);
        let mut key = Vec::new();
        let set = match host_port.host_ip.filter(|ip| !ip.is_unspecified()) {
            Some(ip) if Family::of(ip) != family => continue,
            Some(ip) => {
                key.extend(address_bytes(ip));
                "host-address-ports"
            }
            None => "host-ports",
        };
        key.extend([host_port.protocol.number(), 0, 0, 0]);
        key.extend(port_bytes(host_port.host_port));
        let mut value = address_bytes(pod);
        value.extend(port_bytes(host_port.container_port));
        let element = Element { key, key_end: None, value: Some(value), verdict: None };
        if is_added {
            batch.add_elements(family, TABLE, set, [&element]);
        } else {
            batch.delete_elements(family, TABLE, set, [&element]);
        }
    }
}

fn port_bytes(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// Whether two host ports cannot both be given.
pub(crate) fn collide(one: &HostPort, other: &HostPort) -> bool {
    let any = |ip: Option<IpAddr>| ip.filter(|ip| !ip.is_unspecified());
    one.protocol == other.protocol
        && one.host_port == other.host_port
        && (any(one.host_ip).is_none() || any(other.host_ip).is_none() || any(one.host_ip) == any(other.host_ip))
}
