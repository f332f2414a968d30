//! Limits on what pods send and receive, measured with packets between namespaces.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bed;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bed::{Bed, OUTSIDE, ask, eventually, ip, options, serve_tcp};
use klynge_network::netlink::{NetworkNamespace, RouteBatch, Rtnetlink};
use klynge_network::pod_net::{Bandwidth, PodAttachment, PodNetwork, purge};

/// What is sent in one measurement.
const BYTES: usize = 3_000_000;
/// What a bucket for [`RATE`] lets pass at once, and as much waits.
const BURST_BYTES: f64 = 50_000.0;
/// Bits per second.
const RATE: u64 = 8_000_000;

/// Sends so many bytes from one namespace to another, and returns the bits per second at which all but the burst arrived.
fn bits_per_second(from: &NetworkNamespace, to: &NetworkNamespace, address: IpAddr, port: u16, bytes: usize) -> f64 {
    let listener = to.run(|| TcpListener::bind(("::", port)).unwrap()).unwrap();
    let sender = from.run(|| TcpStream::connect_timeout(&SocketAddr::new(address, port), bed::TIMEOUT)).unwrap();
    let mut sender = sender.unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let writing = std::thread::spawn(move || sender.write_all(&vec![7; bytes]));
    let begun = Instant::now();
    let mut buffer = vec![0; 64 * 1024];
    let mut received = 0;
    while received < bytes {
        received += receiver.read(&mut buffer).unwrap();
    }
    let seconds = begun.elapsed().as_secs_f64();
    writing.join().unwrap().unwrap();
    (f64::from(u32::try_from(bytes).unwrap()) - BURST_BYTES) * 8.0 / seconds
}

fn assert_near(measured: f64, wanted: u64, what: &str) {
    let ratio = measured / f64::from(u32::try_from(wanted).unwrap());
    assert!((0.75..1.25).contains(&ratio), "{what}: {measured:.0} bits per second where {wanted} were wanted");
}

fn blocks(host: &NetworkNamespace) -> usize {
    let links = Rtnetlink::open_in(host).unwrap().links().unwrap();
    links.iter().filter(|link| link.kind == "ifb").count()
}

#[test]
fn a_pod_sends_and_receives_at_its_rates_in_both_families() {
    let mut bed = Bed::new();
    let (slow, free) = (bed.pod("slow"), bed.pod("free"));
    let unlimited = bits_per_second(&slow.namespace, &free.namespace, free.ip(), 7000, BYTES);
    assert!(unlimited > 20.0 * 8_000_000.0, "without limits the machine does {unlimited:.0} bits per second");
    let both = Bandwidth { ingress_bits_per_second: Some(2 * RATE), egress_bits_per_second: Some(RATE) };
    bed.network.limit("slow", both).unwrap();
    for (family, to_free, to_slow) in [("IPv4", free.ip(), slow.ip()), ("IPv6", free.ip6(), slow.ip6())] {
        let sent = bits_per_second(&slow.namespace, &free.namespace, to_free, 7001, BYTES);
        assert_near(sent, RATE, &format!("sent over {family}"));
        let received = bits_per_second(&free.namespace, &slow.namespace, to_slow, 7002, BYTES);
        assert_near(received, 2 * RATE, &format!("received over {family}"));
    }
    // Rules see the interface and address that they know: the pod leaves the host with the node's address.
    serve_tcp(&bed.outside, "[::]", 9000, "outside");
    assert_eq!(ask(&slow.namespace, ip(OUTSIDE), 9000).unwrap(), ("outside".to_owned(), ip(bed::HOST)));
    // A new rate replaces the old one, twice is as once.
    for _ in 0..2 {
        let faster = Bandwidth { ingress_bits_per_second: None, egress_bits_per_second: Some(4 * RATE) };
        bed.network.limit("slow", faster).unwrap();
    }
    let sent = bits_per_second(&slow.namespace, &free.namespace, free.ip(), 7003, 4 * BYTES);
    assert_near(sent, 4 * RATE, "sent at the new rate");
    assert_eq!(blocks(&bed.host), 1);
}

#[test]
fn a_pod_cannot_undo_its_limits() {
    let mut bed = Bed::new();
    let (slow, free) = (bed.pod("slow"), bed.pod("free"));
    let limit = Bandwidth { ingress_bits_per_second: Some(RATE), egress_bits_per_second: Some(RATE) };
    bed.network.limit("slow", limit).unwrap();
    // What NET_ADMIN lets a pod do: queues of its own, its interface down and up.
    let mut inside = Rtnetlink::open_in(&slow.namespace).unwrap();
    let interface = inside.index_of("eth0").unwrap();
    let mut batch = RouteBatch::new();
    batch.add_ingress(interface);
    batch.delete_ingress(interface);
    batch.set_mtu(interface, 65_000);
    batch.send(inside.socket()).unwrap();
    let received = bits_per_second(&free.namespace, &slow.namespace, slow.ip(), 7001, BYTES);
    assert_near(received, RATE, "received");
    let mut batch = RouteBatch::new();
    batch.set_mtu(interface, 1500);
    batch.send(inside.socket()).unwrap();
    let sent = bits_per_second(&slow.namespace, &free.namespace, free.ip(), 7002, BYTES);
    assert_near(sent, RATE, "sent");
}

#[test]
fn limits_outlive_the_agent_and_go_with_their_pod() {
    let mut bed = Bed::new();
    let (slow, free, gone) = (bed.pod("slow"), bed.pod("free"), bed.pod("gone"));
    let limit = Bandwidth { ingress_bits_per_second: None, egress_bits_per_second: Some(RATE) };
    bed.network.limit("slow", limit).unwrap();
    bed.network.limit("gone", limit).unwrap();
    assert_eq!(blocks(&bed.host), 2);
    // Another agent, for which one pod ended while nobody looked: its interface went with its namespace.
    drop(gone);
    bed.network = PodNetwork::open(options(&bed.host, bed.directory.path())).unwrap();
    let live: Vec<PodAttachment> = [&slow, &free]
        .map(|pod| PodAttachment { uid: pod.uid.clone(), namespace: pod.namespace.clone(), host_ports: vec![] })
        .to_vec();
    bed.network.recover(&live).unwrap();
    assert_eq!(blocks(&bed.host), 1);
    assert_near(bits_per_second(&slow.namespace, &free.namespace, free.ip(), 7001, BYTES), RATE, "after a restart");
    // The same pod comes back at once with another interface: not slowed down by what is left of the first.
    bed.network.detach("slow").unwrap();
    let again = NetworkNamespace::create().unwrap();
    let attachment = PodAttachment { uid: "slow".to_owned(), namespace: again.clone(), host_ports: vec![] };
    bed.network.attach(&attachment).unwrap();
    bed.network.limit("slow", limit).unwrap();
    assert_near(bits_per_second(&again, &free.namespace, free.ip(), 7002, BYTES), RATE, "attached again");
    bed.network.detach("slow").unwrap();
    eventually("the second interface is gone", || blocks(&bed.host) == 0);
    bed.network.attach(&attachment).unwrap();
    let free_again = bits_per_second(&again, &free.namespace, free.ip(), 7003, BYTES);
    assert!(free_again > 20.0 * 8_000_000.0, "the limit went with the pod: {free_again:.0}");
    bed.network.limit("slow", limit).unwrap();
    purge(&options(&bed.host, bed.directory.path()), &[]).unwrap();
    assert_eq!(blocks(&bed.host), 0);
}
