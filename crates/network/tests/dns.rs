//! Cluster DNS over real sockets, judged by hickory-proto as an independent reader.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use klynge_network::dns::{Dns, DnsEndpoint, DnsKind, DnsPort, DnsService, Handle, Options, Outside};
use klynge_network::services::{ServiceKey, TransportProtocol};

/// A resolver "outside": knows a few names, counts its questions.
struct Upstream {
    address: SocketAddr,
    questions: Arc<AtomicUsize>,
}

fn upstream() -> Upstream {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let tcp = std::net::TcpListener::bind(address).unwrap();
    let questions = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&questions);
    let reply = move |bytes: &[u8], is_tcp: bool| {
        let query = Message::from_vec(bytes).unwrap();
        let name = query.queries[0].name().to_lowercase();
        let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
        answer.add_queries(query.queries.clone());
        answer.edns.clone_from(&query.edns);
        let text = name.to_string();
        if text == "silent.example." {
            return None;
        }
        if text == "large.example." && !is_tcp {
            answer.metadata.truncation = true;
        } else if text.ends_with("example.") && query.queries[0].query_type() == RecordType::A {
            let count: u8 = if text == "large.example." { 200 } else { 1 };
            for last in 0..count {
                answer.add_answer(Record::from_rdata(
                    name.clone(),
                    60,
                    RData::A(std::net::Ipv4Addr::new(192, 0, 2, last).into()),
                ));
            }
        } else {
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        Some(answer.to_vec().unwrap())
    };
    let reply_tcp = reply;
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            if !buffer[..length].windows(11).any(|part| part == b"klynge-loop") {
                counter.fetch_add(1, Ordering::SeqCst);
            }
            if let Some(bytes) = reply(&buffer[..length], false) {
                socket.send_to(&bytes, client).unwrap();
            }
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut bytes).unwrap();
            let bytes = reply_tcp(&bytes, true).unwrap();
            stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
            stream.write_all(&bytes).unwrap();
        }
    });
    Upstream { address, questions }
}

struct Server {
    runtime: tokio::runtime::Runtime,
    handle: Option<Handle>,
    address: SocketAddr,
    upstream: Upstream,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        self.handle.take();
    }
}

fn server() -> Server {
    let upstream = upstream();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let inside = runtime.enter();
    let mut options = Options::new(vec!["127.0.0.1:0".parse().unwrap()], "cluster.local");
    options.reverse_ranges =
        vec!["10.43.0.0/16".parse().unwrap(), "10.42.0.0/16".parse().unwrap(), "fd00:43::/112".parse().unwrap()];
    options.resolv_conf = vec![PathBuf::from("/nonexistent")];
    // A resolver on another port than 53 can only be named as a stub domain: the root is the domain of everything.
    options.outside.stub_domains = vec![(String::new(), vec![upstream.address])];
    let handle = Dns::run(options).unwrap();
    let address = handle.addresses()[0];
    drop(inside);
    let server = Server { runtime, handle: Some(handle), address, upstream };
    let port = |name: &str, port| DnsPort { name: name.to_owned(), protocol: TransportProtocol::Tcp, port };
    server.set("default", "web", Some(cluster(&["10.43.0.7", "fd00:43::7"], vec![port("http", 80)])));
    let endpoint = |ip: &str, hostname: Option<&str>| DnsEndpoint {
        ip: ip.parse().unwrap(),
        hostname: hostname.map(str::to_owned),
    };
    let endpoints =
        vec![endpoint("10.42.0.3", Some("db-0")), endpoint("10.42.0.4", Some("db-1")), endpoint("10.42.0.5", None)];
    server.set("prod", "db", Some(DnsService { kind: DnsKind::Headless(endpoints), ports: vec![port("sql", 5432)] }));
    for (name, target) in
        [("outside", "www.example"), ("inside", "web.default.svc.cluster.local"), ("missing", "nothing.invalid")]
    {
        server.set("default", name, Some(DnsService { kind: DnsKind::ExternalName(target.to_owned()), ports: vec![] }));
    }
    server
}

fn cluster(addresses: &[&str], ports: Vec<DnsPort>) -> DnsService {
    DnsService { kind: DnsKind::ClusterIps(addresses.iter().map(|text| text.parse().unwrap()).collect()), ports }
}

