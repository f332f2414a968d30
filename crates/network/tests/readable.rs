//! What others see of our tables: nft(8) and iptables(8) list them whole while everything is in use, and go on working beside them.
//! Each test is skipped where the program is not installed, and says so. `KLYNGE_TEST_NFT` names another nft than the one in PATH.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod bed;

use std::process::Command;

use bed::{Bed, HOST, OUTSIDE, ask, ask_udp, ip, local, prefix, service, set, udp_client};
use klynge_network::netlink::NetworkNamespace;
use klynge_network::pod_net::{Admission, HostPort, OpenPort, Peer, admit};
use klynge_network::services::{Endpoint, Programmer, ServicePort, ServiceState, TrafficPolicy, TransportProtocol};

/// A program's standard output; panics with what it said if it fails or complains.
fn output(namespace: &NetworkNamespace, program: &str, arguments: &[&str]) -> String {
    let result = namespace.run(|| Command::new(program).args(arguments).output()).unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        result.status.success() && complaints(&text(&result.stderr)).is_empty(),
        "{program} {arguments:?}: {}\n{}",
        result.status,
        text(&result.stderr)
    );
    text(&result.stdout)
}

/// nft writes updates of maps as text into its JSON, and says so; later releases can.
fn complaints(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.contains("have no json callback")).collect()
}

