//! Packets between nodes encrypted with the kernel's WireGuard. Each test is skipped, and says so, where the kernel has none;
//! `tests/guest/encryption` runs them in a machine whose kernel has it.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod bed;

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bed::cluster::{Fabric, Node, assert_carries, assert_connected};
use bed::{ask, connect, eventually, greeting, prefix};
use klynge_network::netlink::{NetworkNamespace, PublicKey, Route, RouteBatch, Rtnetlink};
use klynge_network::pod_net::{ENCRYPTION_TABLE, Peer, PeersReport, PrivateKey, purge};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socket_with, sockopt};

const INTERFACE: &str = "klynge-wg";

fn has_wireguard() -> bool {
    let namespace = NetworkNamespace::create().unwrap();
    let mut batch = RouteBatch::new();
    batch.add_wireguard("test", 1420);
    let has = batch.send(Rtnetlink::open_in(&namespace).unwrap().socket()).is_ok();
    if !has {
        eprintln!("skipped: this kernel has no WireGuard");
    }
    has
}

fn encrypt(node: &mut Node, name: &str) -> PublicKey {
    let key = PrivateKey::load_or_make(&node.options.directory.as_ref().unwrap().join(name)).unwrap();
    node.network.encrypt(key).unwrap()
}

/// Makes all each other's peers, with these keys, and returns what each said.
fn join(nodes: &mut [(&mut Node, Option<PublicKey>)]) -> Vec<PeersReport> {
    let peers: Vec<Peer> = nodes.iter().map(|(node, key)| Peer { encryption_key: *key, ..node.peer() }).collect();
    let others = |own: usize| peers.iter().enumerate().filter(move |(other, _)| *other != own);
    let set = |(own, (node, _)): (usize, &mut (&mut Node, Option<PublicKey>))| {
        let others: Vec<Peer> = others(own).map(|(_, peer)| peer.clone()).collect();
        node.network.set_peers(&others).unwrap()
    };
    nodes.iter_mut().enumerate().map(set).collect()
}

/// Counts what passes an interface with these bytes in it, and all that passes to or from the port of the encryption.
struct Ear {
    stop: Arc<AtomicBool>,
    marked: Arc<AtomicUsize>,
    encrypted: Arc<AtomicUsize>,
}

