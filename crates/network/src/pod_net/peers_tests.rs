//! Tables of peers and what is decided for them.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use super::super::peer_table::{Delta, PeerTable};
use super::*;
use crate::netlink::PublicKey;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn host() -> HostView {
    HostView {
        subnets: vec![
            Subnet { prefix: prefix("192.0.2.0/24"), interface: 2, mtu_bytes: 1500 },
            Subnet { prefix: prefix("192.0.2.128/25"), interface: 3, mtu_bytes: 9000 },
            Subnet { prefix: prefix("2001:db8::/64"), interface: 2, mtu_bytes: 1500 },
        ],
        addresses: [ip("192.0.2.1"), ip("2001:db8::1"), ip("127.0.0.1"), ip("198.51.100.7")].into(),
        node_addresses: vec![ip("192.0.2.1"), ip("2001:db8::1")],
        pod_ranges: vec![prefix("10.42.0.0/24"), prefix("fd00:42::/64")],
        cluster_ranges: vec![prefix("10.42.0.0/16"), prefix("fd00:42::/56")],
        encapsulation: Encapsulation::CrossSubnet,
        encryption_key: None,
    }
}

fn peer(name: &str, addresses: &[&str], ranges: &[&str]) -> Peer {
    Peer {
        name: name.to_owned(),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        pod_ranges: ranges.iter().map(|text| prefix(text)).collect(),
        encryption_key: None,
        since_s: 0,
    }
}

fn alone(peer: &Peer, host: &HostView) -> Decision {
    let mut claims = Claims::default();
    claims.add(peer, host);
    decide(peer, host, &claims)
}

fn routes(decision: &Decision) -> Vec<(String, Value)> {
    decision
        .items
        .iter()
        .filter_map(|(key, value)| match key {
            Key::Route(range) => Some((range.to_string(), *value)),
            _ => None,
        })
        .collect()
}

#[test]
fn ways_are_direct_on_a_shared_subnet_and_tunnels_otherwise() {
    let direct = |gateway: &str, interface, source: &str| Value::Direct {
        gateway: ip(gateway),
        interface,
        source: Some(ip(source)),
    };
    let tunnel = |underlay, gateway: &str, source: &str| Value::Tunnel {
        underlay,
        gateway: ip(gateway),
        source: Some(ip(source)),
    };
    type Row<'a> = (&'a [&'a str], &'a [&'a str], Vec<(&'a str, Value)>);
    let table: &[Row<'_>] = &[
        (&["192.0.2.9"], &["10.42.1.0/24"], vec![("10.42.1.0/24", direct("192.0.2.9", 2, "192.0.2.1"))]),
        // The longest prefix decides, as in the kernel.
        (&["192.0.2.200"], &["10.42.1.0/24"], vec![("10.42.1.0/24", direct("192.0.2.200", 3, "192.0.2.1"))]),
        // The second address is near.
        (&["203.0.113.9", "192.0.2.9"], &["10.42.1.0/24"], vec![("10.42.1.0/24", direct("192.0.2.9", 2, "192.0.2.1"))]),
        (
            &["203.0.113.9"],
            &["10.42.1.0/24", "fd00:42:0:1::/64"],
            vec![
                ("10.42.1.0/24", tunnel(Underlay::V4, "10.42.1.1", "10.42.0.1")),
                ("fd00:42:0:1::/64", tunnel(Underlay::V4, "fe80::c6b:aff:fe2a:100", "fd00:42::1")),
            ],
        ),
        // Both families near; both far, where IPv4 carries both; an IPv6-only node.
        (
            &["192.0.2.9", "2001:db8::9"],
            &["10.42.1.0/24", "fd00:42:0:1::/64"],
            vec![
                ("10.42.1.0/24", direct("192.0.2.9", 2, "192.0.2.1")),
                ("fd00:42:0:1::/64", direct("2001:db8::9", 2, "2001:db8::1")),
            ],
        ),
        (&["2001:db8:1::9"], &["10.42.1.0/24"], vec![("10.42.1.0/24", tunnel(Underlay::V6, "10.42.1.1", "10.42.0.1"))]),
        (&["192.0.2.9"], &[], vec![]),
    ];
    for (addresses, ranges, expected) in table {
        let decision = alone(&peer("b", addresses, ranges), &host());
        let expected: Vec<_> = expected.iter().map(|(range, value)| ((*range).to_owned(), *value)).collect();
        assert_eq!(routes(&decision), expected, "{addresses:?} {ranges:?}");
        assert_eq!(decision.problems, [""; 0], "{addresses:?} {ranges:?}");
    }
}

