//! The pod network between nodes, proven by packets between namespaces on one subnet and on two.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bed;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use bed::cluster::{Fabric, Wire, assert_carries, assert_connected, join};
use bed::{ask, connect, eventually, give_address, greeting, ip, prefix, serve_tcp};
use klynge_network::netlink::{
    Family, Forwarding, Neighbour, Nft, NftBatch, Route, RouteBatch, Rtnetlink, VethPair, VxlanInfo,
};
use klynge_network::pod_net::{
    Admission, Encapsulation, Peer, PodNetwork, TUNNEL_IDENTIFIER, TUNNEL_PORT, TUNNEL_TABLE, admit, purge,
    withdraw_admission,
};

const TUNNEL: &str = "klynge-vx";

#[test]
fn pods_of_nodes_on_one_subnet_reach_each_other_with_their_own_addresses() {
    let fabric = Fabric::new();
    let (mut a, mut b) = (fabric.node(0, 1), fabric.node(0, 2));
    let reports = join(&mut [&mut a, &mut b]);
    assert_eq!((reports[0].direct_ranges, reports[0].tunnelled_ranges, reports[0].mtu_bytes), (2, 0, 1500));
    let (one, two) = (a.pod("one").serve(), b.pod("two").serve());
    assert_connected(&one, &two);
    assert_carries(&one.namespace, two.ip(), 1 << 20);
    assert_carries(&two.namespace, one.ip6(), 1 << 20);
    assert!(!a.has_interface(TUNNEL), "no tunnel where none is needed");
    // The node's own packets carry its address; what pods send to other nodes carries the address of theirs.
    assert_eq!(ask(&a.namespace, two.ip(), 8080).unwrap().1, a.ip());
    serve_tcp(&b.namespace, "[::]", 9000, "host");
    assert_eq!(ask(&one.namespace, b.ip(), 9000).unwrap(), ("host".to_owned(), a.ip()));
}

#[test]
fn pods_of_nodes_on_two_subnets_reach_each_other_through_the_tunnel() {
    let fabric = Fabric::new();
    let (mut a, mut b, mut c) = (fabric.node(0, 1), fabric.node(0, 2), fabric.node(1, 3));
    let early = a.pod("early").serve();
    assert_eq!(early.mtu_bytes(), 1500);
    let reports = join(&mut [&mut a, &mut b, &mut c]);
    assert_eq!((reports[0].direct_ranges, reports[0].tunnelled_ranges, reports[0].mtu_bytes), (2, 2, 1450));
    assert_eq!((reports[2].direct_ranges, reports[2].tunnelled_ranges), (0, 4));
    let (one, two, three) = (a.pod("one").serve(), b.pod("two").serve(), c.pod("three").serve());
    assert_eq!(one.mtu_bytes(), 1450);
    assert_connected(&one, &two);
    assert_connected(&one, &three);
    assert_connected(&two, &three);
    for (from, to) in [(&one, &three), (&three, &one), (&early, &three), (&three, &early)] {
        assert_carries(&from.namespace, to.ip(), 1 << 20);
        assert_carries(&from.namespace, to.ip6(), 1 << 20);
    }
    // The router between them knows no pod: the node's own packets carry the address of its end of the tunnel.
    assert_eq!(ask(&a.namespace, three.ip(), 8080).unwrap().1, ip("10.42.1.1"));
    assert_eq!(ask(&a.namespace, three.ip6(), 8080).unwrap().1, ip("fd00:42:0:1::1"));
    serve_tcp(&c.namespace, "[::]", 9000, "host");
    assert_eq!(ask(&one.namespace, c.ip(), 9000).unwrap(), ("host".to_owned(), a.ip()));
    assert_eq!(a.tunnel_entries(TUNNEL), (1, 2), "one way, one neighbour in each family");
}

