//! How policies lie in nftables: the tables' fixed part, and the kernel's form of rules, sets and elements.

use std::net::IpAddr;

use super::layout::{ChainName, ChainRule, Direction, PeerSet, PortSet};
use super::ranges::PortRanges;
use super::selections::{Member, Selection};
use crate::POD_INTERFACE_PREFIX;
use crate::netlink::{
    ChainSpec, DataType, Element, Expressions, Family, FieldType, FilterSet, Hook, MapValue, NftBatch, Register,
    SetFlags, TypedSetSpec, Verdict,
};
use crate::pod_net::TUNNEL_INTERFACE_PREFIX;
use crate::prefix::address_bytes;

/// The name of the tables (one for IPv4, one for IPv6).
pub const TABLE: &str = "klynge-policy";

/// Before the 0 at which iptables, firewalld and Docker filter: what a policy denies reaches nobody's rules.
const PRIORITY_LEAVING: i32 = -12;
const PRIORITY_ARRIVING: i32 = -11;

/// The base chains and the chains they share, with what a watch compares: the number of rules.
pub(crate) const FIXED_CHAINS: [&str; 7] =
    ["established", "stranger", "sender", "leaving", "arriving", "to-host", "from-pods"];

const KEY: Register = Register::new(0);
/// What a lookup found.
const FOUND: Register = Register::new(6);
/// The packet's mark while a copy goes through it.
const SAVED: Register = Register::new(7);
const STATE_ESTABLISHED: u32 = 2;
const STATE_RELATED: u32 = 4;
const STATE_NEW: u32 = 8;
const STATE_INVALID: u32 = 1;
/// FIN, SYN, RST and ACK; SYN.
const TCP_FLAGS_OF_STATE: u8 = 0x17;
const TCP_SYN: u8 = 0x02;
const ICMP_V6: u8 = 58;

pub(crate) const SENDERS: &str = "senders";
pub(crate) const POLICED: &str = "policed";
pub(crate) const PAIRS: &str = "pairs";

/// The map from isolated addresses to the numbers of their sets of policies.
pub(crate) const fn isolation_map(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// The map from numbers of sets of policies to their chains. The kernel walks every chain that a verdict leads to, once for each verdict,
/// whenever a rule or a verdict is added: verdicts of addresses would be as many as pods.
pub(crate) const fn chain_map(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress-chains",
        Direction::Egress => "egress-chains",
    }
}

/// The sets and maps whose elements come and go with pods of this node.
pub(crate) const SETS_OF_PODS: [&str; 7] = [
    SENDERS,
    POLICED,
    PAIRS,
    isolation_map(Direction::Ingress),
    isolation_map(Direction::Egress),
    chain_map(Direction::Ingress),
    chain_map(Direction::Egress),
];

const fn address_registers(family: Family) -> u32 {
    if matches!(family, Family::Ip6) { 4 } else { 1 }
}

/// Makes the table anew, with everything that does not depend on policies and pods.
pub(crate) fn add_base(batch: &mut NftBatch, family: Family) {
    use FieldType::{Address, InterfaceName};
    batch.delete_table_if_exists(family, TABLE);
    batch.add_table(family, TABLE);
    let sets: [(&str, &[FieldType]); 3] =
        [(SENDERS, &[InterfaceName, Address]), (POLICED, &[Address]), (PAIRS, &[Address, Address])];
    for (name, key) in sets {
        batch.add_filter_set(family, TABLE, &FilterSet { name, key, ranges: false });
    }
    let flags = SetFlags::default();
    for direction in Direction::BOTH {
        let (address, number) = ([DataType::address(family)], [DataType::Number]);
        for (name, key, value) in [
            (isolation_map(direction), &address, MapValue::Data(&number)),
            (chain_map(direction), &number, MapValue::Verdict),
        ] {
            batch.add_typed_set(family, TABLE, &TypedSetSpec { name, key, value, flags, size_max: None });
        }
    }
    for (name, base) in [
        ("established", None),
        ("stranger", None),
        ("sender", None),
        ("leaving", Some((Hook::Forward, "filter", PRIORITY_LEAVING))),
        ("arriving", Some((Hook::Forward, "filter", PRIORITY_ARRIVING))),
        ("to-host", Some((Hook::Input, "filter", PRIORITY_LEAVING))),
        ("from-pods", None),
    ] {
        batch.add_chain(family, TABLE, &ChainSpec { name, base });
    }
    for (chain, rule) in fixed_rules(family) {
        batch.add_rule(family, TABLE, chain, &rule);
    }
}

