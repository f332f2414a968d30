//! Services, proven by connections between namespaces: who answers, and which source address it sees.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod bed;

use std::collections::HashSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::IpAddr;
use std::sync::Arc;

use bed::{
    Bed, HOST, OUTSIDE, ask, ask_udp, connect, connect_from, eventually, greeting, ip, key, local, prefix, service,
    set, udp_client,
};
use klynge_network::netlink::{ChainSpec, Expressions, Family, Hook, Nft, NftBatch, Register, Verdict};
use klynge_network::services::{
    Endpoint, Options, ServicePort, Services, TABLE, TrafficPolicy, TransportProtocol, purge,
};

#[test]
fn a_cluster_address_spreads_over_all_backends_and_keeps_the_source() {
    let mut bed = Bed::new();
    let client = bed.pod("client");
    let pods: Vec<_> = (0..3).map(|number| bed.pod(&format!("web{number}"))).collect();
    let mut services = bed.services();
    let mut endpoints = Vec::new();
    for pod in &pods {
        pod.serve_tcp(8080);
        endpoints.push(local(pod, 8080));
    }
    set(&mut services, "web", service("10.43.0.7", 80, endpoints));
    let mut answered = HashSet::new();
    for _ in 0..60 {
        let (name, source) = ask(&client.namespace, ip("10.43.0.7"), 80).unwrap();
        assert_eq!(source, client.ip());
        answered.insert(name);
    }
    assert_eq!(answered.len(), 3);
    assert_eq!(ask(&bed.host, ip("10.43.0.7"), 80).unwrap().1, ip(HOST), "the host's own processes reach it");
    let (_, source) = ask(&bed.outside, ip("10.43.0.7"), 80).unwrap();
    assert_eq!(source, ip(HOST), "a source outside the cluster is masqueraded");
}

#[test]
fn ipv6_works_the_same() {
    let mut bed = Bed::new();
    let (client, web) = (bed.pod("client"), bed.pod("web"));
    web.serve_tcp(8080);
    let mut services = bed.services();
    let endpoint = Endpoint { node_local: true, ..Endpoint::ready(web.ip6(), 8080) };
    let mut state = service("fd00:43::7", 80, vec![endpoint]);
    state.ports[0].node_port = Some(30_080);
    state.affinity_timeout_s = Some(60);
    set(&mut services, "web", state);
    assert_eq!(ask(&client.namespace, ip("fd00:43::7"), 80).unwrap(), ("web".to_owned(), client.ip6()));
    assert_eq!(ask(&client.namespace, ip("fd00:43::7"), 80).unwrap().0, "web");
    assert_eq!(ask(&web.namespace, ip("fd00:43::7"), 80).unwrap().0, "web", "hairpin");
    assert_eq!(ask(&bed.host, ip("fd00:43::7"), 80).unwrap().0, "web");
    bed::eventually("node port over IPv6", || {
        ask(&bed.outside, ip("2001:db8::1"), 30_080).is_ok_and(|(name, _)| name == "web")
    });
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let mut bed = Bed::new();
    let web = bed.pod("web");
    web.serve_tcp(8080);
    let mut services = bed.services();
    set(&mut services, "web", service("10.43.0.7", 80, vec![local(&web, 8080)]));
    assert_eq!(ask(&web.namespace, ip("10.43.0.7"), 80).unwrap(), ("web".to_owned(), ip(HOST)));
}