#[test]
fn large_datagrams_pass_the_tunnel_whole() {
    let fabric = Fabric::new();
    let (mut a, mut c) = (fabric.node(0, 1), fabric.node(1, 3));
    join(&mut [&mut a, &mut c]);
    let (one, three) = (a.pod("one"), c.pod("three"));
    let server = three.namespace.run(|| UdpSocket::bind("0.0.0.0:5353").unwrap()).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let client = bed::udp_client(&one.namespace);
    // The bed's bridges need a moment; TCP waits for them, and a lost datagram is a lost datagram.
    three.serve_tcp(8080);
    ask(&one.namespace, three.ip(), 8080).unwrap();
    // 1,422 bytes fill a packet of 1,450; 20,000 travel in fragments that fit.
    for bytes in [1422, 20_000] {
        client.send_to(&vec![7; bytes], (three.ip(), 5353)).unwrap();
        let mut buffer = vec![0; 65_536];
        assert_eq!(server.recv(&mut buffer).unwrap(), bytes);
    }
}

#[test]
fn a_tunnel_over_ipv6_alone_carries_both_families() {
    let fabric = Fabric::new();
    let (mut a, mut c) = (fabric.node_on(0, 1, Wire::OnlyIpv6), fabric.node_on(1, 3, Wire::OnlyIpv6));
    let reports = join(&mut [&mut a, &mut c]);
    assert_eq!((reports[0].tunnelled_ranges, reports[0].mtu_bytes), (2, 1430));
    let (one, three) = (a.pod("one").serve(), c.pod("three").serve());
    assert_connected(&one, &three);
    assert_carries(&one.namespace, three.ip(), 1 << 20);
    assert_carries(&three.namespace, one.ip6(), 1 << 20);
}

#[test]
fn a_cluster_may_tunnel_on_one_subnet_too() {
    let fabric = Fabric::new();
    let (mut a, mut b) = (fabric.node(0, 1), fabric.node(0, 2));
    join(&mut [&mut a, &mut b]);
    let (one, two) = (a.pod("one").serve(), b.pod("two").serve());
    assert_connected(&one, &two);
    for node in [&mut a, &mut b] {
        node.network.set_encapsulation(Encapsulation::Always);
    }
    let report = join(&mut [&mut a, &mut b]).remove(0);
    assert_eq!((report.direct_ranges, report.tunnelled_ranges), (0, 2));
    assert_connected(&one, &two);
    for node in [&mut a, &mut b] {
        node.network.set_encapsulation(Encapsulation::CrossSubnet);
    }
    join(&mut [&mut a, &mut b]);
    assert!(!a.has_interface(TUNNEL), "the tunnel goes when nobody needs it");
    assert_connected(&one, &two);
}