/// The rules of the fixed chains, in order.
fn fixed_rules(family: Family) -> Vec<(&'static str, Expressions)> {
    let begin = Expressions::new;
    let jump = |rule: Expressions, chain: &str| rule.verdict(Verdict::Jump(chain.to_owned()));
    let from_pods = || begin().match_input_interface(POD_INTERFACE_PREFIX, true, KEY);
    // The tunnel's name begins like a pod's interface; what comes out of it was looked at by the node that sent it.
    let from_tunnel = || begin().match_input_interface(TUNNEL_INTERFACE_PREFIX, true, KEY);
    let of_source = || begin().load_source(family, KEY);
    let of_destination = || begin().load_destination(family, KEY);
    let is_policed = |rule: Expressions| rule.contained(POLICED, KEY, false);
    let to_chain = |rule: Expressions, direction| {
        let found = rule.lookup(isolation_map(direction), KEY, FOUND).copy_through_mark(FOUND, &[KEY], SAVED);
        found.lookup_verdict(chain_map(direction), KEY)
    };
    let is_pair = || {
        let second = KEY.plus(address_registers(family));
        of_source().load_destination(family, second).contained(PAIRS, KEY, false)
    };
    // An address that is not the pod's, or a pod whose rules are not in yet.
    let is_spoofed =
        || begin().load_input_interface(KEY).load_source(family, KEY.plus(4)).contained(SENDERS, KEY, true);
    let mut rules = established_rules();
    rules.extend(stranger_rules());
    rules.extend([
        ("sender", from_tunnel().verdict(Verdict::Return)),
        ("sender", is_spoofed().verdict(Verdict::Drop)),
        ("leaving", jump(begin(), "established")),
        ("leaving", jump(from_pods(), "sender")),
        ("leaving", is_pair().verdict(Verdict::Accept)),
        ("leaving", jump(is_policed(of_source()), "stranger")),
        ("leaving", jump(is_policed(of_destination()), "stranger")),
        ("leaving", to_chain(of_source(), Direction::Egress)),
        ("arriving", jump(begin(), "established")),
        ("arriving", is_pair().verdict(Verdict::Accept)),
        ("arriving", to_chain(of_destination(), Direction::Ingress)),
        ("to-host", from_tunnel().verdict(Verdict::Accept)),
        ("to-host", jump(from_pods(), "from-pods")),
        ("from-pods", jump(begin(), "established")),
    ]);
    if family == Family::Ip6 {
        // Neighbours and listeners of the link: from and to addresses that no policy can name.
        for link in ["fe80::/10", "ff02::/16"].iter().filter_map(|range| range.parse().ok()) {
            let discovery = begin().match_destination_prefix(&link, false, KEY).match_protocol(ICMP_V6, KEY);
            rules.push(("from-pods", discovery.verdict(Verdict::Accept)));
        }
    }
    rules.extend([
        ("from-pods", jump(begin(), "sender")),
        ("from-pods", jump(is_policed(of_source()), "stranger")),
        ("from-pods", to_chain(of_source(), Direction::Egress)),
    ]);
    rules
}

/// Accept what belongs to a connection that was let in. Of protocols whose connections cannot be ended through conntrack only the answers.
fn established_rules() -> Vec<(&'static str, Expressions)> {
    let state = |bits| Expressions::new().match_connection_state(bits, KEY);
    let known = |protocol| {
        let of_protocol = Expressions::new().match_protocol(protocol, KEY);
        of_protocol.match_connection_state(STATE_ESTABLISHED | STATE_RELATED, KEY).verdict(Verdict::Accept)
    };
    vec![
        ("established", known(6)),
        ("established", known(17)),
        ("established", state(STATE_RELATED).verdict(Verdict::Accept)),
        ("established", state(STATE_ESTABLISHED).match_reply_direction(KEY).verdict(Verdict::Accept)),
    ]
}

/// Keep TCP connections that were forgotten from being picked up in the middle. A reset for what merely looks invalid would end
/// connections that are only out of order: those packets are dropped, and sent again.
fn stranger_rules() -> Vec<(&'static str, Expressions)> {
    let invalid = Expressions::new().match_protocol(6, KEY).match_connection_state(STATE_INVALID, KEY);
    let picked_up = Expressions::new().match_connection_state(STATE_NEW, KEY);
    vec![
        ("stranger", invalid.verdict(Verdict::Drop)),
        ("stranger", picked_up.match_tcp_flags_not(TCP_FLAGS_OF_STATE, TCP_SYN, KEY).reject_with_reset()),
    ]
}

pub(crate) fn selection_set(id: u32, selection: &Selection) -> String {
    match selection {
        Selection::Pods { .. } => format!("peers-{id}"),
        Selection::Named { .. } => format!("named-{id}"),
    }
}

pub(crate) fn blocks_set(id: u32) -> String {
    format!("blocks-{id}")
}

pub(crate) fn ports_set(id: u32) -> String {
    format!("ports-{id}")
}

