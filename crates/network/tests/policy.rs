//! Network policies, proven by packets between namespaces.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod bed;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpStream, UdpSocket};
use std::process::Command;

use bed::policies::{Policies, block, egress, ingress, named, of, own, rule, tcp, udp};
use bed::{Bed, HOST, OUTSIDE, Pod, ask_udp, ip, serve_tcp, udp_client};
use klynge_network::netlink::{Element, Family, NetworkNamespace, Nft, NftBatch};
use klynge_network::policy::{Change, TABLE, purge};

const PORT: u16 = 8080;

/// Whether a connection is made and answered. What policies deny is dropped, so the wait is short.
fn reaches(from: &NetworkNamespace, to: IpAddr, port: u16) -> bool {
    let attempt = || {
        let address = std::net::SocketAddr::new(to, port);
        let mut stream = TcpStream::connect_timeout(&address, std::time::Duration::from_millis(500))?;
        stream.set_read_timeout(Some(bed::TIMEOUT))?;
        bed::greeting(&mut stream)
    };
    from.run(|| attempt().is_ok()).unwrap()
}

fn reaches_udp(from: &NetworkNamespace, to: IpAddr, port: u16) -> bool {
    ask_udp(&udp_client(from), to, port).is_ok()
}

fn echoes(stream: &mut TcpStream, text: &[u8]) -> bool {
    let mut back = vec![0; text.len()];
    stream.write_all(text).is_ok() && stream.read_exact(&mut back).is_ok() && back == text
}

/// Whether an echo request is answered; always of the same identifier, so that conntrack takes all for one flow.
fn pings(from: &NetworkNamespace, to: IpAddr) -> bool {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket, sockopt};
    let open = || socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).unwrap();
    let raw = from.run(open).unwrap();
    sockopt::set_socket_timeout(&raw, sockopt::Timeout::Recv, Some(std::time::Duration::from_millis(500))).unwrap();
    // Type 8, identifier 7, sequence number 1, and the checksum of that.
    let request = [8, 0, 0xf7, 0xf7, 0, 7, 0, 1];
    sendto(&raw, &request, SendFlags::empty(), &std::net::SocketAddr::new(to, 0)).unwrap();
    let mut answer = [0; 128];
    // The IP header of 20 bytes comes first.
    recv(&raw, &mut answer[..], RecvFlags::empty()).is_ok() && answer[20] == 0 && answer[25] == 7
}

struct World {
    bed: Bed,
    policies: Policies,
    a: Pod,
    b: Pod,
    c: Pod,
}

/// Pods a and b in namespace default (a has role=client), c in other; all serve TCP 8080 and 81, UDP 5353.
fn world() -> World {
    let mut bed = Bed::new();
    let mut policies = Policies::new(&bed.host);
    let (a, b, c) = (bed.pod("a"), bed.pod("b"), bed.pod("c"));
    for (pod, namespace, more) in [(&a, "default", "role=client"), (&b, "default", ""), (&c, "other", "role=client")] {
        pod.serve_tcp(PORT);
        pod.serve_tcp(81);
        pod.serve_udp(5353);
        policies.attach(pod, namespace, more);
    }
    World { bed, policies, a, b, c }
}

impl World {
    /// Asserts who reaches b at 8080, in both families: a, c, the node, the outside.
    fn check(&self, what: &str, a: bool, c: bool, outside: bool) {
        for (name, from, expected) in
            [("a", &self.a.namespace, a), ("c", &self.c.namespace, c), ("outside", &self.bed.outside, outside)]
        {
            assert_eq!(reaches(from, self.b.ip(), PORT), expected, "{what}: {name} to b");
            assert_eq!(reaches(from, self.b.ip6(), PORT), expected, "{what}: {name} to b, IPv6");
        }
        assert!(reaches(&self.bed.host, self.b.ip(), PORT), "{what}: the node reaches its pods");
        assert!(reaches(&self.b.namespace, self.b.ip(), PORT), "{what}: b reaches itself");
    }
}