#[test]
fn a_peer_that_moves_is_followed_and_one_that_goes_is_unreachable_at_once() {
    let fabric = Fabric::new();
    let (mut a, mut b) = (fabric.node(0, 1), fabric.node(0, 2));
    let mut c = fabric.node(1, 3);
    join(&mut [&mut a, &mut b, &mut c]);
    let (one, two, three) = (a.pod("one").serve(), b.pod("two").serve(), c.pod("three").serve());
    assert_connected(&one, &two);
    assert_connected(&one, &three);
    // Node 2 gets another address of the same subnet.
    let mut rtnetlink = Rtnetlink::open_in(&b.namespace).unwrap();
    let eth0 = rtnetlink.index_of("eth0").unwrap();
    let mut batch = RouteBatch::new();
    batch.add_address(eth0, ip("192.0.2.77"), 24);
    batch.delete_address(eth0, ip("192.0.2.2"), 24);
    batch.send(rtnetlink.socket()).unwrap();
    let mut batch = RouteBatch::new();
    batch.add_address(eth0, ip("192.0.2.77"), 24);
    batch.add_route(&Route {
        destination: prefix("0.0.0.0/0"),
        gateway: Some(ip("192.0.2.254")),
        interface: None,
        source: None,
        on_link: false,
    });
    batch.send(rtnetlink.socket()).unwrap();
    b.options.node_addresses[0] = ip("192.0.2.77");
    b.restart();
    b.recover(&[&two]);
    let report = join(&mut [&mut a, &mut b, &mut c]).remove(0);
    assert_eq!((report.added, report.removed), (1, 0), "one route was replaced");
    assert_eq!(ask(&one.namespace, two.ip(), 8080).unwrap(), ("two".to_owned(), one.ip()));
    assert_eq!(ask(&three.namespace, two.ip(), 8080).unwrap(), ("two".to_owned(), three.ip()));
    // Node 3 comes back with another range: the old one leads nowhere.
    c.options.pod_ranges = vec![prefix("10.42.9.0/24"), prefix("fd00:42:0:9::/64")];
    c.pod_ranges = c.options.pod_ranges.clone();
    std::fs::remove_file(c.options.directory.clone().unwrap().join("addresses.json")).unwrap();
    c.restart();
    join(&mut [&mut a, &mut b, &mut c]);
    let nine = c.pod("nine").serve();
    assert_connected(&one, &nine);
    assert!(ask(&one.namespace, three.ip(), 8080).is_err());
    assert_eq!(a.tunnel_entries(TUNNEL), (1, 2), "no entry of the old range is left");
    // Node 3 goes for good, then node 2.
    let report = a.network.change_peers([("node3".to_owned(), None)]).unwrap();
    assert_eq!((report.direct_ranges, report.tunnelled_ranges), (2, 0));
    let start = Instant::now();
    assert_eq!(ask(&one.namespace, nine.ip(), 8080).unwrap_err().kind(), ErrorKind::HostUnreachable);
    assert!(start.elapsed() < Duration::from_millis(500), "refused at once, not dropped");
    assert_eq!(ask(&one.namespace, nine.ip6(), 8080).unwrap_err().kind(), ErrorKind::NetworkUnreachable);
    assert!(!a.has_interface(TUNNEL));
    assert_eq!(a.network.set_peers(&[]).unwrap().removed, 2);
    assert_eq!(a.kernel().1, [""; 0]);
    assert!(ask(&one.namespace, two.ip(), 8080).is_err());
}

#[test]
fn a_restarted_agent_repairs_whatever_it_finds() {
    let fabric = Fabric::new();
    let (mut a, mut b, mut c) = (fabric.node(0, 1), fabric.node(0, 2), fabric.node(1, 3));
    join(&mut [&mut a, &mut b, &mut c]);
    let (one, two, three) = (a.pod("one").serve(), b.pod("two").serve(), c.pod("three").serve());
    let mut stream = connect(&one.namespace, three.ip(), 8080).unwrap();
    greeting(&mut stream).unwrap();
    // The same list: nothing is touched, and connections go on.
    a.restart();
    assert_eq!(a.network.mtu_bytes(), 1450, "also before the peers are known");
    assert_connected(&one, &three);
    let report = join(&mut [&mut a, &mut b, &mut c]).remove(0);
    assert_eq!((report.added, report.removed), (0, 0));
    stream.write_all(b"still here").unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"still here");
    // Another list: node 2 went while nobody looked, and leftovers of a third are in every table.
    let mut rtnetlink = Rtnetlink::open_in(&a.namespace).unwrap();
    let tunnel = rtnetlink.index_of(TUNNEL).unwrap();
    let mut batch = RouteBatch::new();
    let hardware = [0x0e, 0x6b, 10, 42, 77, 0];
    batch.add_forwarding(&Forwarding { interface: tunnel, link_address: hardware, destination: ip("198.51.100.77") });
    batch.add_neighbour(&Neighbour { interface: tunnel, address: ip("10.42.77.1"), link_address: hardware });
    batch.add_route(&Route {
        destination: prefix("10.42.77.0/24"),
        gateway: Some(ip("10.42.77.1")),
        interface: Some(tunnel),
        source: None,
        on_link: true,
    });
    batch.delete_route(&Route {
        destination: prefix("fd00:42:0:3::/64"),
        gateway: None,
        interface: Some(tunnel),
        source: None,
        on_link: false,
    });
    batch.send(rtnetlink.socket()).unwrap();
    a.restart();
    let report = a.network.set_peers(&[c.peer()]).unwrap();
    assert_eq!((report.added, report.removed), (1, 5), "{report:?}");
    assert_eq!(a.kernel().1, ["10.42.3.0/24", "fd00:42:0:3::/64"]);
    assert_eq!(a.tunnel_entries(TUNNEL), (1, 2));
    assert_connected(&one, &three);
    assert!(ask(&one.namespace, two.ip(), 8080).is_err());
}