fn question(name: &str, kind: RecordType, edns_bytes: Option<u16>) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(bytes) = edns_bytes {
        let mut edns = Edns::new();
        edns.set_max_payload(bytes);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

impl Server {
    fn set(&self, namespace: &str, name: &str, service: Option<DnsService>) {
        self.handle.as_ref().unwrap().update(&ServiceKey::new(namespace, name), service);
    }

    fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.exchange(&question(name, kind, Some(1232)))
    }

    fn exchange(&self, bytes: &[u8]) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
        socket.send_to(bytes, self.address).unwrap();
        let mut buffer = [0; 4096];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(from, self.address);
        assert_eq!(buffer[..2], bytes[..2], "the client's id");
        Message::from_vec(&buffer[..length]).unwrap()
    }

    fn ask_tcp(&self, name: &str, kind: RecordType) -> Message {
        let bytes = question(name, kind, None);
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&bytes).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).unwrap();
        Message::from_vec(&answer).unwrap()
    }

    fn texts(&self, name: &str, kind: RecordType) -> Vec<String> {
        let message = self.ask(name, kind);
        assert_eq!(message.metadata.response_code, ResponseCode::NoError, "{name}");
        let mut texts: Vec<String> = message.answers.iter().map(|record| record.data.to_string()).collect();
        texts.sort();
        texts
    }
}

#[test]
fn the_specification_of_cluster_dns() {
    let server = server();
    for (name, kind, wanted) in [
        ("web.default.svc.cluster.local.", RecordType::A, &["10.43.0.7"][..]),
        ("WEB.Default.svc.cluster.local.", RecordType::A, &["10.43.0.7"]),
        ("web.default.svc.cluster.local.", RecordType::AAAA, &["fd00:43::7"]),
        ("_http._tcp.web.default.svc.cluster.local.", RecordType::SRV, &["0 100 80 web.default.svc.cluster.local."]),
        ("db.prod.svc.cluster.local.", RecordType::A, &["10.42.0.3", "10.42.0.4", "10.42.0.5"]),
        ("db-1.db.prod.svc.cluster.local.", RecordType::A, &["10.42.0.4"]),
        (
            "_sql._tcp.db.prod.svc.cluster.local.",
            RecordType::SRV,
            &[
                "0 100 5432 10-42-0-5.db.prod.svc.cluster.local.",
                "0 100 5432 db-0.db.prod.svc.cluster.local.",
                "0 100 5432 db-1.db.prod.svc.cluster.local.",
            ],
        ),
        ("7.0.43.10.in-addr.arpa.", RecordType::PTR, &["web.default.svc.cluster.local."]),
        ("3.0.42.10.in-addr.arpa.", RecordType::PTR, &["db-0.db.prod.svc.cluster.local."]),
        (
            "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.4.0.0.0.0.d.f.ip6.arpa.",
            RecordType::PTR,
            &["web.default.svc.cluster.local."],
        ),
        ("10-42-0-9.default.pod.cluster.local.", RecordType::A, &["10.42.0.9"]),
        ("fd00-42--9.default.pod.cluster.local.", RecordType::AAAA, &["fd00:42::9"]),
        ("dns-version.cluster.local.", RecordType::TXT, &["1.1.0"]),
        ("inside.default.svc.cluster.local.", RecordType::A, &["10.43.0.7", "web.default.svc.cluster.local."]),
        ("outside.default.svc.cluster.local.", RecordType::CNAME, &["www.example."]),
        ("ns.dns.cluster.local.", RecordType::A, &["127.0.0.1"]),
        ("cluster.local.", RecordType::NS, &["ns.dns.cluster.local."]),
    ] {
        assert_eq!(server.texts(name, kind), wanted, "{name} {kind}");
    }
    let srv = server.ask("_sql._tcp.db.prod.svc.cluster.local.", RecordType::SRV);
    assert_eq!(srv.additionals.len(), 3, "the targets' addresses come along");
    assert!(srv.metadata.authoritative && srv.answers.iter().all(|record| record.ttl == 5));
}

#[test]
fn what_is_not_there_is_said_with_the_right_words() {
    let server = server();
    for (name, kind, code) in [
        ("nothing.default.svc.cluster.local.", RecordType::A, ResponseCode::NXDomain),
        ("web.default.svc.cluster.local.default.svc.cluster.local.", RecordType::A, ResponseCode::NXDomain),
        ("web.default.svc.cluster.local.", RecordType::MX, ResponseCode::NoError),
        ("db.prod.svc.cluster.local.", RecordType::AAAA, ResponseCode::NoError),
        ("default.svc.cluster.local.", RecordType::A, ResponseCode::NoError),
        ("_tcp.web.default.svc.cluster.local.", RecordType::SRV, ResponseCode::NoError),
        ("svc.cluster.local.", RecordType::A, ResponseCode::NoError),
        ("1-2-3.default.pod.cluster.local.", RecordType::A, ResponseCode::NXDomain),
        ("200.0.43.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NXDomain),
    ] {
        let answer = server.ask(name, kind);
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (code, 0), "{name}");
        assert_eq!(answer.authorities[0].record_type(), RecordType::SOA, "{name}");
    }
    assert_eq!(server.upstream.questions.load(Ordering::SeqCst), 0, "none of it is anybody else's business");
}

