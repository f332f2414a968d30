//! The pod network, proven by packets between namespaces.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bed;

use std::net::IpAddr;

use bed::{Bed, HOST, OUTSIDE, ask, eventually, ip, options, serve_tcp};
use klynge_network::netlink::{
    ChainSpec, Expressions, Family, Hook, NetworkNamespace, Nft, NftBatch, RouteBatch, Rtnetlink, Verdict,
};
use klynge_network::pod_net::{
    Error, HostPort, OpenPort, PodAttachment, PodNetwork, admit_pods, purge, withdraw_admission,
};
use klynge_network::services::TransportProtocol;

#[test]
fn pods_reach_each_other_and_the_host_with_their_own_addresses() {
    let mut bed = Bed::new();
    let (a, b) = (bed.pod("a"), bed.pod("b"));
    b.serve_tcp(8080);
    serve_tcp(&bed.host, "[::]", 9000, "host");
    assert_eq!(ask(&a.namespace, b.ip(), 8080).unwrap(), ("b".to_owned(), a.ip()));
    assert_eq!(ask(&a.namespace, b.ip6(), 8080).unwrap(), ("b".to_owned(), a.ip6()));
    assert_eq!(
        ask(&a.namespace, ip(HOST), 9000).unwrap(),
        ("host".to_owned(), a.ip()),
        "the host sees the pod's address"
    );
    assert_eq!(ask(&bed.host, b.ip(), 8080).unwrap(), ("b".to_owned(), ip(HOST)), "the pod sees the node's address");
    assert_eq!(ask(&bed.host, b.ip6(), 8080).unwrap(), ("b".to_owned(), ip("2001:db8::1")));
}

#[test]
fn what_leaves_the_cluster_carries_the_nodes_address() {
    let mut bed = Bed::new();
    let a = bed.pod("a");
    serve_tcp(&bed.outside, "[::]", 9000, "outside");
    assert_eq!(ask(&a.namespace, ip(OUTSIDE), 9000).unwrap(), ("outside".to_owned(), ip(HOST)));
    eventually("IPv6 to the outside", || {
        ask(&a.namespace, ip("2001:db8::2"), 9000).is_ok_and(|(_, seen)| seen == ip("2001:db8::1"))
    });
}

#[test]
fn attaching_again_changes_nothing_and_detaching_twice_is_fine() {
    let mut bed = Bed::new();
    let (a, b) = (bed.pod("a"), bed.pod("b"));
    b.serve_tcp(8080);
    let mut stream = bed::connect(&a.namespace, b.ip(), 8080).unwrap();
    let again = PodAttachment { uid: "a".to_owned(), namespace: a.namespace.clone(), host_ports: vec![] };
    assert_eq!(bed.network.attach(&again).unwrap().addresses, a.addresses);
    assert_eq!(bed::greeting(&mut stream).unwrap().0, "b", "the connection survived");
    bed.network.detach("a").unwrap();
    bed.network.detach("a").unwrap();
    assert!(ask(&b.namespace, a.ip(), 1).is_err());
    // The same pod may come back at once, before its old interface is gone, and keeps what it then has.
    let back = NetworkNamespace::create().unwrap();
    let attachment = PodAttachment { uid: "a".to_owned(), namespace: back.clone(), host_ports: vec![] };
    bed.network.attach(&attachment).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(600));
    assert_eq!(ask(&back, b.ip(), 8080).unwrap().0, "b");
    bed.network.detach("a").unwrap();
    let mut rtnetlink = Rtnetlink::open_in(&bed.host).unwrap();
    eventually("the interface is gone", || rtnetlink.links().unwrap().iter().all(|link| link.name != a.interface));
}

#[test]
fn a_restarted_agent_keeps_live_pods_and_removes_the_rest() {
    let mut bed = Bed::new();
    let (a, b, gone) = (bed.pod("a"), bed.pod("b"), bed.pod("gone"));
    b.serve_tcp(8080);
    let before = options(&bed.host, bed.directory.path());
    std::fs::remove_file(bed.directory.path().join("addresses.json")).unwrap();
    bed.network = PodNetwork::open(before).unwrap();
    let live: Vec<PodAttachment> = [&a, &b]
        .map(|pod| PodAttachment { uid: pod.uid.clone(), namespace: pod.namespace.clone(), host_ports: vec![] })
        .to_vec();
    assert_eq!(bed.network.recover(&live).unwrap(), [gone.interface]);
    assert_eq!(bed.network.addresses_of("a").unwrap(), a.addresses, "learnt from the interfaces alone");
    assert_eq!(ask(&a.namespace, b.ip(), 8080).unwrap().0, "b");
    let next = bed.pod("next");
    assert!(![a.ip(), b.ip()].contains(&next.ip()));
}