#[test]
fn node_ports_answer_on_the_nodes_addresses_and_masquerade() {
    let mut bed = Bed::new();
    let (client, web) = (bed.pod("client"), bed.pod("web"));
    web.serve_tcp(8080);
    let mut services = bed.services();
    let mut state = service("10.43.0.7", 80, vec![local(&web, 8080)]);
    state.ports[0].node_port = Some(30_080);
    set(&mut services, "web", state.clone());
    for from in [&bed.outside, &bed.host, &client.namespace, &web.namespace] {
        assert_eq!(ask(from, ip(HOST), 30_080).unwrap(), ("web".to_owned(), ip(HOST)));
    }
    state.external_policy = TrafficPolicy::Local;
    set(&mut services, "web", state.clone());
    assert_eq!(
        ask(&bed.outside, ip(HOST), 30_080).unwrap().1,
        ip(OUTSIDE),
        "a Local policy keeps the client's address"
    );
    // The only endpoint is elsewhere: clients outside are dropped, pods and the node are still served.
    state.ports[0].endpoints[0].node_local = false;
    set(&mut services, "web", state.clone());
    assert_eq!(ask(&bed.outside, ip(HOST), 30_080).unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(ask(&client.namespace, ip(HOST), 30_080).unwrap(), ("web".to_owned(), client.ip()));
    assert_eq!(ask(&bed.host, ip(HOST), 30_080).unwrap().0, "web");
    state.ports[0].node_port = None;
    set(&mut services, "web", state);
    assert_eq!(ask(&bed.outside, ip(HOST), 30_080).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn an_internal_local_policy_uses_only_endpoints_of_this_node() {
    let mut bed = Bed::new();
    let (client, here, there) = (bed.pod("client"), bed.pod("here"), bed.pod("there"));
    here.serve_tcp(8080);
    there.serve_tcp(8080);
    let mut services = bed.services();
    let mut state = service("10.43.0.7", 80, vec![local(&here, 8080), Endpoint::ready(there.ip(), 8080)]);
    state.internal_policy = TrafficPolicy::Local;
    set(&mut services, "web", state.clone());
    for _ in 0..20 {
        assert_eq!(ask(&client.namespace, ip("10.43.0.7"), 80).unwrap().0, "here");
    }
    state.ports[0].endpoints.remove(0);
    set(&mut services, "web", state);
    assert_eq!(ask(&client.namespace, ip("10.43.0.7"), 80).unwrap_err().kind(), ErrorKind::TimedOut);
}

#[test]
fn without_endpoints_connections_are_refused_at_once() {
    let mut bed = Bed::new();
    let client = bed.pod("client");
    let mut services = bed.services();
    let mut state = service("10.43.0.7", 80, vec![]);
    state.ports[0].node_port = Some(30_080);
    state.ports.push(ServicePort { port: 53, protocol: TransportProtocol::Udp, ..ServicePort::default() });
    set(&mut services, "web", state);
    for from in [&client.namespace, &bed.host, &bed.outside] {
        assert_eq!(ask(from, ip("10.43.0.7"), 80).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(ask(from, ip(HOST), 30_080).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    assert_eq!(
        ask(&client.namespace, ip("10.43.9.9"), 80).unwrap_err().kind(),
        ErrorKind::ConnectionRefused,
        "an address nobody has"
    );
    let udp = udp_client(&client.namespace);
    udp.connect((ip("10.43.0.7"), 53)).unwrap();
    udp.send(b"hello").unwrap();
    assert_eq!(udp.recv(&mut [0; 16]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn affinity_keeps_a_client_on_its_backend_while_that_lives() {
    let mut bed = Bed::new();
    let clients: Vec<_> = (0..6).map(|number| bed.pod(&format!("client{number}"))).collect();
    let pods: Vec<_> = (0..4).map(|number| bed.pod(&format!("web{number}"))).collect();
    for pod in &pods {
        pod.serve_tcp(8080);
    }
    let mut services = bed.services();
    let mut state = service("10.43.0.7", 80, pods.iter().map(|pod| local(pod, 8080)).collect());
    state.affinity_timeout_s = Some(10_800);
    set(&mut services, "web", state.clone());
    let mut chosen = Vec::new();
    for client in &clients {
        let first = ask(&client.namespace, ip("10.43.0.7"), 80).unwrap().0;
        for _ in 0..8 {
            assert_eq!(ask(&client.namespace, ip("10.43.0.7"), 80).unwrap().0, first);
        }
        chosen.push(first);
    }
    // The first client's backend goes: it moves to another and stays there; the others do not move.
    let gone = chosen[0].clone();
    state.ports[0].endpoints = pods.iter().filter(|pod| pod.uid != gone).map(|pod| local(pod, 8080)).collect();
    set(&mut services, "web", state);
    for (client, before) in clients.iter().zip(&chosen) {
        let now = ask(&client.namespace, ip("10.43.0.7"), 80).unwrap().0;
        if *before == gone {
            assert_ne!(now, gone);
        } else {
            assert_eq!(now, *before);
        }
        for _ in 0..8 {
            assert_eq!(ask(&client.namespace, ip("10.43.0.7"), 80).unwrap().0, now);
        }
    }
}

#[test]
fn a_load_balancer_admits_only_its_source_ranges() {
    let mut bed = Bed::new();
    let (client, web) = (bed.pod("client"), bed.pod("web"));
    web.serve_tcp(8080);
    let mut services = bed.services();
    let mut state = service("10.43.0.7", 80, vec![local(&web, 8080)]);
    state.load_balancer_ips = vec![ip("203.0.113.7")];
    state.external_ips = vec![ip("203.0.113.8")];
    state.source_ranges = vec![prefix("198.51.100.0/24"), prefix("198.51.100.128/25")];
    set(&mut services, "web", state.clone());
    assert_eq!(ask(&bed.outside, ip("203.0.113.7"), 80).unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(ask(&bed.outside, ip("203.0.113.8"), 80).unwrap().0, "web", "external addresses have no such limit");
    assert_eq!(ask(&client.namespace, ip("10.43.0.7"), 80).unwrap().0, "web");
    state.source_ranges.push(prefix("192.0.2.0/24"));
    set(&mut services, "web", state.clone());
    assert_eq!(ask(&bed.outside, ip("203.0.113.7"), 80).unwrap().0, "web");
    state.source_ranges.clear();
    set(&mut services, "web", state);
    assert_eq!(ask(&client.namespace, ip("203.0.113.7"), 80).unwrap().0, "web");
}

#[test]
fn established_connections_outlive_their_endpoint_and_new_ones_go_elsewhere() {
    let mut bed = Bed::new();
    let (client, old, new) = (bed.pod("client"), bed.pod("old"), bed.pod("new"));
    old.serve_tcp(8080);
    new.serve_tcp(8080);
    let mut services = bed.services();
    set(&mut services, "web", service("10.43.0.7", 80, vec![local(&old, 8080)]));
    let mut stream = connect(&client.namespace, ip("10.43.0.7"), 80).unwrap();
    assert_eq!(greeting(&mut stream).unwrap().0, "old");
    let mut going = local(&old, 8080);
    (going.ready, going.terminating) = (false, true);
    set(&mut services, "web", service("10.43.0.7", 80, vec![going, local(&new, 8080)]));
    for _ in 0..20 {
        assert_eq!(ask(&client.namespace, ip("10.43.0.7"), 80).unwrap().0, "new");
    }
    set(&mut services, "web", service("10.43.0.7", 80, vec![local(&new, 8080)]));
    services.resync().unwrap();
    stream.write_all(b"still here").unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"still here");
}

/// An address on the host's subnet that nobody has.
const SILENT: &str = "192.0.2.250";

#[test]
fn a_client_port_that_met_nobody_is_led_elsewhere_once_the_endpoint_is_gone() {
    let mut bed = Bed::new();
    let (client, new) = (bed.pod("client"), bed.pod("new"));
    new.serve_tcp(8080);
    let nobody = || service("10.43.0.7", 80, vec![Endpoint { ip: ip(SILENT), ..local(&new, 8080) }]);
    let somebody = || service("10.43.0.7", 80, vec![local(&new, 8080)]);
    let who = |port| greeting(&mut connect_from(&client.namespace, port, ip("10.43.0.7"), 80).unwrap()).unwrap().0;
    let mut services = bed.services();
    set(&mut services, "web", nobody());
    for port in [4001, 4002] {
        connect_from(&client.namespace, port, ip("10.43.0.7"), 80).unwrap_err();
    }
    set(&mut services, "web", somebody());
    assert_eq!(services.forget_leftovers().unwrap(), 2);
    assert_eq!([who(4001), who(4002)], ["new", "new"]);
    // The endpoint goes while the agent is away.
    set(&mut services, "web", nobody());
    connect_from(&client.namespace, 4003, ip("10.43.0.7"), 80).unwrap_err();
    drop(services);
    let mut services = bed.services();
    services.replace([(key("web"), Arc::new(somebody()))].into()).unwrap();
    assert_eq!(services.forget_leftovers().unwrap(), 1);
    assert_eq!(who(4003), "new");
}

#[test]
fn the_thread_forgets_by_itself_what_clients_tried() {
    let mut bed = Bed::new();
    let (client, web) = (bed.pod("client"), bed.pod("web"));
    web.serve_tcp(8080);
    let mut options = Options::new(bed.host.clone());
    options.pod_ranges = vec![prefix("10.42.0.0/16")];
    let nobody = service("10.43.0.7", 80, vec![Endpoint { ip: ip(SILENT), ..local(&web, 8080) }]);
    let handle = Services::start(options, [(key("web"), Arc::new(nobody))].into()).unwrap();
    connect_from(&client.namespace, 4001, ip("10.43.0.7"), 80).unwrap_err();
    let somebody = service("10.43.0.7", 80, vec![local(&web, 8080)]);
    handle.update(key("web"), Some(Arc::new(somebody))).unwrap();
    eventually("the port leads to whom there is", || {
        connect_from(&client.namespace, 4001, ip("10.43.0.7"), 80).is_ok()
    });
}

#[test]
fn udp_clients_leave_a_gone_backend_without_a_new_socket() {
    let mut bed = Bed::new();
    let (client, a, b) = (bed.pod("client"), bed.pod("a"), bed.pod("b"));
    a.serve_udp(5353);
    b.serve_udp(5353);
    let mut services = bed.services();
    let state = |endpoints: Vec<Endpoint>| {
        let mut state = service("10.43.0.7", 53, endpoints);
        state.ports[0].protocol = TransportProtocol::Udp;
        state.ports[0].node_port = Some(30_053);
        state
    };
    let socket = udp_client(&client.namespace);
    let outside = udp_client(&bed.outside);
    set(&mut services, "dns", state(vec![local(&a, 5353)]));
    assert_eq!(ask_udp(&socket, ip("10.43.0.7"), 53).unwrap(), format!("a {}", client.ip()));
    assert!(ask_udp(&outside, ip(HOST), 30_053).unwrap().starts_with("a "));
    set(&mut services, "dns", state(vec![local(&b, 5353)]));
    assert_eq!(services.forget_leftovers().unwrap(), 2);
    assert_eq!(ask_udp(&socket, ip("10.43.0.7"), 53).unwrap(), format!("b {}", client.ip()));
    assert!(ask_udp(&outside, ip(HOST), 30_053).unwrap().starts_with("b "));
    // A restarted agent finds flows to endpoints that went while it was away.
    drop(services);
    let mut services = bed.services();
    let mut all = std::collections::HashMap::new();
    all.insert(key("dns"), std::sync::Arc::new(state(vec![local(&a, 5353)])));
    services.replace(all).unwrap();
    assert_eq!(services.forget_leftovers().unwrap(), 2);
    assert_eq!(ask_udp(&socket, ip("10.43.0.7"), 53).unwrap(), format!("a {}", client.ip()));
}

#[test]
fn the_first_owner_of_an_address_keeps_it_and_the_next_inherits() {
    let mut bed = Bed::new();
    let (client, a, b) = (bed.pod("client"), bed.pod("a"), bed.pod("b"));
    a.serve_tcp(8080);
    b.serve_tcp(8080);
    let mut services = bed.services();
    let with_external = |cluster: &str, pod: &bed::Pod| {
        let mut state = service(cluster, 80, vec![local(pod, 8080)]);
        state.external_ips = vec![ip("203.0.113.9")];
        state
    };
    set(&mut services, "a", with_external("10.43.0.1", &a));
    set(&mut services, "b", with_external("10.43.0.2", &b));
    assert_eq!(ask(&client.namespace, ip("203.0.113.9"), 80).unwrap().0, "a");
    assert_eq!(ask(&client.namespace, ip("10.43.0.2"), 80).unwrap().0, "b");
    services.apply([(key("a"), None)]).unwrap();
    assert_eq!(ask(&client.namespace, ip("203.0.113.9"), 80).unwrap().0, "b");
    assert!(ask(&client.namespace, ip("10.43.0.1"), 80).is_err());
}

#[test]
fn marks_of_others_stay_on_packets() {
    const MARK: [u8; 4] = 0x4a5a_5a5a_u32.to_ne_bytes();
    let mut bed = Bed::new();
    let (client, web) = (bed.pod("client"), bed.pod("web"));
    web.serve_tcp(8080);
    let mut services = bed.services();
    let mut state = service("10.43.0.7", 80, vec![local(&web, 8080)]);
    set(&mut services, "plain", state.clone());
    state.cluster_ips = vec![ip("10.43.0.8")];
    state.affinity_timeout_s = Some(60);
    set(&mut services, "sticky", state);
    // A program like a VPN: it marks packets before they are translated, and drops those that lost their mark.
    let register = Register::new(0);
    let from_pods = || Expressions::new().match_input_interface("kly", true, register);
    let mut batch = NftBatch::new();
    batch.add_table(Family::Ip, "mine");
    for (name, base) in [("mark", (Hook::Prerouting, "filter", -150)), ("check", (Hook::Forward, "filter", 0))] {
        batch.add_chain(Family::Ip, "mine", &ChainSpec { name, base: Some(base) });
    }
    batch.add_rule(Family::Ip, "mine", "mark", &from_pods().load_value(&MARK, register).store_mark(register));
    let kept = from_pods().load_mark(register).equal(register, &MARK).verdict(Verdict::Accept);
    batch.add_rule(Family::Ip, "mine", "check", &kept);
    batch.add_rule(Family::Ip, "mine", "check", &from_pods().verdict(Verdict::Drop));
    batch.commit(Nft::open_in(&bed.host).unwrap().socket()).unwrap();
    for address in ["10.43.0.7", "10.43.0.8", "10.43.0.8"] {
        assert_eq!(ask(&client.namespace, ip(address), 80).unwrap().0, "web");
    }
}

#[test]
fn tables_that_others_remove_come_back_under_traffic() {
    let mut bed = Bed::new();
    let (client, web) = (bed.pod("client"), bed.pod("web"));
    web.serve_tcp(8080);
    let mut options = Options::new(bed.host.clone());
    options.pod_ranges = vec![prefix("10.42.0.0/16")];
    options.service_ranges = vec![prefix("10.43.0.0/16")];
    let mut state = service("10.43.0.7", 80, vec![local(&web, 8080)]);
    state.ports[0].node_port = Some(30_080);
    let all = [(key("web"), Arc::new(state.clone()))].into();
    let handle = Services::start(options, all).unwrap();
    eventually("the Service answers", || ask(&client.namespace, ip("10.43.0.7"), 80).is_ok());
    let mut stream = connect(&client.namespace, ip("10.43.0.7"), 80).unwrap();
    greeting(&mut stream).unwrap();
    let mut nft = Nft::open_in(&bed.host).unwrap();
    let damages: [&dyn Fn(&mut NftBatch); 3] = [
        &|batch| batch.delete_table(Family::Ip, TABLE),
        &|batch| batch.flush_chain(Family::Ip, TABLE, "prerouting"),
        &|batch| batch.flush_chain(Family::Ip, TABLE, "services"),
    ];
    for (number, damage) in damages.iter().enumerate() {
        let mut batch = NftBatch::new();
        damage(&mut batch);
        batch.commit(nft.socket()).unwrap();
        assert!(ask(&client.namespace, ip("10.43.0.7"), 80).is_err(), "damage {number} shows");
        eventually(&format!("the Service answers again by itself after damage {number}"), || {
            ask(&client.namespace, ip("10.43.0.7"), 80).is_ok()
        });
        assert_eq!(ask(&bed.outside, ip(HOST), 30_080).unwrap().0, "web");
        stream.write_all(b"still here").unwrap();
        stream.read_exact(&mut [0; 10]).unwrap();
    }
    // A change that meets missing tables repairs them at once, whatever the thread's next look would find.
    let mut batch = NftBatch::new();
    batch.delete_table(Family::Ip, TABLE);
    batch.commit(nft.socket()).unwrap();
    state.ports[0].node_port = Some(30_081);
    handle.update(key("web"), Some(Arc::new(state))).unwrap();
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(handle.flush()).unwrap();
    assert_eq!(ask(&bed.outside, ip(HOST), 30_081).unwrap().0, "web");
    assert_eq!(ask(&client.namespace, ip("10.43.0.7"), 80).unwrap().0, "web");
}

#[test]
fn a_look_finds_nothing_where_only_others_changed_their_own_tables() {
    let bed = Bed::new();
    let mut services = bed.services();
    set(&mut services, "web", service("10.43.0.7", 80, Vec::new()));
    assert!(!services.verify().unwrap());
    let mut nft = Nft::open_in(&bed.host).unwrap();
    let mut batch = NftBatch::new();
    batch.add_table(Family::Inet, "mine");
    batch.commit(nft.socket()).unwrap();
    assert!(!services.verify().unwrap());
    set(&mut services, "other", service("10.43.0.8", 80, Vec::new()));
    assert!(!services.verify().unwrap(), "changes of our own are no damage");
    purge(&bed.host).unwrap();
    assert!(services.verify().unwrap());
    assert!(!services.verify().unwrap());
}

#[test]
fn every_change_of_a_random_history_equals_a_resync() {
    // The incremental path must leave exactly the answers that a rebuild gives: 120 changes over 6 Services.
    let mut bed = Bed::new();
    let client = bed.pod("client");
    let pods: Vec<_> = (0..4).map(|number| bed.pod(&format!("p{number}"))).collect();
    for pod in &pods {
        pod.serve_tcp(8080);
    }
    let mut services = bed.services();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let mut expected: Vec<Option<HashSet<String>>> = vec![None; 6];
    for step in 0..120 {
        let index = usize::try_from(next(6)).unwrap();
        let name = format!("s{index}");
        if next(5) == 0 {
            services.apply([(key(&name), None)]).unwrap();
            expected[index] = None;
        } else {
            let chosen: Vec<_> = pods.iter().filter(|_| next(2) == 0).collect();
            let mut state =
                service(&format!("10.43.0.{}", index + 1), 80, chosen.iter().map(|pod| local(pod, 8080)).collect());
            state.affinity_timeout_s = (next(3) == 0).then_some(30);
            state.external_policy = if next(2) == 0 { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
            state.load_balancer_ips = if next(2) == 0 { vec![ip("203.0.113.1")] } else { vec![] };
            state.source_ranges = if next(2) == 0 { vec![prefix("10.0.0.0/8")] } else { vec![] };
            set(&mut services, &name, state);
            expected[index] = Some(chosen.iter().map(|pod| pod.uid.clone()).collect());
        }
        if step % 40 == 39 {
            services.resync().unwrap();
        }
        for (index, expected) in expected.iter().enumerate() {
            let address: IpAddr = ip(&format!("10.43.0.{}", index + 1));
            match (expected, ask(&client.namespace, address, 80)) {
                (Some(names), Ok((name, _))) => {
                    assert!(names.contains(&name), "step {step}: {name} answered for s{index}")
                }
                (Some(names), Err(error)) => assert!(names.is_empty(), "step {step}: s{index} failed: {error}"),
                (None, Ok((name, _))) => panic!("step {step}: {name} answered for a deleted Service"),
                (None, Err(_)) => {}
            }
        }
    }
    purge(&bed.host).unwrap();
    assert_eq!(
        klynge_network::netlink::Nft::open_in(&bed.host)
            .unwrap()
            .tables()
            .unwrap()
            .iter()
            .filter(|table| table.name == klynge_network::services::TABLE)
            .count(),
        0
    );
}