#[test]
fn changes_are_seen_by_the_next_question() {
    let server = server();
    let started = Instant::now();
    server.set("default", "new", Some(cluster(&["10.43.0.9"], vec![])));
    assert_eq!(server.texts("new.default.svc.cluster.local.", RecordType::A), ["10.43.0.9"]);
    server.set("default", "new", Some(cluster(&["10.43.0.10"], vec![])));
    assert_eq!(server.texts("new.default.svc.cluster.local.", RecordType::A), ["10.43.0.10"]);
    server.set("default", "new", None);
    assert_eq!(
        server.ask("new.default.svc.cluster.local.", RecordType::A).metadata.response_code,
        ResponseCode::NXDomain
    );
    assert!(started.elapsed() < Duration::from_secs(5));
    server.handle.as_ref().unwrap().replace([(ServiceKey::new("a", "b"), cluster(&["10.43.0.1"], vec![]))]);
    assert_eq!(
        server.ask("web.default.svc.cluster.local.", RecordType::A).metadata.response_code,
        ResponseCode::NXDomain
    );
    assert_eq!(server.texts("b.a.svc.cluster.local.", RecordType::A), ["10.43.0.1"]);
}

#[test]
fn large_answers_are_cut_over_udp_and_whole_over_tcp() {
    let server = server();
    let endpoints = (0..100).map(|last| DnsEndpoint { ip: IpAddr::from([10, 42, 1, last]), hostname: None }).collect();
    server.set("default", "many", Some(DnsService { kind: DnsKind::Headless(endpoints), ports: vec![] }));
    let plain = server.exchange(&question("many.default.svc.cluster.local.", RecordType::A, None));
    assert!(plain.metadata.truncation && !plain.answers.is_empty() && plain.edns.is_none());
    let with_edns = server.ask("many.default.svc.cluster.local.", RecordType::A);
    assert!(with_edns.answers.len() > plain.answers.len() && with_edns.edns.is_some());
    let whole = server.ask_tcp("many.default.svc.cluster.local.", RecordType::A);
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (100, false));
    let first = |message: &Message| message.answers[0].data.to_string();
    let firsts: std::collections::HashSet<String> =
        (0..10).map(|_| first(&server.ask_tcp("many.default.svc.cluster.local.", RecordType::A))).collect();
    assert!(firsts.len() > 1, "the order rotates");
}

#[test]
fn other_names_are_forwarded_once_and_remembered() {
    let server = server();
    for _ in 0..5 {
        assert_eq!(server.texts("www.example.", RecordType::A), ["192.0.2.0"]);
        let missing = server.ask("www.invalid.", RecordType::A);
        assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    }
    // NXDOMAIN without an SOA must not be remembered (RFC 2308); the positive answer is.
    assert_eq!(server.upstream.questions.load(Ordering::SeqCst), 6);
    let mixed = server.exchange(&question("wWw.ExAmPlE.", RecordType::A, Some(1232)));
    assert_eq!(mixed.queries[0].name().to_ascii(), "wWw.ExAmPlE.", "the client's spelling comes back");
    let cut = server.ask("large.example.", RecordType::A);
    assert!(cut.metadata.truncation);
    assert_eq!(server.ask_tcp("large.example.", RecordType::A).answers.len(), 200);
    assert_eq!(server.handle.as_ref().unwrap().statistics().failed, 0);
}

#[test]
fn an_alias_to_the_outside_brings_its_addresses() {
    let server = server();
    assert_eq!(server.texts("outside.default.svc.cluster.local.", RecordType::A), ["192.0.2.0", "www.example."]);
    let missing = server.ask("missing.default.svc.cluster.local.", RecordType::A);
    assert_eq!((missing.metadata.response_code, missing.answers.len()), (ResponseCode::NXDomain, 1));
}

