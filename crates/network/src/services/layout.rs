//! How Services lie in nftables: a few flat maps that changes touch, and a few chains that all Services share.
//!
//! A new connection looks its destination up in `service-ports` (or `node-ports`) and finds one number: a slot, which names a list of
//! endpoints, and an action. The action's chain draws a number and finds the endpoint in `backends`. A change of a Service therefore only
//! touches map elements. Actions are numbers and not verdicts on purpose: elements with verdicts would make the kernel revalidate every
//! chain of the table at each commit, which costs time in proportion to all Services. What a map gave goes through the packet's mark
//! before it becomes a key, for nft(8) to be able to read it (see `Expressions::copy_through_mark`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::compile::{Action, Balance, FrontKey, Masquerade};
use super::program::Options;
use crate::POD_INTERFACE_PREFIX;
use crate::Prefix;
use crate::netlink::{
    ChainSpec, DataType, Element, Expressions, Family, Hook, MapValue, NftBatch, Register, SetFlags, TypedSetSpec,
    Verdict,
};
use crate::pod_net::TUNNEL_INTERFACE_PREFIX;
use crate::prefix::address_bytes;

/// The name of the tables (one for IPv4, one for IPv6).
pub const TABLE: &str = "klynge-services";

/// The mark of packets whose source is to be replaced. Others use: 0x4000 and 0x8000 kube-proxy, 0x2000 the portmap plugin,
/// 0xff0000 Tailscale, 0xca6c wg-quick, 0x6d6f6c65 Mullvad; this bit is in none of them.
pub const MASQUERADE_MARK: u32 = 0x1000_0000;

/// The chains whose rules do not depend on single Services.
pub(crate) const BASE_CHAINS: &[&str] = &["services", "is-outside", "prerouting", "output", "postrouting"];

/// Before the -100 and 100 at which Docker, iptables and firewalld translate, so that a Service's port is not taken by them.
const PRIORITY_DESTINATION: i32 = -105;
const PRIORITY_SOURCE: i32 = 95;
/// Endpoints of this node are numbered from here within a slot.
pub(crate) const LOCAL_INDEX_OFFSET: u32 = 0x1_0000;
/// Clients remembered per family; past it new clients are balanced without being remembered.
const AFFINITY_CLIENTS_MAX: u32 = 262_144;

/// How many bits of a front's value are its action; the others are its slot.
const ACTION_BITS: u32 = 13;
/// The largest number of an action.
pub(crate) const ACTION_ID_MAX: u32 = (1 << ACTION_BITS) - 1;
/// The largest slot: ports of Services in both families together.
pub(crate) const SLOT_MAX: u32 = (1 << (32 - ACTION_BITS)) - 1;
/// The bits of a front's value that are its slot.
const SLOT_MASK: u32 = !ACTION_ID_MAX;

/// The key of a front: up to six registers.
const KEY: Register = Register::new(0);
/// What a lookup found.
const FOUND: Register = Register::new(6);
/// The action of a front.
const ACTION: Register = Register::new(7);
/// A client under session affinity: its slot and address.
const CLIENT: Register = Register::new(7);
/// A slot, and beside it what chooses in it: a drawn number or a token.
const SLOT: Register = Register::new(12);
const CHOICE: Register = SLOT.plus(1);
/// The token of an endpoint, to be remembered.
const TOKEN: Register = Register::new(14);
/// The packet's mark while a copy goes through it.
const SAVED: Register = Register::new(15);
/// The chosen endpoint; the front's key is not needed any more.
const ENDPOINT: Register = Register::new(0);

/// The sets that changes of Services touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum SetName {
    ServicePorts,
    NodePorts,
    Backends,
    Picks,
    Members,
    SourceRanges,
    Hairpins,
}

impl SetName {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::ServicePorts => "service-ports",
            Self::NodePorts => "node-ports",
            Self::Backends => "backends",
            Self::Picks => "picks",
            Self::Members => "members",
            Self::SourceRanges => "source-ranges",
            Self::Hairpins => "hairpins",
        }
    }
}

/// By what a connection was found: the two have keys of different shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Address,
    NodePort,
}

impl Kind {
    pub(crate) const fn of(key: &FrontKey) -> Self {
        match key {
            FrontKey::Address { .. } => Self::Address,
            FrontKey::NodePort { .. } => Self::NodePort,
        }
    }