#[test]
fn ingress_by_pods_namespaces_and_blocks() {
    let mut world = world();
    world.check("without policies", true, true, true);
    world.policies.set("deny", ingress("name=b", vec![]));
    world.check("default-deny", false, false, false);
    world.policies.set("more", ingress("name=b", vec![rule(vec![own("role=client")], vec![])]));
    world.check("a pod of the same namespace", true, false, false);
    world.policies.set("more", ingress("name=b", vec![rule(vec![of("team=b", "")], vec![])]));
    world.check("a namespace", false, true, false);
    world.policies.set("more", ingress("name=b", vec![rule(vec![of("team", "role=client,name!=a")], vec![])]));
    world.check("a pod in namespaces", false, true, false);
    world.policies.set("more", ingress("name=b", vec![rule(vec![of("", "")], vec![])]));
    world.check("all pods of all namespaces", true, true, false);
    world.policies.set(
        "more",
        ingress("name=b", vec![rule(vec![block("0.0.0.0/0", &["10.42.0.0/16"]), block("2001:db8::/32", &[])], vec![])]),
    );
    world.check("a block with an exception", false, false, true);
    world.policies.set("second", ingress("name=b", vec![rule(vec![own("name=a")], vec![])]));
    world.check("policies add up", true, false, true);
    world.policies.set("all", ingress("", vec![rule(vec![], vec![])]));
    world.check("an empty rule allows all", true, true, true);
    for name in ["all", "second", "more"] {
        world.policies.remove(name);
    }
    world.check("default-deny again", false, false, false);
    world.policies.remove("deny");
    world.check("no policies again", true, true, true);
}

#[test]
fn labels_of_pods_and_namespaces_change() {
    let mut world = world();
    world.policies.set("p", ingress("role=server", vec![rule(vec![of("team=b", "role=client")], vec![])]));
    world.check("selects nobody", true, true, true);
    world.policies.relabel("b", "role=server");
    world.check("b is selected", false, true, false);
    let report = world.policies.relabel("c", "role=something");
    assert_eq!((report.added, report.deleted, report.chains), (0, 2, 0), "one element in each family");
    world.check("c lost its label", false, false, false);
    world.policies.relabel("c", "role=client");
    let labels = |text: &str| Some(bed::policies::labels(text));
    world.policies.programmer.apply([Change::Namespace("other".to_owned(), labels("team=x"))]).unwrap();
    world.check("its namespace lost its label", false, false, false);
    world.policies.programmer.apply([Change::Namespace("default".to_owned(), labels("team=b"))]).unwrap();
    world.check("the other namespace got it", true, false, false);
    world.policies.relabel("b", "role=other");
    world.check("b is no longer selected", true, true, true);
}

#[test]
fn ports_by_number_range_and_name_and_protocol() {
    let mut world = world();
    for (what, ports, expected) in [
        ("TCP 8080", vec![tcp(8080, 8080)], [true, false, false]),
        ("a range", vec![tcp(80, 100)], [false, true, false]),
        ("a range that ends at 65535", vec![tcp(8000, 65535)], [true, false, false]),
        ("a name", vec![named("web")], [true, false, false]),
        ("a name that b does not have", vec![named("x")], [false, false, false]),
        ("UDP", vec![udp(5353, 5353)], [false, false, true]),
        ("the same number of the other protocol", vec![udp(8080, 8080), tcp(5353, 5353)], [false, false, false]),
        ("several", vec![named("web"), tcp(81, 81), udp(0, 65535)], [true, true, true]),
        ("all", vec![], [true, true, true]),
    ] {
        world.policies.set("p", ingress("name=b", vec![rule(vec![own("name=a")], ports.clone())]));
        let seen = |to: IpAddr| [reaches(&world.a.namespace, to, 8080), reaches(&world.a.namespace, to, 81)];
        assert_eq!(seen(world.b.ip()), expected[..2], "{what}");
        assert_eq!(seen(world.b.ip6()), expected[..2], "{what}, IPv6");
        assert_eq!(reaches_udp(&world.a.namespace, world.b.ip(), 5353), expected[2], "{what}, UDP");
        world.policies.remove("p");
        world.policies.set("p", egress("name=a", vec![rule(vec![own("name=b")], ports)]));
        assert_eq!(seen(world.b.ip()), expected[..2], "egress: {what}");
        assert_eq!(seen(world.b.ip6()), expected[..2], "egress: {what}, IPv6");
        assert_eq!(reaches_udp(&world.a.namespace, world.b.ip(), 5353), expected[2], "egress: {what}, UDP");
        world.policies.remove("p");
    }
}