fn is_there(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

/// A host that uses everything its tables can hold: both families, all policies, memory of clients, source ranges, host ports, a tunnel.
fn busy_bed() -> (Bed, Programmer, bed::Pod) {
    let mut bed = Bed::new();
    let client = bed.pod("client");
    let port = |host_ip| HostPort { protocol: TransportProtocol::Tcp, host_ip, host_port: 8081, container_port: 8080 };
    let web = bed.pod_with("web", vec![port(None)]);
    let other = bed.pod_with("other", vec![HostPort { host_port: 8082, ..port(Some(ip(HOST))) }]);
    for pod in [&web, &other] {
        pod.serve_tcp(8080);
        pod.serve_udp(5353);
    }
    let mut services = bed.services();
    let both = |state: &mut ServiceState| {
        state
            .cluster_ips
            .push("fd00:43::".parse::<std::net::Ipv6Addr>().map(|base| last(base, &state.cluster_ips[0])).unwrap());
        for pod in [&web, &other] {
            state.ports[0].endpoints.push(Endpoint { node_local: true, ..Endpoint::ready(pod.ip6(), 8080) });
        }
    };
    let endpoints = || vec![local(&web, 8080), local(&other, 8080)];
    let mut plain = service("10.43.0.1", 80, endpoints());
    both(&mut plain);
    plain.ports[0].node_port = Some(30_001);
    set(&mut services, "plain", plain.clone());
    let mut sticky = service("10.43.0.2", 80, endpoints());
    both(&mut sticky);
    sticky.affinity_timeout_s = Some(600);
    sticky.ports[0].node_port = Some(30_002);
    set(&mut services, "sticky", sticky);
    let mut here = service("10.43.0.3", 80, endpoints());
    both(&mut here);
    here.ports[0].node_port = Some(30_003);
    here.ports[0].endpoints.push(Endpoint::ready(ip("10.42.1.9"), 8080));
    here.external_policy = TrafficPolicy::Local;
    here.internal_policy = TrafficPolicy::Local;
    here.load_balancer_ips = vec![ip("203.0.113.3"), ip("2001:db8:3::3")];
    here.source_ranges = vec![prefix("192.0.2.0/24"), prefix("2001:db8::/64")];
    here.affinity_timeout_s = Some(60);
    set(&mut services, "here", here);
    let mut gone = service("10.43.0.4", 80, Vec::new());
    gone.external_policy = TrafficPolicy::Local;
    gone.ports[0].node_port = Some(30_004);
    gone.ports.push(ServicePort {
        port: 81,
        node_port: Some(30_005),
        endpoints: vec![Endpoint::ready(ip("10.42.1.9"), 8080)],
        ..ServicePort::default()
    });
    set(&mut services, "gone", gone);
    let mut names = service("10.43.0.5", 53, vec![local(&web, 5353), local(&other, 5353)]);
    names.ports[0].protocol = TransportProtocol::Udp;
    set(&mut services, "names", names);
    let far = Peer {
        name: "far".to_owned(),
        addresses: vec![ip("198.51.100.7"), ip("2001:db8:7::7")],
        pod_ranges: vec![prefix("10.42.1.0/24"), prefix("fd00:42:0:1::/64")],
        encryption_key: None,
        since_s: 0,
    };
    bed.network.set_peers(&[far]).unwrap();
    (bed, services, client)
}

/// The cluster address of IPv6 that ends like one of IPv4.
fn last(base: std::net::Ipv6Addr, like: &std::net::IpAddr) -> std::net::IpAddr {
    let mut octets = base.octets();
    if let std::net::IpAddr::V4(address) = like {
        octets[15] = address.octets()[3];
    }
    octets.into()
}

/// Connections of every kind, so that dynamic maps have elements and every rule has run.
fn use_everything(bed: &Bed, client: &bed::Pod) {
    for number in 1..=3 {
        assert!(ask(&client.namespace, ip(&format!("10.43.0.{number}")), 80).is_ok());
        assert!(ask(&client.namespace, ip(&format!("fd00:43::{number}")), 80).is_ok());
        assert!(ask(&bed.outside, ip(HOST), 30_000 + number).is_ok());
    }
    // Not 30003: of its endpoints the node itself uses all, also the one that is not there.
    assert!(ask(&bed.host, ip(HOST), 30_001).is_ok() && ask(&bed.host, ip(HOST), 30_002).is_ok());
    assert_eq!(ask(&bed.outside, ip("203.0.113.3"), 80).unwrap().1, ip(OUTSIDE));
    assert!(ask(&client.namespace, ip("10.43.0.4"), 80).is_err());
    assert_eq!(ask(&bed.outside, ip(HOST), 8081).unwrap().0, "web");
    assert_eq!(ask(&client.namespace, ip(HOST), 8082).unwrap().0, "other");
    assert!(ask_udp(&udp_client(&client.namespace), ip("10.43.0.5"), 53).is_ok());
}

#[test]
fn nft_lists_all_tables_while_they_are_in_use() {
    let nft = std::env::var("KLYNGE_TEST_NFT").unwrap_or_else(|_| "nft".to_owned());
    if !is_there(&nft) {
        return;
    }
    let (bed, mut services, client) = busy_bed();
    use_everything(&bed, &client);
    let listed = output(&bed.host, &nft, &["list", "ruleset"]);
    if std::env::var_os("KLYNGE_TEST_SHOW").is_some() {
        eprintln!("{listed}");
    }
    for wanted in [
        "table ip klynge-services",
        "table ip6 klynge-services",
        "table ip klynge-pods",
        "table ip klynge-tunnel",
        "type ipv4_addr . inet_proto . inet_service : mark",
        "type mark . mark : ipv6_addr . inet_service",
        "10.43.0.1 . tcp . 80 : 0x",
        "ip daddr . meta l4proto . th dport map @service-ports",
        "numgen random mod 2",
        "192.0.2.0",
        "meta mark set",
        "ip daddr . meta l4proto . th dport map @host-address-ports",
        "fib daddr type local",
        "iifname \"kly*\"",
        "10.43.0.5 . udp . 53 : 0x",
        "198.51.100.7",
        "ct status dnat ip saddr . ip daddr @hairpins",
    ] {
        assert!(listed.contains(wanted), "{wanted:?} is not in:\n{listed}");
    }
    for (wanted, what) in [("timeout 10m expires", "sticky"), ("timeout 1m expires", "here")] {
        assert!(listed.contains(wanted), "a client of {what} is remembered for its own time:\n{listed}");
    }
    let remembered = |listed: &str| listed.matches("expires").count();
    assert!(remembered(&listed) >= 4, "clients that are remembered are listed:\n{listed}");
    let json: serde_json::Value = serde_json::from_str(&output(&bed.host, &nft, &["-j", "list", "ruleset"])).unwrap();
    assert!(json["nftables"].as_array().unwrap().len() > 80);
    for (family, table) in [("ip", "klynge-services"), ("ip6", "klynge-services"), ("ip", "klynge-pods")] {
        output(&bed.host, &nft, &["-a", "list", "table", family, table]);
    }
    output(&bed.host, &nft, &["list", "chains"]);
    output(&bed.host, &nft, &["list", "maps"]);
    // Others change their own tables, and ours stay changeable.
    for command in [
        "add table inet mine",
        "add chain inet mine in { type filter hook input priority 0; }",
        "delete table inet mine",
    ] {
        output(&bed.host, &nft, &[command]);
    }
    set(&mut services, "plain", service("10.43.0.1", 80, Vec::new()));
    output(&bed.host, &nft, &["list", "ruleset"]);
}

#[test]
fn iptables_lists_and_changes_its_tables_beside_ours() {
    if !is_there("iptables-nft") || !is_there("ip6tables-nft") {
        return;
    }
    let (bed, _services, client) = busy_bed();
    for program in ["iptables-nft", "ip6tables-nft"] {
        output(&bed.host, program, &["-P", "FORWARD", "DROP"]);
        output(&bed.host, program, &["-P", "INPUT", "DROP"]);
        output(&bed.host, program, &["-A", "INPUT", "-i", "lo", "-j", "ACCEPT"]);
    }
    let admission = Admission {
        open_ports: vec![OpenPort { protocol: TransportProtocol::Tcp, port: 6443 }],
        cluster_ranges: vec![prefix("10.42.0.0/16"), prefix("fd00:42::/56")],
    };
    let mut nft = klynge_network::netlink::Nft::open_in(&bed.host).unwrap();
    assert_eq!(admit(&mut nft, &admission).unwrap().admitted.len(), 4);
    assert!(ask(&client.namespace, ip("10.43.0.1"), 80).is_ok());
    assert!(ask(&bed.host, ip("10.43.0.1"), 80).is_ok(), "the host gets the answers of pods");
    for program in ["iptables-nft", "ip6tables-nft"] {
        let rules = output(&bed.host, program, &["-S"]);
        assert!(rules.contains("-i kly+") && rules.contains("-o kly+"), "{rules}");
        assert!(rules.contains("--comment \"klynge: pods\""), "{rules}");
        assert!(rules.contains("-i kly+ -m conntrack --ctstate RELATED,ESTABLISHED"), "{rules}");
        let source = if program == "iptables-nft" { "192.0.2.7" } else { "2001:db8::7" };
        output(&bed.host, program, &["-I", "FORWARD", "-s", source, "-j", "DROP"]);
        assert!(output(&bed.host, program, &["-S", "FORWARD"]).contains(source));
        output(&bed.host, program, &["-D", "FORWARD", "-s", source, "-j", "DROP"]);
        output(&bed.host, program, &["-t", "nat", "-N", "MINE"]);
        output(&bed.host, program, &["-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "99", "-j", "MINE"]);
        assert!(output(&bed.host, program, &["-t", "nat", "-S"]).contains("--dport 99 -j MINE"));
        let saved = output(&bed.host, &program.replace("-nft", "-nft-save"), &[]);
        assert!(saved.contains("kly+"), "{saved}");
    }
    assert!(ask(&client.namespace, ip("10.43.0.1"), 80).is_ok());
}