pub(crate) fn add_selection(batch: &mut NftBatch, family: Family, id: u32, selection: &Selection) {
    use FieldType::{Address, Port, Protocol};
    let key: &[FieldType] = match selection {
        Selection::Pods { .. } => &[Address],
        Selection::Named { .. } => &[Address, Protocol, Port],
    };
    let name = selection_set(id, selection);
    batch.add_filter_set(family, TABLE, &FilterSet { name: &name, key, ranges: false });
}

pub(crate) fn add_blocks(batch: &mut NftBatch, family: Family, id: u32, blocks: &[(IpAddr, IpAddr)]) {
    let name = blocks_set(id);
    let set = FilterSet { name: &name, key: &[FieldType::Address], ranges: true };
    batch.add_filter_set(family, TABLE, &set);
    let own: Vec<_> = blocks.iter().filter(|(first, _)| Family::of(*first) == family).copied().collect();
    batch.add_address_ranges(family, TABLE, &name, &own);
}

pub(crate) fn add_ports(batch: &mut NftBatch, family: Family, id: u32, ports: &PortRanges) {
    let name = ports_set(id);
    let key = &[FieldType::Protocol, FieldType::Port];
    batch.add_filter_set(family, TABLE, &FilterSet { name: &name, key, ranges: true });
    let elements: Vec<Element> = ports
        .iter()
        .map(|(protocol, first, last)| {
            let key = |port| [[protocol.number(), 0, 0, 0], port_bytes(port)].concat();
            Element { key_end: Some(key(*last)), ..Element::key(key(*first)) }
        })
        .collect();
    batch.add_elements(family, TABLE, &name, &elements);
}

fn port_bytes(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// The element of a selection's member.
pub(crate) fn member(member: &Member) -> Element {
    match member {
        Member::Address(address) => Element::key(address_bytes(*address)),
        Member::Port(address, protocol, port) => {
            Element::key([address_bytes(*address), vec![*protocol, 0, 0, 0], port_bytes(*port).to_vec()].concat())
        }
    }
}

/// The element of what may come out of an interface.
pub(crate) fn sender(interface: &str, address: IpAddr) -> Element {
    let mut key = interface.as_bytes().to_vec();
    key.resize(16, 0);
    key.extend(address_bytes(address));
    Element::key(key)
}

/// The elements of an isolated address that do not depend on the direction: (set, element).
pub(crate) fn policed(address: IpAddr) -> [(&'static str, Element); 2] {
    let bytes = address_bytes(address);
    [(PAIRS, Element::key([bytes.clone(), bytes.clone()].concat())), (POLICED, Element::key(bytes))]
}

/// The element that leads an isolated address to its set of policies.
pub(crate) fn isolated(address: IpAddr, group: u32) -> Element {
    Element { value: Some(group.to_ne_bytes().to_vec()), ..Element::key(address_bytes(address)) }
}

/// The element that leads a set of policies to its chain.
pub(crate) fn group(direction: Direction, group: u32) -> Element {
    let chain = ChainName::Group(direction, group).to_string();
    Element { verdict: Some(Verdict::Goto(chain)), ..Element::key(group.to_ne_bytes().to_vec()) }
}

/// The kernel's form of a rule.
pub(crate) fn expressions(family: Family, direction: Direction, rule: &ChainRule) -> Expressions {
    let (peers, ports) = match rule {
        ChainRule::Jump(chain) => return Expressions::new().verdict(Verdict::Jump(chain.to_string())),
        ChainRule::Drop => return Expressions::new().counter().verdict(Verdict::Drop),
        ChainRule::Accept(peers, ports) => (peers, ports),
    };
    let load_peer = |rule: Expressions| match direction {
        Direction::Ingress => rule.load_source(family, KEY),
        Direction::Egress => rule.load_destination(family, KEY),
    };
    let matched = match peers {
        PeerSet::Any => Expressions::new(),
        PeerSet::Selection(id) => load_peer(Expressions::new()).contained(&format!("peers-{id}"), KEY, false),
        PeerSet::Blocks(id) => load_peer(Expressions::new()).contained(&blocks_set(*id), KEY, false),
    };
    let matched = match ports {
        PortSet::Any => matched,
        PortSet::Numbers(id) => {
            let loaded = matched.load_protocol(KEY).load_destination_port(KEY.plus(1));
            loaded.contained(&ports_set(*id), KEY, false)
        }
        PortSet::Named(id) => {
            let width = address_registers(family);
            let loaded = matched.load_destination(family, KEY).load_protocol(KEY.plus(width));
            loaded.load_destination_port(KEY.plus(width + 1)).contained(&format!("named-{id}"), KEY, false)
        }
    };
    matched.verdict(Verdict::Accept)
}