#[test]
fn what_others_remove_is_put_back_by_the_check() {
    let fabric = Fabric::new();
    let (mut a, mut b, mut c) = (fabric.node(0, 1), fabric.node(0, 2), fabric.node(1, 3));
    join(&mut [&mut a, &mut b, &mut c]);
    let (one, two, three) = (a.pod("one").serve(), b.pod("two").serve(), c.pod("three").serve());
    assert_eq!(a.network.verify_peers().unwrap().added, 0, "nothing to repair");
    // The cable is pulled and put back: the kernel has dropped the routes over it.
    let mut rtnetlink = Rtnetlink::open_in(&a.namespace).unwrap();
    let eth0 = rtnetlink.index_of("eth0").unwrap();
    let mut batch = RouteBatch::new();
    batch.set_down(eth0);
    batch.set_up(eth0);
    batch.add_address(eth0, a.options.node_addresses[1], 64);
    for (to, gateway) in [("0.0.0.0/0", "192.0.2.254"), ("::/0", "2001:db8:0:a::fe")] {
        batch.add_route(&Route {
            destination: prefix(to),
            gateway: Some(ip(gateway)),
            interface: None,
            source: None,
            on_link: false,
        });
    }
    batch.send(rtnetlink.socket()).unwrap();
    assert!(ask(&one.namespace, two.ip(), 8080).is_err());
    assert_eq!(a.network.verify_peers().unwrap().problems, []);
    eventually("the way is back", || ask(&one.namespace, two.ip(), 8080).is_ok());
    eventually("the way is back in IPv6", || ask(&one.namespace, two.ip6(), 8080).is_ok());
    assert_connected(&one, &two);
    // Somebody loads rules of his own and flushes all others first.
    let mut nft = Nft::open_in(&a.namespace).unwrap();
    let mut batch = NftBatch::new();
    batch.delete_table(Family::Ip, TUNNEL_TABLE);
    batch.commit(nft.socket()).unwrap();
    a.network.verify_peers().unwrap();
    assert!(nft.tables().unwrap().iter().any(|table| table.name == TUNNEL_TABLE));
    assert_connected(&one, &three);
    // Somebody deletes the tunnel.
    let mut batch = RouteBatch::new();
    batch.delete_link(TUNNEL);
    batch.send(rtnetlink.socket()).unwrap();
    assert!(ask(&one.namespace, three.ip(), 8080).is_err());
    assert_eq!(a.network.verify_peers().unwrap().problems, []);
    assert_connected(&one, &three);
}