#[test]
fn a_silent_resolver_becomes_a_failure_in_time() {
    let server = server();
    let started = Instant::now();
    assert_eq!(server.ask("silent.example.", RecordType::A).metadata.response_code, ResponseCode::ServFail);
    assert!(started.elapsed() < Duration::from_secs(5), "before glibc asks again");
}

#[test]
fn a_resolver_that_asks_us_back_is_found_out() {
    // The "host's resolver" is our own address through the stub: a question for the outside must end, not circle.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let inside = runtime.enter();
    let namespace = klynge_network::netlink::NetworkNamespace::create().unwrap();
    namespace
        .run(|| {
            let mut rtnetlink = klynge_network::netlink::Rtnetlink::open().unwrap();
            let mut batch = klynge_network::netlink::RouteBatch::new();
            batch.set_up(rtnetlink.index_of("lo").unwrap());
            batch.send(rtnetlink.socket()).unwrap();
        })
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let resolv_conf = directory.path().join("resolv.conf");
    // 127.0.0.2 forwards to 127.0.0.1, which is cluster DNS, which has 127.0.0.2 as its resolver.
    std::fs::write(&resolv_conf, "nameserver 127.0.0.2\n").unwrap();
    let relay_in = namespace.run(|| UdpSocket::bind("127.0.0.2:53").unwrap()).unwrap();
    let relay_out = namespace.run(|| UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    relay_out.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let relayed = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&relayed);
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, client)) = relay_in.recv_from(&mut buffer) {
            counter.fetch_add(1, Ordering::SeqCst);
            relay_out.send_to(&buffer[..length], "127.0.0.1:53").unwrap();
            if let Ok(length) = relay_out.recv(&mut buffer) {
                relay_in.send_to(&buffer[..length], client).unwrap();
            }
        }
    });
    let mut options = Options::new(vec!["127.0.0.1:53".parse().unwrap()], "cluster.local");
    options.namespace = Some(namespace.clone());
    options.resolv_conf = vec![resolv_conf];
    let handle = Dns::run(options).unwrap();
    let client = namespace.run(|| UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    let deadline = Instant::now() + Duration::from_secs(8);
    loop {
        let before = relayed.load(Ordering::SeqCst);
        client.send_to(&question("www.example.", RecordType::A, None), "127.0.0.1:53").unwrap();
        let mut buffer = [0; 512];
        let length = client.recv(&mut buffer).unwrap();
        assert_eq!(Message::from_vec(&buffer[..length]).unwrap().metadata.response_code, ResponseCode::ServFail);
        if before > 0 && relayed.load(Ordering::SeqCst) == before {
            break;
        }
        assert!(Instant::now() < deadline, "the resolver that leads back is still asked");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(handle);
    drop(inside);
}

#[test]
fn who_is_asked_changes_while_it_runs() {
    let server = server();
    let other = upstream();
    let handle = server.handle.as_ref().unwrap();
    let ask = |name: &str| server.ask(name, RecordType::A).metadata.response_code;
    let counts = || (server.upstream.questions.load(Ordering::SeqCst), other.questions.load(Ordering::SeqCst));
    assert_eq!(ask("one.example."), ResponseCode::NoError);
    assert_eq!(counts(), (1, 0));
    // A domain of its own, the most specific one first; everything else as before.
    let stubs = vec![(String::new(), vec![server.upstream.address]), ("corp.example".to_owned(), vec![other.address])];
    handle.set_outside(&Outside { stub_domains: stubs, servers: Vec::new() }).unwrap();
    assert_eq!((ask("a.corp.example."), counts()), (ResponseCode::NoError, (1, 1)));
    assert_eq!((ask("corp.example."), counts()), (ResponseCode::NoError, (1, 2)));
    assert_eq!((ask("acorp.example."), counts()), (ResponseCode::NoError, (2, 2)));
    // What was answered by others before is asked again.
    assert_eq!((ask("one.example."), counts()), (ResponseCode::NoError, (3, 2)));
    // A name that is none changes nothing.
    let bad = Outside { stub_domains: vec![("a..b".to_owned(), vec![other.address])], servers: Vec::new() };
    assert!(handle.set_outside(&bad).is_err());
    assert_eq!((ask("b.corp.example."), counts()), (ResponseCode::NoError, (3, 3)));
    // General servers instead of the host's.
    handle.set_outside(&Outside { stub_domains: Vec::new(), servers: vec![other.address] }).unwrap();
    let begun = Instant::now();
    while ask("two.example.") != ResponseCode::NoError {
        assert!(begun.elapsed() < Duration::from_secs(20), "the new servers are not asked");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(counts().0, 3);
}