#[test]
fn egress_to_pods_the_node_and_the_outside() {
    let mut world = world();
    serve_tcp(&world.bed.outside, "[::]", 9000, "outside");
    serve_tcp(&world.bed.host, "[::]", 9000, "host");
    let check = |world: &World, what: &str, expected: [bool; 4]| {
        let a = &world.a.namespace;
        let seen = [
            reaches(a, world.b.ip(), PORT),
            reaches(a, world.c.ip6(), PORT),
            reaches(a, ip(HOST), 9000),
            reaches(a, ip(OUTSIDE), 9000),
        ];
        assert_eq!(seen, expected, "{what}");
        assert!(reaches(&world.b.namespace, world.a.ip(), PORT), "{what}: a may be called, and answers");
        assert!(reaches(&world.bed.host, world.a.ip6(), PORT), "{what}: by the node, too");
    };
    check(&world, "without policies", [true; 4]);
    world.policies.set("p", egress("name=a", vec![]));
    check(&world, "default-deny", [false; 4]);
    world.policies.set("p", egress("name=a", vec![rule(vec![of("team=b", "")], vec![])]));
    check(&world, "pods of a namespace", [false, true, false, false]);
    world.policies.set("p", egress("name=a", vec![rule(vec![block("192.0.2.0/24", &["192.0.2.1/32"])], vec![])]));
    check(&world, "the outside, not the node", [false, false, false, true]);
    world.policies.set("p", egress("name=a", vec![rule(vec![block("192.0.2.1/32", &[])], vec![tcp(9000, 9000)])]));
    check(&world, "the node", [false, false, true, false]);
    // Both ends are asked: what a may call, and who may call b.
    world.policies.set("p", egress("name=a", vec![rule(vec![], vec![])]));
    world.policies.set("q", ingress("name=b", vec![]));
    check(&world, "b does not want it", [false, true, true, true]);
}

#[test]
fn cluster_dns_counts_as_a_pod() {
    let mut world = world();
    world.bed.network.set_local_address(ip("10.43.0.10"), true).unwrap();
    let socket = world.bed.host.run(|| UdpSocket::bind("10.43.0.10:53").unwrap()).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], peer);
        }
    });
    let resolves = |world: &World| reaches_udp(&world.a.namespace, ip("10.43.0.10"), 53);
    assert!(resolves(&world));
    world.policies.set("p", egress("name=a", vec![]));
    assert!(!resolves(&world), "a default-deny stops names");
    let peers = || vec![of("team=system", "k8s-app=kube-dns")];
    for (what, rules, expected) in [
        ("the usual rule", rule(peers(), vec![udp(53, 53), tcp(53, 53)]), true),
        ("by the port's name", rule(peers(), vec![named("dns")]), false), // a TCP port of this name
        ("another port", rule(peers(), vec![udp(54, 54)]), false),
        ("port 53 anywhere", rule(vec![], vec![udp(53, 53)]), true),
        ("pods of all namespaces", rule(vec![of("", "")], vec![]), true),
        ("its address", rule(vec![block("10.43.0.10/32", &[])], vec![]), true),
        ("pods of its own namespace", rule(vec![own("")], vec![]), false),
    ] {
        world.policies.set("p", egress("name=a", vec![rules]));
        assert_eq!(resolves(&world), expected, "{what}");
    }
}

