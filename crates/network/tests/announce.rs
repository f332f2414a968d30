//! Addresses that are announced between real network namespaces: found by a real kernel's ARP and neighbour discovery, moved, yielded, refused.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bed;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bed::cluster::{Fabric, Node, Wire};
use bed::{Pod, ask, eventually, give_address, ip, local, service, set};
use klynge_network::announce::{Announcer, Handle, Options, subnets};
use klynge_network::netlink::{NetworkNamespace, Rtnetlink};
use klynge_network::services::{Endpoint, Programmer, ServicePort, TrafficPolicy};

const FOUR: &str = "192.0.2.240";
const SIX: &str = "2001:db8:0:a::f0";

/// Two nodes with a pod each that answers for the load balancer's addresses, and a client on their network.
struct Scene {
    nodes: Vec<(Node, Pod, Programmer, Handle, u64)>,
    client: NetworkNamespace,
    client_addresses: Vec<IpAddr>,
    fabric: Fabric,
}

fn announcer(namespace: &NetworkNamespace) -> Handle {
    Announcer::start(Options { namespace: namespace.clone() }).unwrap()
}

impl Scene {
    fn new(clusters: [u64; 2]) -> Self {
        let fabric = Fabric::new();
        let mut nodes = Vec::new();
        for (number, cluster) in (1..).zip(clusters) {
            let mut node = fabric.node(0, number);
            let pod = node.pod(&format!("on-{number}"));
            pod.serve_tcp(8080);
            let mut programmer = node.services();
            let mut state = service("10.43.0.7", 80, Vec::new());
            let endpoints = vec![local(&pod, 8080), Endpoint { ip: pod.ip6(), ..local(&pod, 8080) }];
            state.ports = vec![ServicePort { port: 80, endpoints, ..ServicePort::default() }];
            state.load_balancer_ips = vec![ip(FOUR), ip(SIX)];
            state.external_policy = TrafficPolicy::Local;
            set(&mut programmer, "web", state);
            let handle = announcer(&node.namespace);
            nodes.push((node, pod, programmer, handle, cluster));
        }
        let (client, client_addresses) = fabric.machine(0, 100, Wire::Dual);
        Self { nodes, client, client_addresses, fabric }
    }

    /// Node 1 or 2 announces both addresses by a decision, or neither.
    fn announce(&self, number: usize, decision: Option<u64>) {
        let wanted: BTreeMap<IpAddr, u64> =
            decision.into_iter().flat_map(|decision| [(ip(FOUR), decision), (ip(SIX), decision)]).collect();
        let (_, _, _, handle, cluster) = &self.nodes[number - 1];
        handle.set(*cluster, wanted);
    }

    /// Who answers on an address, if anybody.
    fn answers(&self, address: &str) -> Option<String> {
        let (name, seen) = ask(&self.client, ip(address), 80).ok()?;
        let own = self.client_addresses.iter().find(|one| one.is_ipv4() == seen.is_ipv4());
        assert_eq!(Some(&seen), own, "the client's address is kept");
        Some(name)
    }

    fn moves_to(&self, name: &str) {
        for address in [FOUR, SIX] {
            eventually(&format!("{name} answers on {address}"), || self.answers(address).as_deref() == Some(name));
        }
    }

    /// Neighbours that the client found are forgotten, so that it asks again.
    fn forget(&self) {
        // The kernel forgets all neighbours of an interface that goes down.
        let mut rtnetlink = Rtnetlink::open_in(&self.client).unwrap();
        let index = rtnetlink.index_of("eth0").unwrap();
        let mut batch = klynge_network::netlink::RouteBatch::new();
        batch.set_down(index);
        batch.send(rtnetlink.socket()).unwrap();
        let six = self.client_addresses[1].to_string();
        let mut batch = klynge_network::netlink::RouteBatch::new();
        batch.set_up(index);
        batch.add_address(index, ip(&six), 64);
        batch.send(rtnetlink.socket()).unwrap();
    }
}

#[test]
fn an_address_is_found_and_moves_at_once() {
    let scene = Scene::new([1, 1]);
    assert_eq!(scene.answers(FOUR), None, "nobody announces it");
    scene.announce(1, Some(10));
    scene.moves_to("on-1");
    // The other node takes over, though the first one still answers: it yields to the newer decision.
    scene.announce(2, Some(11));
    let begun = Instant::now();
    scene.moves_to("on-2");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    scene.forget();
    scene.moves_to("on-2");
    // Back again.
    scene.announce(1, Some(12));
    scene.moves_to("on-1");
    // What is announced no more is not found any more.
    scene.announce(1, None);
    scene.announce(2, None);
    scene.forget();
    for address in [FOUR, SIX] {
        assert_eq!(scene.answers(address), None, "{address}");
    }
    // An agent that starts again takes up what it announced.
    scene.announce(2, Some(13));
    scene.moves_to("on-2");
}

#[test]
fn an_address_that_a_host_has_is_left_to_it() {
    let scene = Scene::new([1, 1]);
    let (host, _) = scene.fabric.machine(0, 50, Wire::Dual);
    give_address(&mut Rtnetlink::open_in(&host).unwrap(), "eth0", &[(FOUR, 24), (SIX, 64)]);
    bed::serve_tcp(&host, "[::]", 80, "host");
    scene.announce(1, Some(10));
    let mut conflicts = scene.nodes[0].3.conflicts();
    eventually("the conflict is told", || conflicts.borrow_and_update().len() == 2);
    assert_eq!(conflicts.borrow().get(&ip(FOUR)), Some(&[2, 0, 0, 2, 0, 50]));
    scene.moves_to("host");
}

#[test]
fn another_clusters_node_counts_as_a_host() {
    let scene = Scene::new([1, 2]);
    scene.announce(1, Some(10));
    scene.moves_to("on-1");
    scene.announce(2, Some(99));
    let conflicts = scene.nodes[1].3.conflicts();
    eventually("the conflict is told", || conflicts.borrow().len() == 2);
    scene.forget();
    scene.moves_to("on-1");
}

#[test]
fn subnets_are_those_of_the_machines_own_networks() {
    let fabric = Fabric::new();
    let (machine, _) = fabric.machine(0, 1, Wire::Dual);
    assert_eq!(
        subnets(&machine).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["192.0.2.0/24", "2001:db8:0:a::/64"]
    );
    let handle = announcer(&machine);
    // An address of no subnet of the machine's: nobody is asked, nothing fails.
    handle.set(1, BTreeMap::from([(ip("203.0.113.7"), 1)]));
    drop(handle);
}