impl Ear {
    fn new(namespace: &NetworkNamespace, mark: &'static [u8]) -> Self {
        let all = u32::from(3_u16.to_be()); // ETH_P_ALL
        let protocol = rustix::net::Protocol::from_raw(std::num::NonZeroU32::new(all).unwrap());
        let open =
            || socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol)).unwrap();
        let socket = namespace.run(open).unwrap();
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_millis(100))).unwrap();
        let ear = Self { stop: Arc::default(), marked: Arc::default(), encrypted: Arc::default() };
        let (stop, marked, encrypted) = (Arc::clone(&ear.stop), Arc::clone(&ear.marked), Arc::clone(&ear.encrypted));
        std::thread::spawn(move || {
            let mut buffer = vec![0; 70_000];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, _)) = recv(&socket, &mut buffer[..], RecvFlags::empty()) else { continue };
                let frame = &buffer[..length];
                if frame.windows(mark.len()).any(|window| window == mark) {
                    marked.fetch_add(1, Ordering::Relaxed);
                }
                // Ethernet, IPv4 without options, UDP: the ports are at 34 and 36.
                if frame.len() > 42
                    && frame[12..14] == [8, 0]
                    && frame[23] == 17
                    && frame[36..38] == 8478_u16.to_be_bytes()
                {
                    encrypted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        ear
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn nothing_between_nodes_can_be_read_on_the_way() {
    if !has_wireguard() {
        return;
    }
    let fabric = Fabric::new();
    let (mut a, mut b, mut c) = (fabric.node(0, 1), fabric.node(0, 2), fabric.node(1, 3));
    let ear = Ear::new(&fabric.router, b"in plain words");
    // First without, so that the ear is known to hear.
    join(&mut [(&mut a, None), (&mut b, None), (&mut c, None)]);
    let (one, two, three) = (a.pod("one").serve(), b.pod("two").serve(), c.pod("three").serve());
    let talk = |to: std::net::IpAddr| {
        let socket = one.namespace.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
        for _ in 0..10 {
            socket.send_to(b"in plain words", (to, 5353)).unwrap();
        }
    };
    talk(two.ip());
    talk(three.ip());
    eventually("plain words are heard", || ear.marked.load(Ordering::Relaxed) > 10);
    let keys = [encrypt(&mut a, "key"), encrypt(&mut b, "key"), encrypt(&mut c, "key")].map(Some);
    let reports = join(&mut [(&mut a, keys[0]), (&mut b, keys[1]), (&mut c, keys[2])]);
    for report in &reports {
        assert_eq!(report.problems, []);
        assert_eq!((report.direct_ranges, report.tunnelled_ranges, report.encrypted_ranges), (0, 0, 4));
        assert_eq!(report.mtu_bytes, 1420);
    }
    assert!(!a.has_interface("klynge-vx"), "the tunnel in plain is gone");
    std::thread::sleep(Duration::from_millis(300)); // what was on its way in plain has passed
    let (marked, encrypted) = (ear.marked.load(Ordering::Relaxed), ear.encrypted.load(Ordering::Relaxed));
    assert_connected(&one, &two);
    assert_connected(&one, &three);
    assert_carries(&one.namespace, three.ip(), 1 << 20);
    talk(two.ip());
    talk(three.ip());
    // A node itself reaches pods of others, from its end of the encryption.
    assert_eq!(ask(&a.namespace, three.ip(), 8080).unwrap().1, "10.42.1.1".parse::<std::net::IpAddr>().unwrap());
    assert!(ear.encrypted.load(Ordering::Relaxed) > encrypted + 100);
    assert_eq!(ear.marked.load(Ordering::Relaxed), marked, "a word was heard");
    let again = join(&mut [(&mut a, keys[0]), (&mut b, keys[1]), (&mut c, keys[2])]);
    assert!(again.iter().all(|report| (report.added, report.removed) == (0, 0)), "{again:?}");
    for node in [&mut a, &mut b, &mut c] {
        let report = node.network.verify_peers().unwrap();
        assert_eq!((report.added, report.removed), (0, 0), "{}", node.name);
    }
}

#[test]
fn nodes_without_a_key_and_plain_packets_stay_outside() {
    if !has_wireguard() {
        return;
    }
    let fabric = Fabric::new();
    let (mut a, mut b, mut c) = (fabric.node(0, 1), fabric.node(0, 2), fabric.node(0, 3));
    let (one, two, three) = (a.pod("one").serve(), b.pod("two").serve(), c.pod("three").serve());
    let keys = [Some(encrypt(&mut a, "key")), Some(encrypt(&mut b, "key")), None];
    let reports = join(&mut [(&mut a, keys[0]), (&mut b, keys[1]), (&mut c, keys[2])]);
    assert_eq!(reports[0].problems.len(), 1);
    assert!(reports[0].problems[0].to_string().starts_with("node node3: it has no key"));
    assert_connected(&one, &two);
    assert!(connect(&one.namespace, three.ip(), 8080).is_err());
    assert!(connect(&three.namespace, one.ip(), 8080).is_err());
    // Somebody on the wire who pretends to be a pod: it is not heard.
    let (stranger, _) = fabric.machine(0, 9, bed::cluster::Wire::Dual);
    let mut rtnetlink = Rtnetlink::open_in(&stranger).unwrap();
    let eth0 = rtnetlink.index_of("eth0").unwrap();
    let mut batch = RouteBatch::new();
    batch.add_address(eth0, "10.42.2.77".parse().unwrap(), 32);
    batch.add_route(&Route {
        destination: prefix("10.42.1.0/24"),
        gateway: Some(a.ip()),
        interface: Some(eth0),
        source: Some("10.42.2.77".parse().unwrap()),
        on_link: false,
    });
    batch.send(rtnetlink.socket()).unwrap();
    let heard = one.namespace.run(|| UdpSocket::bind("0.0.0.0:7000").unwrap()).unwrap();
    heard.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let send = |from: &NetworkNamespace, address: &str| {
        let socket = from.run(|| UdpSocket::bind((address, 0)).unwrap()).unwrap();
        socket.send_to(b"psst", (one.ip(), 7000)).unwrap();
    };
    send(&stranger, "10.42.2.77");
    let mut buffer = [0; 16];
    assert!(heard.recv_from(&mut buffer).is_err(), "a stranger was heard as a pod");
    send(&two.namespace, "0.0.0.0");
    assert_eq!(heard.recv_from(&mut buffer).unwrap().1.ip(), two.ip());
}

#[test]
fn agents_come_and_go_keys_change_and_encryption_ends() {
    if !has_wireguard() {
        return;
    }
    let fabric = Fabric::new();
    let (mut a, mut b) = (fabric.node(0, 1), fabric.node(1, 2));
    let (one, two) = (a.pod("one").serve(), b.pod("two").serve());
    let (first, other) = (encrypt(&mut a, "key"), encrypt(&mut b, "key"));
    join(&mut [(&mut a, Some(first)), (&mut b, Some(other))]);
    let mut stream = connect(&one.namespace, two.ip(), 8080).unwrap();
    a.restart();
    a.recover(&[&one]);
    assert_connected(&one, &two);
    assert_eq!(encrypt(&mut a, "key"), first, "the key is kept");
    assert_eq!(a.network.mtu_bytes(), 1420, "also for pods that come before the peers are known again");
    let report = join(&mut [(&mut a, Some(first)), (&mut b, Some(other))]).remove(0);
    assert_eq!((report.added, report.removed, report.encrypted_ranges), (0, 0, 2));
    assert_eq!(greeting(&mut stream).unwrap().0, "two", "the connection went on");
    // A new key.
    let second = encrypt(&mut a, "another-key");
    assert_ne!(second, first);
    join(&mut [(&mut a, Some(second)), (&mut b, Some(other))]);
    assert_connected(&one, &two);
    // Others removed the interface: it comes back.
    let mut batch = RouteBatch::new();
    batch.delete_link(INTERFACE);
    batch.send(Rtnetlink::open_in(&a.namespace).unwrap().socket()).unwrap();
    a.network.verify_peers().unwrap();
    assert_connected(&one, &two);
    // Without the switch all of it goes.
    for (node, pod) in [(&mut a, &one), (&mut b, &two)] {
        node.restart();
        node.recover(&[pod]);
    }
    join(&mut [(&mut a, None), (&mut b, None)]);
    assert!(!a.has_interface(INTERFACE) && a.has_interface("klynge-vx"));
    assert_connected(&one, &two);
    encrypt(&mut a, "key");
    purge(&a.options, &[]).unwrap();
    assert!(!a.has_interface(INTERFACE));
    let tables = klynge_network::netlink::Nft::open_in(&a.namespace).unwrap().tables().unwrap();
    assert!(tables.iter().all(|table| table.name != ENCRYPTION_TABLE));
}