#[test]
fn wrong_peers_are_told_and_the_others_are_reached() {
    let fabric = Fabric::new();
    let (mut a, mut b) = (fabric.node(0, 1), fabric.node(0, 2));
    b.network.set_peers(&[a.peer()]).unwrap();
    let (one, two) = (a.pod("one").serve(), b.pod("two").serve());
    let peer = |name: &str, address: &str, range: &str| Peer {
        name: name.to_owned(),
        addresses: vec![ip(address)],
        pod_ranges: vec![prefix(range)],
        encryption_key: None,
        since_s: 0,
    };
    let wrong = [
        peer("thief", "192.0.2.50", "10.42.2.0/25"),
        peer("mirror", "192.0.2.1", "10.42.51.0/24"),
        peer("stranger", "192.0.2.52", "10.99.0.0/24"),
        peer("greedy", "192.0.2.53", "10.0.0.0/8"),
        peer("here", "192.0.2.54", "10.42.1.0/24"),
    ];
    let mut peers = vec![b.peer(), b.peer(), peer("node2", "192.0.2.2", "10.42.2.0/24")];
    peers.splice(0..0, wrong);
    peers.push(b.peer());
    let report = a.network.set_peers(&peers).unwrap();
    let told: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    for (name, text) in [
        ("thief", "overlaps 10.42.2.0/24 of node node2, which keeps it"),
        ("mirror", "192.0.2.1 is this node's own"),
        ("stranger", "10.99.0.0/24 is not within the cluster's"),
        ("greedy", "10.0.0.0/8 is not within"),
        ("here", "overlaps this node's own, 10.42.1.0/24"),
        ("node2", "listed twice"),
    ] {
        assert!(told.iter().any(|line| line.starts_with(&format!("node {name}: ")) && line.contains(text)), "{told:?}");
    }
    assert_eq!(told.len(), 6);
    assert_connected(&one, &two);
}

#[test]
fn who_was_there_first_keeps_a_range_whatever_its_name() {
    let fabric = Fabric::new();
    let (mut a, mut b) = (fabric.node(0, 1), fabric.node(0, 2));
    b.network.set_peers(&[a.peer()]).unwrap();
    let (one, two) = (a.pod("one").serve(), b.pod("two").serve());
    let first = Peer { since_s: 1000, ..b.peer() };
    a.network.set_peers(std::slice::from_ref(&first)).unwrap();
    // The later one's name is before the other's, its range is within the other's, and it has its address as well.
    let later = Peer { name: "a".to_owned(), pod_ranges: vec![prefix("10.42.2.0/25")], since_s: 1001, ..b.peer() };
    let told = |report: klynge_network::pod_net::PeersReport| -> Vec<String> {
        report.problems.iter().map(ToString::to_string).filter(|line| line.contains("overlaps")).collect()
    };
    let added = a.network.change_peers([("a".to_owned(), Some(later))]).unwrap();
    assert!(added.problems.iter().any(|problem| problem.to_string().contains("node a has the same address 192.0.2.2")));
    let lines = told(added);
    assert!(lines.len() == 1 && lines[0].starts_with("node a: "), "{lines:?}");
    assert!(lines[0].contains("overlaps 10.42.2.0/24 of node node2, which keeps it"), "{lines:?}");
    assert_connected(&one, &two);
    // Nothing is left of it when it is gone.
    assert_eq!(a.network.change_peers([("a".to_owned(), None)]).unwrap().problems, []);
    assert_connected(&one, &two);
}

#[test]
fn strict_reverse_path_filters_and_closed_firewalls_are_lived_with() {
    let fabric = Fabric::new();
    let (mut a, mut b, mut c) = (fabric.node(0, 1), fabric.node(0, 2), fabric.node(1, 3));
    for node in [&a, &b, &c] {
        node.namespace.write_sysctl("net/ipv4/conf/all/rp_filter", "1").unwrap();
        node.namespace.write_sysctl("net/ipv4/conf/default/rp_filter", "1").unwrap();
        node.close_firewall();
    }
    join(&mut [&mut a, &mut b, &mut c]);
    let (one, two, three) = (a.pod("one").serve(), b.pod("two").serve(), c.pod("three").serve());
    assert!(ask(&one.namespace, three.ip(), 8080).is_err(), "the firewalls are closed");
    let admission = Admission { open_ports: Vec::new(), cluster_ranges: a.options.cluster_ranges.clone() };
    for node in [&a, &b, &c] {
        let mut nft = Nft::open_in(&node.namespace).unwrap();
        assert_eq!(admit(&mut nft, &admission).unwrap().admitted.len(), 4);
        assert_eq!(admit(&mut nft, &admission).unwrap().admitted.len(), 0, "nothing to do a second time");
    }
    assert_connected(&one, &two);
    assert_connected(&one, &three);
    let mut nft = Nft::open_in(&a.namespace).unwrap();
    withdraw_admission(&mut nft).unwrap();
    assert!(ask(&one.namespace, three.ip(), 8080).is_err());
}