#[test]
fn a_tunnel_has_one_forwarding_entry_and_a_neighbour_for_each_family() {
    let decision = alone(&peer("b", &["203.0.113.9", "203.0.113.10"], &["10.42.1.0/24", "fd00:42:0:1::/64"]), &host());
    let hardware = [0x0e, 0x6b, 10, 42, 1, 0];
    for (key, value) in [
        (Key::Forwarding(Underlay::V4, hardware), Value::Destination(ip("203.0.113.9"))),
        (Key::Neighbour(Underlay::V4, ip("10.42.1.1")), Value::LinkAddress(hardware)),
        (Key::Neighbour(Underlay::V4, ip("fe80::c6b:aff:fe2a:100")), Value::LinkAddress(hardware)),
        (Key::Sender(ip("203.0.113.9")), Value::Admitted),
        (Key::Sender(ip("203.0.113.10")), Value::Admitted),
    ] {
        assert!(decision.items.contains(&(key, value)), "{key:?}");
    }
    assert_eq!(decision.items.len(), 7);
    let mut always = host();
    always.encapsulation = Encapsulation::Always;
    let near = alone(&peer("b", &["192.0.2.9"], &["10.42.1.0/24"]), &always);
    assert!(matches!(routes(&near)[..], [(_, Value::Tunnel { .. })]));
}

#[test]
fn a_node_address_that_the_host_lacks_is_no_source() {
    let mut behind_nat = host();
    behind_nat.node_addresses = vec![ip("203.0.113.1")];
    let decision = alone(&peer("b", &["192.0.2.9"], &["10.42.1.0/24"]), &behind_nat);
    assert!(matches!(routes(&decision)[..], [(_, Value::Direct { source: None, .. })]));
}

#[test]
fn wrong_parts_are_told_and_the_rest_is_reached() {
    let table: &[(&[&str], &[&str], usize, &str)] = &[
        (&["192.0.2.1"], &["10.42.1.0/24"], 0, "address 192.0.2.1 is this node's own"),
        (&["198.51.100.7"], &["10.42.1.0/24"], 0, "this node's own"),
        (&["192.0.2.9"], &["10.50.1.0/24", "fd00:42:0:1::/64"], 1, "10.50.1.0/24 is not within the cluster's"),
        (&["192.0.2.9"], &["10.0.0.0/8"], 0, "is not within the cluster's (10.42.0.0/16, fd00:42::/56)"),
        (&["192.0.2.9"], &["10.42.0.128/25", "10.42.1.0/24"], 1, "overlaps this node's own, 10.42.0.0/24"),
        (&["127.0.0.1"], &["10.42.1.0/24"], 0, "this node's own"),
        (&["169.254.3.3", "192.0.2.9"], &["10.42.1.0/24"], 1, "169.254.3.3 cannot be reached"),
        (&[], &["10.42.1.0/24"], 0, "it has no address"),
    ];
    for (addresses, ranges, reached, text) in table {
        let decision = alone(&peer("b", addresses, ranges), &host());
        assert_eq!(routes(&decision).len(), *reached, "{addresses:?} {ranges:?}");
        assert!(decision.problems.iter().any(|problem| problem.contains(text)), "{:?}", decision.problems);
    }
    let mut four = host();
    four.node_addresses = vec![ip("192.0.2.1")];
    let decision = alone(&peer("b", &["2001:db8:1::9"], &["10.42.1.0/24"]), &four);
    assert!(decision.items.is_empty() && decision.problems[0].contains("no address of a family"));
    let crowd: Vec<String> = (0..40).map(|number| format!("203.0.113.{number}")).collect();
    let crowd: Vec<&str> = crowd.iter().map(String::as_str).collect();
    assert!(alone(&peer("b", &crowd, &["10.42.1.0/24"]), &host()).problems[0].contains("only the first 16"));
}

/// Changes a table, and checks that the differences add up to what is wanted.
struct Changes {
    table: PeerTable,
    kernel: BTreeMap<Key, Value>,
}

impl Changes {
    fn new() -> Self {
        let mut table = PeerTable::default();
        table.set_host(host(), &mut Delta::new());
        Self { table, kernel: BTreeMap::new() }
    }