#[test]
fn connections_that_stand_end_when_they_are_no_longer_allowed() {
    let mut world = world();
    let from = |world: &World, name: &str| match name {
        "a" => bed::connect(&world.a.namespace, world.b.ip(), PORT).unwrap(),
        _ => bed::connect(&world.c.namespace, world.b.ip6(), PORT).unwrap(),
    };
    let (mut a, mut c) = (from(&world, "a"), from(&world, "c"));
    bed::greeting(&mut a).unwrap();
    bed::greeting(&mut c).unwrap();
    let flow = udp_client(&world.a.namespace);
    assert!(ask_udp(&flow, world.b.ip(), 5353).is_ok());
    let mut probe = bed::connect(&world.bed.host, world.b.ip(), PORT).unwrap();
    bed::greeting(&mut probe).unwrap();
    world.policies.set("p", ingress("name=b", vec![rule(vec![of("", "name=c")], vec![])]));
    assert_eq!(world.policies.programmer.revoke().unwrap(), 2, "a's TCP and UDP");
    assert!(!echoes(&mut a, b"one"), "a is cut off");
    assert!(ask_udp(&flow, world.b.ip(), 5353).is_err());
    assert!(echoes(&mut c, b"two"), "c may go on");
    assert!(echoes(&mut probe, b"three"), "the node may go on");
    // The other end begins: the server of a connection that was forgotten cannot take it up again.
    let mut again = from(&world, "c");
    bed::greeting(&mut again).unwrap();
    world.policies.set("p", ingress("name=b", vec![]));
    assert_eq!(world.policies.programmer.revoke().unwrap(), 2, "both of c's");
    assert!(!echoes(&mut c, b"four") && !echoes(&mut again, b"five"));
    // Egress of the caller.
    world.policies.remove("p");
    let mut a = from(&world, "a");
    bed::greeting(&mut a).unwrap();
    world.policies.set("p", egress("name=a", vec![]));
    assert_eq!(world.policies.programmer.revoke().unwrap(), 1);
    assert!(!echoes(&mut a, b"six"));
    assert!(echoes(&mut probe, b"seven"));
}

#[test]
fn a_server_that_speaks_first_cannot_revive_a_forgotten_connection() {
    let mut world = world();
    let listener = world.b.namespace.run(|| std::net::TcpListener::bind("0.0.0.0:82").unwrap()).unwrap();
    let mut client = bed::connect(&world.a.namespace, world.b.ip(), 82).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.write_all(b"hello").unwrap();
    let mut buffer = [0; 5];
    client.read_exact(&mut buffer).unwrap();
    world.policies.set("p", ingress("name=b", vec![]));
    assert_eq!(world.policies.programmer.revoke().unwrap(), 1);
    // b may call a, so only the reset keeps this packet from making a new connection of which a's packets would be the answers.
    server.write_all(b"again").unwrap();
    let is_cut = |stream: &mut TcpStream| matches!(stream.read(&mut [0; 5]), Err(_) | Ok(0));
    assert!(is_cut(&mut client), "a does not hear b");
    server.set_read_timeout(Some(bed::TIMEOUT)).unwrap();
    let _ = client.write_all(b"still there?");
    assert!(is_cut(&mut server), "b does not hear a");
}