#[test]
fn a_tunnel_that_cannot_be_made_is_told_and_direct_peers_are_reached() {
    let fabric = Fabric::new();
    let (mut a, mut b, mut c) = (fabric.node(0, 1), fabric.node(0, 2), fabric.node(1, 3));
    let peers = [b.peer(), c.peer()];
    b.network.set_peers(&[a.peer()]).unwrap();
    c.network.set_peers(&[a.peer()]).unwrap();
    let (one, two, three) = (a.pod("one").serve(), b.pod("two").serve(), c.pod("three").serve());
    let mut rtnetlink = Rtnetlink::open_in(&a.namespace).unwrap();
    let foreign = VxlanInfo { identifier: TUNNEL_IDENTIFIER, port: TUNNEL_PORT, local: a.ip(), is_learning: true };
    for (name, text) in
        [(TUNNEL, "is no VXLAN interface; remove it"), ("foreign", "another interface uses UDP port 8477")]
    {
        let mut batch = RouteBatch::new();
        if name == TUNNEL {
            batch.add_bridge(name);
        } else {
            batch.add_vxlan(name, [2, 0, 0, 4, 0, 1], 1450, &foreign);
        }
        batch.send(rtnetlink.socket()).unwrap();
        for _ in 0..2 {
            let report = a.network.set_peers(&peers).unwrap();
            assert_eq!(report.problems.len(), 1);
            assert!(report.problems[0].text.contains(text), "{}", report.problems[0]);
        }
        assert_connected(&one, &two);
        assert!(ask(&one.namespace, three.ip(), 8080).is_err());
        let mut batch = RouteBatch::new();
        batch.delete_link(name);
        batch.send(rtnetlink.socket()).unwrap();
    }
    assert_eq!(a.network.set_peers(&peers).unwrap().problems, []);
    assert_connected(&one, &three);
    // A tunnel of ours with other parameters, as an earlier version might leave it, is made anew.
    let mut batch = RouteBatch::new();
    batch.delete_link(TUNNEL);
    batch.add_vxlan(TUNNEL, [2, 0, 0, 4, 0, 1], 1400, &VxlanInfo { port: 9999, ..foreign });
    batch.send(rtnetlink.socket()).unwrap();
    a.network.change_peers([]).unwrap();
    assert_connected(&one, &three);
}

#[test]
fn packets_may_come_by_another_interface_than_they_go() {
    let fabric = Fabric::new();
    let (mut a, mut b) = (fabric.node(0, 1), fabric.node(0, 2));
    let mut rtnetlink = Rtnetlink::open_in(&a.namespace).unwrap();
    let mut batch = RouteBatch::new();
    batch.add_veth(&VethPair {
        name: "eth1",
        address: [2, 0, 0, 3, 0, 1],
        peer_name: "eth1",
        peer_address: [2, 0, 0, 3, 0, 2],
        peer_namespace: Some(&b.namespace),
        mtu_bytes: 1400,
    });
    batch.send(rtnetlink.socket()).unwrap();
    give_address(&mut rtnetlink, "eth1", &[("203.0.113.1", 24)]);
    give_address(&mut Rtnetlink::open_in(&b.namespace).unwrap(), "eth1", &[("203.0.113.2", 24)]);
    // Node 1 is known by its address on one network, node 2 by that on the other, and both filter strictly.
    b.options.node_addresses = vec![ip("203.0.113.2")];
    for node in [&mut a, &mut b] {
        node.namespace.write_sysctl("net/ipv4/conf/all/rp_filter", "1").unwrap();
        node.restart();
    }
    a.options.node_addresses.truncate(1);
    let four = |node: &bed::cluster::Node| Peer { pod_ranges: vec![node.pod_ranges[0]], ..node.peer() };
    assert_eq!(a.network.set_peers(&[four(&b)]).unwrap().mtu_bytes, 1400, "the smaller of two networks");
    b.network.set_peers(&[four(&a)]).unwrap();
    let (one, two) = (a.pod("one").serve(), b.pod("two").serve());
    assert_eq!(ask(&one.namespace, two.ip(), 8080).unwrap(), ("two".to_owned(), one.ip()));
    assert_eq!(ask(&two.namespace, one.ip(), 8080).unwrap(), ("one".to_owned(), two.ip()));
}

