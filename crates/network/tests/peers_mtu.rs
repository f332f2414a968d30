//! Nodes whose links carry packets of different sizes, and one whose link changes: whatever goes between their pods arrives.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bed;

use bed::cluster::{Fabric, Node, assert_carries, join};
use klynge_network::netlink::{RouteBatch, Rtnetlink};

/// Changes what a node's link carries: at its end, and at the switch's.
fn set_link(fabric: &Fabric, subnet: usize, number: u8, node: &Node, mtu_bytes: u32) {
    for (namespace, name) in [(&node.namespace, "eth0".to_owned()), (&fabric.router, format!("port{subnet}-{number}"))]
    {
        let mut rtnetlink = Rtnetlink::open_in(namespace).unwrap();
        let mut batch = RouteBatch::new();
        batch.set_mtu(rtnetlink.index_of(&name).unwrap(), mtu_bytes);
        batch.send(rtnetlink.socket()).unwrap();
    }
}

#[test]
fn a_small_link_beside_larger_ones_carries_large_transfers_both_ways() {
    let fabric = Fabric::new();
    let (mut a, mut b, mut c) = (fabric.node(0, 1), fabric.node(0, 2), fabric.node(1, 3));
    set_link(&fabric, 1, 3, &c, 1400);
    let reports = join(&mut [&mut a, &mut b, &mut c]);
    assert_eq!((reports[0].mtu_bytes, reports[2].mtu_bytes), (1450, 1350));
    let (one, two, three) = (a.pod("one").serve(), b.pod("two").serve(), c.pod("three").serve());
    assert_eq!((one.mtu_bytes(), three.mtu_bytes()), (1450, 1350));
    for (from, to) in [(&one, &three), (&three, &one), (&two, &three), (&three, &two)] {
        assert_carries(&from.namespace, to.ip(), 1 << 20);
        assert_carries(&from.namespace, to.ip6(), 1 << 20);
    }
}

#[test]
fn a_link_too_small_for_ipv6_in_the_tunnel_says_so_and_carries_ipv4() {
    let fabric = Fabric::new();
    let (mut a, mut c) = (fabric.node(0, 1), fabric.node(1, 3));
    set_link(&fabric, 1, 3, &c, 1280);
    assert_eq!(a.network.set_peers(&[c.peer()]).unwrap().problems, []);
    let report = c.network.set_peers(&[a.peer()]).unwrap();
    let told: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    assert!(told.len() == 1 && told[0].contains("limited to 1230 bytes, and IPv6 needs 1280"), "{told:?}");
    // Pods have both families, also here: those of one node talk IPv6, and what is too large for the tunnel is told to its sender.
    let (one, three, four) = (a.pod("one").serve(), c.pod("three").serve(), c.pod("four").serve());
    assert_eq!((three.mtu_bytes(), report.mtu_bytes), (1280, 1280));
    assert_carries(&three.namespace, four.ip6(), 1 << 20);
    for (from, to) in [(&one, &three), (&three, &one)] {
        assert_carries(&from.namespace, to.ip(), 1 << 20);
    }
    // The same after a look, and without being told as anything new to do; then the link is mended.
    let again = c.network.verify_peers().unwrap();
    assert_eq!((again.added, again.removed, again.problems.len()), (0, 0, 1));
    set_link(&fabric, 1, 3, &c, 1500);
    assert_eq!(c.network.verify_peers().unwrap().problems, []);
    assert_carries(&three.namespace, one.ip6(), 1 << 20);
    // And it shrinks while all of it is in use.
    set_link(&fabric, 1, 3, &c, 1280);
    assert_eq!(c.network.verify_peers().unwrap().problems.len(), 1);
    assert_carries(&three.namespace, one.ip(), 1 << 20);
}

#[test]
fn a_link_that_changes_is_followed_and_pods_of_before_go_on() {
    let fabric = Fabric::new();
    let (mut a, mut c) = (fabric.node(0, 1), fabric.node(1, 3));
    join(&mut [&mut a, &mut c]);
    let (one, early) = (a.pod("one").serve(), c.pod("early").serve());
    assert_eq!(early.mtu_bytes(), 1450);
    for (link, tunnel) in [(1380, 1330), (1500, 1450)] {
        set_link(&fabric, 1, 3, &c, link);
        assert_eq!(c.network.verify_peers().unwrap().mtu_bytes, tunnel);
        let late = c.pod(&format!("late{link}")).serve();
        assert_eq!((late.mtu_bytes(), early.mtu_bytes()), (tunnel, 1450));
        for pod in [&late, &early] {
            for (from, to) in [(&one, pod), (pod, &one)] {
                assert_carries(&from.namespace, to.ip(), 1 << 20);
                assert_carries(&from.namespace, to.ip6(), 1 << 20);
            }
        }
    }
}