    fn apply(&mut self, delta: Delta) {
        for (key, value) in delta {
            match value {
                Some(value) => drop(self.kernel.insert(key, value)),
                None => assert!(self.kernel.remove(&key).is_some(), "{key:?} was not there"),
            }
        }
        assert_eq!(self.kernel, self.table.wanted().collect::<BTreeMap<_, _>>());
        let count =
            |is_counted: &dyn Fn(&Value) -> bool| self.kernel.values().filter(|value| is_counted(value)).count();
        assert_eq!(
            self.table.direct_routes().map(|(_, count)| count).sum::<usize>(),
            count(&|value| matches!(value, Value::Direct { .. }))
        );
        assert_eq!(
            Underlay::ALL.map(|underlay| self.table.tunnel_routes(underlay)).iter().sum::<usize>(),
            count(&|value| matches!(value, Value::Tunnel { .. }))
        );
    }

    fn set(&mut self, peer: &Peer) -> usize {
        let mut delta = Delta::new();
        self.table.change(&peer.name, Some(peer.clone()), &mut delta);
        let touched = delta.len();
        self.apply(delta);
        touched
    }

    fn remove(&mut self, name: &str) {
        let mut delta = Delta::new();
        self.table.change(name, None, &mut delta);
        self.apply(delta);
    }

    fn gateway(&self, range: &str) -> Option<IpAddr> {
        match self.kernel.get(&Key::Route(prefix(range)))? {
            Value::Direct { gateway, .. } | Value::Tunnel { gateway, .. } => Some(*gateway),
            _ => None,
        }
    }

    fn problems(&self) -> String {
        self.table.problems().map(|problem| format!("{problem}\n")).collect()
    }
}

#[test]
fn of_two_that_want_one_range_the_first_by_name_keeps_it_and_the_next_inherits() {
    let b = peer("b", &["192.0.2.9"], &["10.42.1.0/24"]);
    let c = peer("c", &["192.0.2.10"], &["10.42.1.128/25", "fd00:42:0:1::/64"]);
    for order in [[&b, &c], [&c, &b]] {
        let mut changes = Changes::new();
        for peer in order {
            changes.set(peer);
        }
        assert_eq!(changes.gateway("10.42.1.0/24"), Some(ip("192.0.2.9")));
        assert_eq!(changes.gateway("10.42.1.128/25"), None);
        assert!(changes.gateway("fd00:42:0:1::/64").is_some(), "the other range of the loser is routed");
        assert!(changes.problems().contains("node c: its pod range 10.42.1.128/25 overlaps 10.42.1.0/24 of node b"));
        changes.remove("b");
        assert_eq!(changes.gateway("10.42.1.128/25"), Some(ip("192.0.2.10")));
        assert_eq!(changes.problems(), "");
    }
    // A range that nobody routes takes nothing from anybody.
    let mut changes = Changes::new();
    changes.set(&b);
    changes.set(&peer("a", &["192.0.2.11"], &["10.0.0.0/8"]));
    changes.set(&peer("a2", &["192.0.2.1"], &["10.42.1.0/24"]));
    assert_eq!(changes.gateway("10.42.1.0/24"), Some(ip("192.0.2.9")));
}

#[test]
fn two_peers_with_one_address_are_told_and_share_it() {
    let mut changes = Changes::new();
    changes.set(&peer("old", &["203.0.113.9"], &["10.42.1.0/24"]));
    changes.set(&peer("new", &["203.0.113.9"], &["10.42.2.0/24"]));
    assert!(
        changes.problems().contains("node old: node new has the same address 203.0.113.9"),
        "{}",
        changes.problems()
    );
    changes.remove("old");
    assert_eq!(changes.problems(), "");
    assert!(changes.kernel.contains_key(&Key::Sender(ip("203.0.113.9"))), "the other still sends from it");
    changes.remove("new");
    assert!(changes.kernel.is_empty());
}