#[test]
fn only_peers_may_send_into_the_tunnel() {
    let fabric = Fabric::new();
    let (mut a, mut c) = (fabric.node(0, 1), fabric.node(1, 3));
    join(&mut [&mut a, &mut c]);
    let one = a.pod("one");
    let server = one.namespace.run(|| UdpSocket::bind("0.0.0.0:5353").unwrap()).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    // A stranger on the subnet builds packets as node 3 would.
    let (stranger, addresses) = fabric.machine(0, 66, Wire::Dual);
    let mut rtnetlink = Rtnetlink::open_in(&stranger).unwrap();
    let mut batch = RouteBatch::new();
    let vxlan = VxlanInfo { identifier: TUNNEL_IDENTIFIER, port: TUNNEL_PORT, local: addresses[0], is_learning: false };
    batch.add_vxlan("forged", [0x0e, 0x6b, 10, 42, 66, 0], 1450, &vxlan);
    batch.send(rtnetlink.socket()).unwrap();
    let forged = rtnetlink.index_of("forged").unwrap();
    let hardware = [0x0e, 0x6b, 10, 42, 1, 0];
    let mut batch = RouteBatch::new();
    batch.set_up(forged);
    batch.add_address(forged, ip("10.42.66.1"), 32);
    batch.add_forwarding(&Forwarding { interface: forged, link_address: hardware, destination: a.ip() });
    batch.add_neighbour(&Neighbour { interface: forged, address: ip("10.42.1.1"), link_address: hardware });
    batch.add_route(&Route {
        destination: prefix("10.42.1.0/24"),
        gateway: Some(ip("10.42.1.1")),
        interface: Some(forged),
        source: Some(ip("10.42.66.1")),
        on_link: true,
    });
    batch.send(rtnetlink.socket()).unwrap();
    let socket = stranger.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    socket.send_to(b"forged", (one.ip(), 5353)).unwrap();
    assert!(server.recv(&mut [0; 16]).is_err(), "a stranger's packet arrived");
    // The same packet from a peer arrives: it was its sender alone that kept it out.
    a.network.set_encapsulation(Encapsulation::Always);
    let peer = Peer {
        name: "node66".to_owned(),
        addresses,
        pod_ranges: vec![prefix("10.42.66.0/24")],
        encryption_key: None,
        since_s: 0,
    };
    a.network.change_peers([("node66".to_owned(), Some(peer))]).unwrap();
    eventually("a peer's packet arrives", || {
        socket.send_to(b"forged", (one.ip(), 5353)).unwrap();
        server.recv(&mut [0; 16]).is_ok()
    });
    a.network.change_peers([("node66".to_owned(), None)]).unwrap();
    while server.recv(&mut [0; 16]).is_ok() {}
    socket.send_to(b"forged", (one.ip(), 5353)).unwrap();
    assert!(server.recv(&mut [0; 16]).is_err(), "a former peer's packet arrived");
}