    const fn map(self) -> &'static str {
        match self {
            Self::Address => SetName::ServicePorts.text(),
            Self::NodePort => SetName::NodePorts.text(),
        }
    }

    const fn actions(self) -> &'static str {
        match self {
            Self::Address => "address-actions",
            Self::NodePort => "node-port-actions",
        }
    }

    /// Loads the key of the map of this kind, from register 0 on.
    fn load_key(self, family: Family, rule: Expressions) -> Expressions {
        match self {
            Self::Address => {
                let width = address_registers(family);
                rule.load_destination(family, KEY)
                    .load_protocol(KEY.plus(width))
                    .load_destination_port(KEY.plus(width + 1))
            }
            Self::NodePort => rule.load_protocol(KEY).load_destination_port(KEY.plus(1)),
        }
    }
}

const fn address_registers(family: Family) -> u32 {
    if matches!(family, Family::Ip6) { 4 } else { 1 }
}

/// The bytes of a port in a register.
pub(crate) fn port_bytes(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// The key of a front in its map.
pub(crate) fn front_bytes(key: &FrontKey) -> Vec<u8> {
    let (mut bytes, protocol, port) = match key {
        FrontKey::Address { ip, protocol, port } => (address_bytes(*ip), protocol, port),
        FrontKey::NodePort { protocol, port, .. } => (Vec::with_capacity(8), protocol, port),
    };
    bytes.extend_from_slice(&[protocol.number(), 0, 0, 0]);
    bytes.extend_from_slice(&port_bytes(*port));
    bytes
}

/// What a front's element says.
pub(crate) const fn front_value(slot: u32, action: u32) -> [u8; 4] {
    (slot << ACTION_BITS | action).to_ne_bytes()
}

/// A slot as keys have it.
pub(crate) const fn slot_field(slot: u32) -> [u8; 4] {
    (slot << ACTION_BITS).to_ne_bytes()
}

/// Makes the tables anew, with everything that does not depend on single Services.
pub(crate) fn add_base(batch: &mut NftBatch, family: Family, options: &Options) {
    let address = DataType::address(family);
    batch.delete_table_if_exists(family, TABLE);
    batch.add_table(family, TABLE);
    let plain = SetFlags::default();
    let interval = SetFlags { interval: true, ..plain };
    let (number, endpoint) = (MapValue::Data(&[DataType::Number]), [address, DataType::Port]);
    let in_slot = [DataType::Number, DataType::Number];
    let sets: [(&str, &[DataType], MapValue<'_>, SetFlags); 9] = [
        (SetName::ServicePorts.text(), &[address, DataType::Protocol, DataType::Port], number, plain),
        (SetName::NodePorts.text(), &[DataType::Protocol, DataType::Port], number, plain),
        (SetName::Backends.text(), &in_slot, MapValue::Data(&endpoint), plain),
        (SetName::Picks.text(), &in_slot, number, plain),
        (SetName::Members.text(), &in_slot, MapValue::Data(&endpoint), plain),
        (SetName::SourceRanges.text(), &[DataType::Number, address], MapValue::None, interval),
        (SetName::Hairpins.text(), &[address, address], MapValue::None, plain),
        (Kind::Address.actions(), &[DataType::Number], MapValue::Verdict, plain),
        (Kind::NodePort.actions(), &[DataType::Number], MapValue::Verdict, plain),
    ];
    for (name, key, value, flags) in sets {
        batch.add_typed_set(family, TABLE, &TypedSetSpec { name, key, value, flags, size_max: None });
    }
    for (name, base) in [
        ("services", None),
        ("is-outside", None),
        ("prerouting", Some((Hook::Prerouting, "nat", PRIORITY_DESTINATION))),
        ("output", Some((Hook::Output, "nat", PRIORITY_DESTINATION))),
        ("postrouting", Some((Hook::Postrouting, "nat", PRIORITY_SOURCE))),
    ] {
        batch.add_chain(family, TABLE, &ChainSpec { name, base });
    }
    add_services_chain(batch, family, options);
    add_outside_chain(batch, family, options);
    add_postrouting(batch, family, options);
    for name in ["prerouting", "output"] {
        batch.add_rule(family, TABLE, name, &Expressions::new().verdict(Verdict::Jump("services".to_owned())));
    }
}

fn add_services_chain(batch: &mut NftBatch, family: Family, options: &Options) {
    let mut rule = |rule: Expressions| batch.add_rule(family, TABLE, "services", &rule);
    let loopback = match family {
        Family::Ip6 => Prefix::host(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        _ => Prefix::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8),
    };
    rule(Expressions::new().match_destination_prefix(&loopback, false, KEY).verdict(Verdict::Return));
    for address in
        options.local_addresses.iter().map(|address| Prefix::host(*address)).filter(|prefix| prefix.family() == family)
    {
        rule(Expressions::new().match_destination_prefix(&address, false, KEY).verdict(Verdict::Return));
    }
    let found = |kind: Kind, rule: Expressions| {
        kind.load_key(family, rule)
            .lookup(kind.map(), KEY, FOUND)
            .copy_through_mark(FOUND, &[ACTION], SAVED)
            .bitwise(ACTION, &ACTION_ID_MAX.to_ne_bytes(), &[0; 4])
            .lookup_verdict(kind.actions(), ACTION)
    };
    rule(found(Kind::Address, Expressions::new()));
    rule(found(Kind::NodePort, Expressions::new().match_destination_is_local(KEY)));
    // Packets for an address in the range that no Service has would otherwise leave through the default route.
    for range in options.service_ranges.iter().filter(|range| range.family() == family) {
        let within = || Expressions::new().match_destination_prefix(range, false, KEY);
        rule(within().match_protocol(6, KEY).reject_with_reset());
        rule(within().reject_port_unreachable(family));
    }
}

/// Returns for pods and for this host; marks everyone else for masquerading.
fn add_outside_chain(batch: &mut NftBatch, family: Family, options: &Options) {
    let mut rule = |rule: Expressions| batch.add_rule(family, TABLE, "is-outside", &rule);
    for range in options.pod_ranges.iter().filter(|range| range.family() == family) {
        rule(Expressions::new().match_source_prefix(range, false, KEY).verdict(Verdict::Return));
    }
    rule(Expressions::new().match_source_is_local(KEY).verdict(Verdict::Return));
    rule(Expressions::new().set_mark_bits(MASQUERADE_MARK, KEY));
}

fn add_postrouting(batch: &mut NftBatch, family: Family, options: &Options) {
    let mut rule = |rule: Expressions| batch.add_rule(family, TABLE, "postrouting", &rule);
    let marked = || Expressions::new().match_mark_bits(MASQUERADE_MARK, KEY).clear_mark_bits(MASQUERADE_MARK, KEY);
    let width = address_registers(family);
    let hairpin = || {
        // IPS_DST_NAT: only connections whose destination was translated.
        Expressions::new()
            .match_connection_status(0x20, KEY)
            .load_source(family, KEY)
            .load_destination(family, KEY.plus(width))
            .contained(SetName::Hairpins.text(), KEY, false)
    };
    // Through the tunnel to other nodes goes the address of its end, not the node's: the answer must come back through it.
    rule(
        Expressions::new()
            .match_output_interface(TUNNEL_INTERFACE_PREFIX, true, KEY)
            .match_mark_bits(MASQUERADE_MARK, KEY)
            .clear_mark_bits(MASQUERADE_MARK, KEY)
            .masquerade(),
    );
    // Interfaces of pods have no address of their own to masquerade with: the node's address is named.
    if let Some(address) = options.node_addresses.iter().find(|address| address.is_ipv6() == (family == Family::Ip6)) {
        let to_node = |rule: Expressions| rule.load_value(&address_bytes(*address), KEY).translate_source(family, KEY);
        let prefix = POD_INTERFACE_PREFIX;
        rule(to_node(
            Expressions::new()
                .match_output_interface(prefix, true, KEY)
                .match_mark_bits(MASQUERADE_MARK, KEY)
                .clear_mark_bits(MASQUERADE_MARK, KEY),
        ));
        rule(to_node(hairpin()));
    }
    rule(marked().masquerade());
    rule(hairpin().masquerade());
}

/// The map of what clients chose. The kernel sets its buckets aside at once, 4 MiB: it is made when the first Service needs it, and is one for all
/// timeouts, which elements have each their own.
const AFFINITY: &str = "affinity";

/// Makes the map of what clients chose.
pub(crate) fn add_affinity_map(batch: &mut NftBatch, family: Family) {
    batch.add_typed_set(
        family,
        TABLE,
        &TypedSetSpec {
            name: AFFINITY,
            key: &[DataType::Number, DataType::address(family)],
            value: MapValue::Data(&[DataType::Number]),
            flags: SetFlags { interval: false, dynamic: true, timeout: true },
            size_max: Some(AFFINITY_CLIENTS_MAX),
        },
    );
}

/// An action with its number, to be made.
pub(crate) struct NewAction {
    pub(crate) family: Family,
    pub(crate) kind: Kind,
    pub(crate) id: u32,
    pub(crate) action: Action,
    /// Where pods and the node itself go instead: an action that was made before.
    pub(crate) alternate: Option<(u32, Action)>,
}

/// Makes the chain of an action and enters it into the map of actions.
pub(crate) fn add_action(batch: &mut NftBatch, new: &NewAction) {
    let NewAction { family, kind, id, action, alternate } = new;
    let chain = action_chain(*kind, *id, action);
    let alternate = alternate.map(|(id, action)| action_chain(*kind, id, &action));
    batch.add_chain(*family, TABLE, &ChainSpec { name: &chain, base: None });
    for rule in action_rules(*family, *kind, action, alternate) {
        batch.add_rule(*family, TABLE, &chain, &rule);
    }
    let key = id.to_ne_bytes().to_vec();
    let element = Element { key, key_end: None, value: None, verdict: Some(Verdict::Goto(chain)) };
    batch.add_elements(*family, TABLE, kind.actions(), [&element]);
}

fn action_chain(kind: Kind, id: u32, action: &Action) -> String {
    let what = match action.balance {
        Balance::Cluster(count) => format!("cluster-{count}"),
        Balance::Local(count) => format!("local-{count}"),
        Balance::Reject => "reject".to_owned(),
        Balance::Drop => "drop".to_owned(),
    };
    format!("{}-{id}-{what}", kind.map())
}

fn action_rules(family: Family, kind: Kind, action: &Action, alternate: Option<String>) -> Vec<Expressions> {
    let mut rules = Vec::new();
    // Finds the front's slot, and puts it into registers.
    let find = |rule: Expressions, into: &[Register]| {
        let found = kind.load_key(family, rule).lookup(kind.map(), KEY, FOUND).copy_through_mark(FOUND, into, SAVED);
        into.iter().fold(found, |rule, slot| rule.bitwise(*slot, &SLOT_MASK.to_ne_bytes(), &[0; 4]))
    };
    if action.is_restricted {
        rules.push(
            find(Expressions::new().match_source_is_foreign(KEY), &[CLIENT])
                .load_source(family, CLIENT.plus(1))
                .contained(SetName::SourceRanges.text(), CLIENT, true)
                .verdict(Verdict::Drop),
        );
    }
    if let Some(alternate) = alternate {
        // Pods keep their address; the node's own connections may come from an address that others hold as well.
        let chosen = |rule: Expressions| rule.verdict(Verdict::Goto(alternate.clone()));
        rules.push(chosen(Expressions::new().match_source_is_local(KEY).set_mark_bits(MASQUERADE_MARK, KEY)));
        rules.push(chosen(Expressions::new().match_input_interface(POD_INTERFACE_PREFIX, true, KEY)));
    }
    match action.masquerade {
        Masquerade::Never => {}
        Masquerade::Outside => rules.push(Expressions::new().verdict(Verdict::Jump("is-outside".to_owned()))),
        Masquerade::Always => rules.push(Expressions::new().set_mark_bits(MASQUERADE_MARK, KEY)),
    }
    let (count, offset) = match action.balance {
        Balance::Cluster(count) => (count, 0),
        Balance::Local(count) => (count, LOCAL_INDEX_OFFSET),
        Balance::Drop => {
            rules.push(Expressions::new().verdict(Verdict::Drop));
            return rules;
        }
        Balance::Reject => {
            rules.push(Expressions::new().match_protocol(6, KEY).reject_with_reset());
            rules.push(Expressions::new().reject_port_unreachable(family));
            return rules;
        }
    };
    let translate =
        |rule: Expressions| rule.translate_destination(family, ENDPOINT, ENDPOINT.plus(address_registers(family)));
    let Some(timeout_s) = action.affinity_timeout_s else {
        let drawn = find(Expressions::new(), &[SLOT]).random(count, offset, CHOICE);
        rules.push(translate(drawn.lookup(SetName::Backends.text(), SLOT, ENDPOINT)));
        return rules;
    };
    let timeout_ms = u64::from(timeout_s) * 1000;
    let client = || find(Expressions::new(), &[SLOT, CLIENT]).load_source(family, CLIENT.plus(1));
    let endpoint = |rule: Expressions| {
        rule.copy_through_mark(FOUND, &[CHOICE, TOKEN], SAVED).lookup(SetName::Members.text(), SLOT, ENDPOINT)
    };
    // What is remembered of an endpoint that went is in no key of `members`.
    let remembered = endpoint(client().lookup(AFFINITY, CLIENT, FOUND)).update(AFFINITY, CLIENT, TOKEN, timeout_ms);
    rules.push(translate(remembered));
    let picked = || endpoint(client().random(count, offset, CHOICE).lookup(SetName::Picks.text(), SLOT, FOUND));
    // What is remembered has to go first, for an update does not change a value.
    let forgotten = picked().forget(AFFINITY, CLIENT, TOKEN, timeout_ms).update(AFFINITY, CLIENT, TOKEN, timeout_ms);
    rules.push(translate(forgotten));
    // The way out when the memory of clients is full.
    rules.push(translate(picked()));
    rules
}