#[test]
fn host_ports_lead_to_their_pod_and_are_given_once() {
    let mut bed = Bed::new();
    let port = HostPort { protocol: TransportProtocol::Tcp, host_ip: None, host_port: 8081, container_port: 80 };
    let a = bed.pod_with("a", vec![port.clone()]);
    a.serve_tcp(80);
    assert_eq!(
        ask(&bed.outside, ip(HOST), 8081).unwrap(),
        ("a".to_owned(), ip(OUTSIDE)),
        "the client's address is kept"
    );
    assert_eq!(ask(&bed.host, ip(HOST), 8081).unwrap().0, "a");
    assert_eq!(ask(&a.namespace, ip(HOST), 8081).unwrap().0, "a", "a pod reaches itself");
    let taken =
        PodAttachment { uid: "b".to_owned(), namespace: NetworkNamespace::create().unwrap(), host_ports: vec![port] };
    assert!(matches!(bed.network.attach(&taken), Err(Error::HostPortTaken { port: 8081, .. })));
    assert_eq!(bed.network.addresses_of("b"), None);
    bed.network.detach("a").unwrap();
    assert!(ask(&bed.outside, ip(HOST), 8081).is_err());
    bed.network.attach(&taken).unwrap();
}

#[test]
fn host_ports_answer_on_loopback_which_stays_closed_to_pods() {
    let mut bed = Bed::new();
    let port =
        |host_ip, host_port| HostPort { protocol: TransportProtocol::Tcp, host_ip, host_port, container_port: 80 };
    let loopback = ip("127.0.0.1");
    let a = bed.pod_with("a", vec![port(Some(loopback), 8081), port(None, 8082)]);
    a.serve_tcp(80);
    for (asked, number) in [(loopback, 8081), (loopback, 8082), (ip("127.1.2.3"), 8082), (ip(HOST), 8082)] {
        assert_eq!(ask(&bed.host, asked, number).unwrap(), ("a".to_owned(), ip(HOST)), "{asked}:{number}");
    }
    assert!(ask(&bed.host, ip(HOST), 8081).is_err(), "only on loopback");
    assert!(ask(&bed.outside, ip(HOST), 8081).is_err());
    // What the host itself serves on loopback: a pod that takes its own loopback away leads such packets to its interface.
    serve_tcp(&bed.host, "127.0.0.1", 9001, "host");
    assert_eq!(ask(&bed.host, loopback, 9001).unwrap().0, "host");
    a.namespace
        .run(|| {
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
            let mut rtnetlink = Rtnetlink::open().unwrap();
            let mut batch = RouteBatch::new();
            batch.delete_address(rtnetlink.index_of("lo").unwrap(), loopback, 8);
            batch.send(rtnetlink.socket()).unwrap();
        })
        .unwrap();
    for number in [8081, 8082, 9001] {
        assert!(ask(&a.namespace, loopback, number).is_err(), "a pod reaches the host's 127.0.0.1:{number}");
    }
    assert_eq!(ask(&bed.host, loopback, 8081).unwrap().0, "a");
}

#[test]
fn rules_that_others_remove_come_back() {
    let mut bed = Bed::new();
    let port = HostPort { protocol: TransportProtocol::Tcp, host_ip: None, host_port: 8081, container_port: 80 };
    let a = bed.pod_with("a", vec![port]);
    a.serve_tcp(80);
    serve_tcp(&bed.outside, "[::]", 9000, "outside");
    let mut nft = Nft::open_in(&bed.host).unwrap();
    assert!(!bed.network.verify_rules().unwrap());
    for damage in [
        |batch: &mut NftBatch| batch.delete_table(Family::Ip, "klynge-pods"),
        |batch: &mut NftBatch| batch.flush_chain(Family::Ip, "klynge-pods", "host-port"),
    ] {
        let mut batch = NftBatch::new();
        damage(&mut batch);
        batch.commit(nft.socket()).unwrap();
        assert!(ask(&bed.outside, ip(HOST), 8081).is_err());
        assert!(bed.network.verify_rules().unwrap());
        assert!(!bed.network.verify_rules().unwrap());
        assert_eq!(ask(&bed.outside, ip(HOST), 8081).unwrap().0, "a", "host ports are back");
        assert_eq!(ask(&a.namespace, ip(OUTSIDE), 9000).unwrap().1, ip(HOST), "masquerading is back");
    }
    let mut batch = NftBatch::new();
    batch.delete_table(Family::Ip, "klynge-pods");
    batch.commit(nft.socket()).unwrap();
    bed.network.detach("a").unwrap();
    assert!(!bed.network.verify_rules().unwrap(), "a pod that leaves repairs the rules as well");
}