#[test]
fn unknown_pods_and_foreign_addresses_pass_nothing() {
    let mut world = world();
    let late = world.bed.pod("late");
    late.serve_tcp(PORT);
    assert!(!reaches(&late.namespace, world.b.ip(), PORT), "its rules are not in yet");
    assert!(!reaches(&late.namespace, ip(HOST), 9000));
    world.policies.attach(&late, "default", "");
    assert!(reaches(&late.namespace, world.b.ip(), PORT));
    // A pod cannot speak with another pod's address.
    let mut rtnetlink = klynge_network::netlink::Rtnetlink::open_in(&late.namespace).unwrap();
    let interface = rtnetlink.index_of("eth0").unwrap();
    let mut batch = klynge_network::netlink::RouteBatch::new();
    batch.add_address(interface, world.a.ip(), 32);
    batch.send(rtnetlink.socket()).unwrap();
    let received = world.b.namespace.run(|| UdpSocket::bind("0.0.0.0:5000").unwrap()).unwrap();
    received.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    let spoken = |address: IpAddr| {
        let socket = late.namespace.run(|| UdpSocket::bind((address, 0)).unwrap()).unwrap();
        socket.send_to(b"x", (world.b.ip(), 5000)).unwrap();
        received.recv_from(&mut [0; 8]).is_ok()
    };
    assert!(spoken(late.ip()) && !spoken(world.a.ip()));
    world.policies.programmer.apply([Change::Detached("late".to_owned())]).unwrap();
    assert!(!reaches(&late.namespace, world.b.ip(), PORT));
}

#[test]
fn pings_are_judged_one_by_one() {
    let mut world = world();
    let ping = |world: &World| pings(&world.a.namespace, world.b.ip());
    assert!(ping(&world));
    world.policies.set("p", ingress("name=b", vec![rule(vec![own("name=a")], vec![tcp(1, 65535)])]));
    assert!(!ping(&world), "ports do not allow pings, also of a flow that conntrack knows");
    world.policies.set("p", ingress("name=b", vec![rule(vec![own("name=a")], vec![])]));
    assert!(ping(&world), "an empty list of ports is all protocols");
}