#[test]
fn purge_leaves_nothing_of_other_nodes() {
    let fabric = Fabric::new();
    let (mut a, mut b, mut c) = (fabric.node(0, 1), fabric.node(0, 2), fabric.node(1, 3));
    purge(&a.options, &[]).unwrap();
    a.namespace.write_sysctl("net/ipv4/conf/all/rp_filter", "0").unwrap();
    a.namespace.write_sysctl("net/ipv4/conf/eth0/rp_filter", "1").unwrap();
    let state = |namespace: &klynge_network::netlink::NetworkNamespace| {
        let mut rtnetlink = Rtnetlink::open_in(namespace).unwrap();
        let links: Vec<_> = rtnetlink.links().unwrap().into_iter().map(|link| link.name).collect();
        let routes: Vec<_> = rtnetlink
            .routes()
            .unwrap()
            .into_iter()
            .filter(|route| route.protocol == 114 && route.destination.length() > 0)
            .collect();
        let addresses: Vec<IpAddr> = rtnetlink.addresses().unwrap().into_iter().map(|one| one.address).collect();
        let tables = Nft::open_in(namespace).unwrap().tables().unwrap();
        let strictness =
            namespace.run(|| std::fs::read_to_string("/proc/sys/net/ipv4/conf/eth0/rp_filter").unwrap()).unwrap();
        (links, routes, rtnetlink.unreachable_ranges().unwrap(), addresses, tables, strictness)
    };
    let before = state(&a.namespace);
    assert!(before.1.is_empty() && before.2.is_empty() && before.5 == "1\n");
    a.restart();
    join(&mut [&mut a, &mut b, &mut c]);
    let during = state(&a.namespace);
    assert!(during.1.len() >= 4 && during.2.len() == 2 && during.5 == "2\n");
    let options = a.options.clone();
    purge(&options, &[]).unwrap();
    purge(&options, &[]).unwrap();
    assert_eq!(state(&options.namespace), before);
    // And from there everything comes back.
    a.restart();
    join(&mut [&mut a, &mut b, &mut c]);
    let (one, three) = (a.pod("one").serve(), c.pod("three").serve());
    assert_connected(&one, &three);
}

#[test]
fn one_changed_peer_among_thousands_costs_what_it_costs_among_few() {
    let fabric = Fabric::new();
    let a = fabric.node(0, 1);
    let mut options = a.options.clone();
    options.cluster_ranges.push(prefix("10.128.0.0/9"));
    let mut network = PodNetwork::open(options).unwrap();
    let peers: Vec<Peer> = (0..5000_u32)
        .map(|number| {
            let [_, _, high, low] = number.to_be_bytes();
            // Half of them are on our subnet's far side, half behind the router.
            let address =
                if number % 2 == 0 { format!("198.18.{high}.{low}") } else { format!("192.0.2.{}", 3 + low % 200) };
            Peer {
                name: format!("peer{number}"),
                addresses: vec![ip(&address)],
                pod_ranges: vec![prefix(&format!("10.{}.{low}.0/24", 128 + u32::from(high)))],
                encryption_key: None,
                since_s: 0,
            }
        })
        .collect();
    let report = network.set_peers(&peers).unwrap();
    assert_eq!((report.direct_ranges, report.tunnelled_ranges), (2500, 2500));
    for number in 0..100_usize {
        let mut moved = peers[number * 2].clone();
        moved.addresses = vec![ip(&format!("198.19.0.{number}"))];
        let report = network.change_peers([(moved.name.clone(), Some(moved))]).unwrap();
        assert_eq!((report.added, report.removed), (2, 1), "a way and a sender, and the former sender");
    }
    assert_eq!(network.verify_peers().unwrap().added, 0);
    assert_eq!(network.set_peers(&[]).unwrap().tunnelled_ranges, 0);
    assert_eq!(a.kernel().1, [""; 0]);
}