#[test]
fn one_change_touches_one_peer_among_thousands() {
    let mut changes = Changes::new();
    let mut table = PeerTable::default();
    table.set_host(host(), &mut Delta::new());
    for number in 1..250_u8 {
        table.change(
            &format!("n{number}"),
            Some(peer(&format!("n{number}"), &[&format!("203.0.113.{number}")], &[&format!("10.42.{number}.0/24")])),
            &mut Delta::new(),
        );
    }
    changes.kernel = table.wanted().collect();
    changes.table = table;
    let moved = peer("n7", &["203.0.113.251"], &["10.42.7.0/24"]);
    assert_eq!(changes.set(&moved), 5, "a route, a neighbour, a way, two senders");
    assert_eq!(changes.set(&moved), 0, "a second time nothing");
    let near = peer("n7", &["192.0.2.7"], &["10.42.7.0/24"]);
    changes.set(&near);
    assert_eq!(changes.gateway("10.42.7.0/24"), Some(ip("192.0.2.7")));
}

#[test]
fn a_random_history_equals_a_fresh_start() {
    let mut changes = Changes::new();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    for _ in 0..3000 {
        let name = format!("n{}", next(8));
        if next(4) == 0 {
            changes.remove(&name);
        } else {
            let address = ["192.0.2.9", "192.0.2.10", "203.0.113.9", "203.0.113.10", "192.0.2.1"]
                [usize::try_from(next(5)).unwrap()];
            let range =
                ["10.42.1.0/24", "10.42.1.0/25", "10.42.1.128/25", "10.42.2.0/23", "10.42.3.0/24", "10.42.0.0/16"]
                    [usize::try_from(next(6)).unwrap()];
            changes.set(&peer(&name, &[address], &[range]));
        }
        let mut fresh = PeerTable::default();
        fresh.set_host(host(), &mut Delta::new());
        for name in changes.table.names() {
            fresh.change(name, changes.table.peer(name).cloned(), &mut Delta::new());
        }
        assert_eq!(
            fresh.wanted().filter(|(key, _)| matches!(key, Key::Route(_))).collect::<Vec<_>>(),
            changes.table.wanted().filter(|(key, _)| matches!(key, Key::Route(_))).collect::<Vec<_>>()
        );
        assert_eq!(fresh.problems().collect::<Vec<_>>(), changes.table.problems().collect::<Vec<_>>());
    }
}

#[test]
fn ends_of_the_tunnel_get_addresses_that_no_pod_has() {
    assert_eq!(tunnel_address(&prefix("10.42.7.0/24")), ip("10.42.7.1"));
    assert_eq!(tunnel_address(&prefix("fd00:42:0:7::/64")), ip("fd00:42:0:7::1"));
    assert_eq!(tunnel_address(&prefix("10.42.7.3/32")), ip("10.42.7.3"));
    for (ranges, expected) in [
        (&["10.42.7.0/24", "fd00::/64"][..], [0x0e, 0x6b, 10, 42, 7, 0]),
        (&["fd00::/64", "10.42.7.0/24"][..], [0x0e, 0x6b, 10, 42, 7, 0]),
        (&["fd00:42:0:107::/64"][..], [0x1e, 0x42, 0, 0, 1, 7]),
    ] {
        let ranges: Vec<Prefix> = ranges.iter().map(|text| prefix(text)).collect();
        let address = link_address(&ranges).unwrap();
        assert_eq!(address, expected);
        assert_eq!(address[0] & 3, 2, "locally administered, for one machine");
    }
}

#[test]
fn encryption_leaves_no_way_in_plain() {
    let keyed = |name: &str, key: Option<u8>| Peer {
        encryption_key: key.map(|key| PublicKey([key; 32])),
        since_s: 0,
        ..peer(name, &["192.0.2.2", "2001:db8::2"], &["10.42.1.0/24", "fd00:42:0:1::/64"])
    };
    let host = HostView { encryption_key: Some(PublicKey([1; 32])), ..host() };
    let decision = alone(&keyed("a", Some(2)), &host);
    assert_eq!(decision.problems, [""; 0]);
    let key = PublicKey([2; 32]);
    let way =
        |range: &str, source: &str| (Key::Route(prefix(range)), Value::Encrypted { key, source: Some(ip(source)) });
    assert_eq!(
        decision.items,
        [
            (Key::Secured(key), Value::Destination(ip("192.0.2.2"))),
            way("10.42.1.0/24", "10.42.0.1"),
            way("fd00:42:0:1::/64", "fd00:42::1"),
        ]
    );
    for (key, part) in [(None, "it has no key"), (Some(1), "this node's own key")] {
        let decision = alone(&keyed("a", key), &host);
        assert_eq!(decision.items, []);
        assert!(decision.problems.iter().any(|problem| problem.contains(part)), "{:?}", decision.problems);
    }
}