#[test]
fn a_restart_leaves_no_window_and_others_removal_is_mended() {
    let mut world = world();
    world.policies.set("p", ingress("name=b", vec![]));
    let known: Vec<_> = world.policies.known.values().cloned().collect();
    drop(world.policies);
    assert!(!reaches(&world.a.namespace, world.b.ip(), PORT), "the rules outlive their agent");
    world.policies = Policies { known: Default::default(), ..Policies::unknown(&world.bed.host) };
    assert!(!reaches(&world.a.namespace, world.b.ip(), PORT), "nothing is known: nothing is touched");
    // A flood of attempts while the tables are replaced: none gets through.
    let (from, to) = (world.a.namespace.clone(), world.b.ip());
    let trying = std::thread::spawn(move || {
        from.run(|| {
            let address = std::net::SocketAddr::new(to, PORT);
            let wait = std::time::Duration::from_millis(20);
            (0..60).filter(|_| TcpStream::connect_timeout(&address, wait).is_ok()).count()
        })
        .unwrap()
    });
    let policy = std::sync::Arc::new(ingress("name=b", vec![]));
    let key = klynge_network::policy::PolicyKey::new("default", "p");
    world.policies.programmer.apply([Change::Recovered(known)]).unwrap();
    let report = world.policies.programmer.apply([Change::Policies(vec![(key, policy)]), Change::Known]).unwrap();
    assert!(report.rebuilt);
    for _ in 0..20 {
        world.policies.programmer.rebuild().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(trying.join().unwrap(), 0, "connections that got through while the tables were replaced");
    assert!(reaches(&world.a.namespace, world.c.ip(), PORT));
    assert!(world.policies.programmer.verify(true).unwrap());
    purge(&world.bed.host).unwrap();
    assert!(reaches(&world.a.namespace, world.b.ip(), PORT));
    assert!(!world.policies.programmer.verify(false).unwrap(), "it is noticed, and mended");
    assert!(!reaches(&world.a.namespace, world.b.ip(), PORT));
    let mut nft = Nft::open_in(&world.bed.host).unwrap();
    let mut batch = NftBatch::new();
    batch.flush_chain(Family::Ip, TABLE, "arriving");
    batch.commit(nft.socket()).unwrap();
    assert!(reaches(&world.a.namespace, world.b.ip(), PORT));
    assert!(!world.policies.programmer.verify(true).unwrap(), "also where only rules were removed");
    assert!(!reaches(&world.a.namespace, world.b.ip(), PORT));
    purge(&world.bed.host).unwrap();
    purge(&world.bed.host).unwrap();
    assert!(Nft::open_in(&world.bed.host).unwrap().tables().unwrap().iter().all(|table| table.name != TABLE));
}

#[test]
fn a_change_that_the_kernel_refuses_is_made_with_the_next_one() {
    let mut world = world();
    let allowed = |pods: &str| ingress("name=b", vec![rule(vec![of("", pods)], vec![])]);
    world.policies.set("p", allowed("name=a"));
    world.check("before", true, false, false);
    // Somebody takes away what the next change deletes.
    let address = world.b.ip().to_string().parse::<Ipv4Addr>().unwrap().octets().to_vec();
    let mut nft = Nft::open_in(&world.bed.host).unwrap();
    let mut batch = NftBatch::new();
    batch.delete_elements(Family::Ip, TABLE, "policed", &[Element::key(address)]);
    batch.commit(nft.socket()).unwrap();
    let key = |name: &str| klynge_network::policy::PolicyKey::new("default", name);
    let set = |name: &str, policy: Option<_>| Change::Policy(key(name), policy.map(std::sync::Arc::new));
    let error = world.policies.programmer.apply([set("p", None)]).unwrap_err();
    assert!(error.to_string().contains("policed"), "{error}");
    world.check("what was refused changes nothing", true, false, false);
    // Also what is told after the failure, and takes it back in part.
    let changes = [set("p", Some(allowed("name=a"))), set("q", Some(allowed("name=c")))];
    let report = world.policies.programmer.apply(changes).unwrap();
    assert!(report.rebuilt && report.restricts);
    world.check("the next change mends", true, true, false);
    let report = world.policies.set("q", allowed("name=a"));
    assert!(!report.rebuilt && report.restricts);
    world.check("and the one after it is small again", true, false, false);
    assert!(world.policies.programmer.verify(true).unwrap());
}

#[test]
fn nft_can_read_the_tables() {
    if Command::new("nft").arg("--version").output().is_err() {
        eprintln!("SKIPPED: nft is not installed");
        return;
    }
    let mut world = world();
    let all = vec![
        rule(
            vec![own("role"), of("team=b", "x notin (y)"), block("10.0.0.0/8", &["10.1.0.0/16"]), block("::/0", &[])],
            vec![],
        ),
        rule(
            vec![block("0.0.0.0/0", &[]), block("fd00::/8", &["fd00:1::/32"])],
            vec![named("web"), tcp(80, 90), udp(53, 53)],
        ),
        rule(vec![], vec![tcp(443, 443)]),
    ];
    world.policies.set("in", ingress("", all.clone()));
    world.policies.set("out", egress("", all));
    let list = |arguments: &[&str]| {
        let output = world.bed.host.run(|| Command::new("nft").args(arguments).output().unwrap()).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success() && output.stderr.is_empty(), "nft {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    for family in ["ip", "ip6"] {
        let listed = list(&["list", "table", family, TABLE]);
        if std::env::var_os("KLYNGE_TEST_SHOW").is_some() {
            eprintln!("{listed}");
        }
        list(&["-j", "list", "table", family, TABLE]);
        for part in [
            "iifname . IP saddr != @senders drop",
            "IP saddr map @egress ",
            "vmap @egress-chains",
            "IP daddr map @ingress ",
            "vmap @ingress-chains",
            "meta l4proto . th dport @ports-",
        ] {
            let part = part.replace("IP", family);
            assert!(listed.contains(&part), "{part} is missing in:\n{listed}");
        }
    }
    assert!(list(&["list", "table", "ip", TABLE]).contains("10.2.0.0-10.255.255.255"));
}