#[test]
fn a_foreign_firewall_that_drops_is_opened_for_pods_only() {
    let mut bed = Bed::new();
    let (a, b) = (bed.pod("a"), bed.pod("b"));
    b.serve_tcp(8080);
    serve_tcp(&bed.host, "0.0.0.0", 6443, "api");
    serve_tcp(&bed.host, "0.0.0.0", 22, "private");
    let mut nft = Nft::open_in(&bed.host).unwrap();
    let mut batch = NftBatch::new();
    batch.add_table(Family::Ip, "filter");
    for (name, hook) in [("FORWARD", Hook::Forward), ("INPUT", Hook::Input)] {
        batch.add_chain(Family::Ip, "filter", &ChainSpec { name, base: Some((hook, "filter", 0)) });
        batch.add_rule(Family::Ip, "filter", name, &Expressions::new().verdict(Verdict::Drop));
    }
    batch.commit(nft.socket()).unwrap();
    assert!(ask(&a.namespace, b.ip(), 8080).is_err() && ask(&a.namespace, ip(HOST), 6443).is_err());
    let open = [OpenPort { protocol: TransportProtocol::Tcp, port: 6443 }];
    assert_eq!(admit_pods(&mut nft, &open).unwrap().admitted.len(), 2);
    assert_eq!(admit_pods(&mut nft, &open).unwrap().admitted, [""; 0], "nothing to do a second time");
    assert_eq!(ask(&a.namespace, b.ip(), 8080).unwrap().0, "b");
    assert_eq!(ask(&a.namespace, ip(HOST), 6443).unwrap().0, "api");
    assert_eq!(ask(&bed.host, b.ip(), 8080).unwrap().0, "b", "probes get their answers");
    assert!(ask(&a.namespace, ip(HOST), 22).is_err(), "other ports of the host stay the user's decision");
    withdraw_admission(&mut nft).unwrap();
    assert!(ask(&a.namespace, b.ip(), 8080).is_err());
}

#[test]
fn purge_leaves_the_host_as_it_was() {
    let host = NetworkNamespace::create().unwrap();
    let state = |host: &NetworkNamespace| {
        let mut rtnetlink = Rtnetlink::open_in(host).unwrap();
        let links: Vec<_> = rtnetlink.links().unwrap().into_iter().map(|link| link.name).collect();
        let routes = rtnetlink.routes().unwrap().into_iter().filter(|route| route.table == 254).count();
        let addresses: Vec<IpAddr> = rtnetlink
            .addresses()
            .unwrap()
            .into_iter()
            .filter(|one| !one.address.is_loopback())
            .map(|one| one.address)
            .collect();
        let tables = Nft::open_in(host).unwrap().tables().unwrap();
        let forward = host.run(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap()).unwrap();
        (links, routes, addresses, tables, forward)
    };
    let before = state(&host);
    let directory = tempfile::tempdir().unwrap();
    let mut options = options(&host, directory.path());
    options.node_addresses.clear();
    let mut network = PodNetwork::open(options.clone()).unwrap();
    network
        .attach(&PodAttachment {
            uid: "a".to_owned(),
            namespace: NetworkNamespace::create().unwrap(),
            host_ports: vec![],
        })
        .unwrap();
    network.set_local_address(ip("10.43.0.10"), true).unwrap();
    assert_ne!(state(&host), before);
    drop(network);
    purge(&options, &[ip("10.43.0.10")]).unwrap();
    purge(&options, &[ip("10.43.0.10")]).unwrap();
    assert_eq!(state(&host), before);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
