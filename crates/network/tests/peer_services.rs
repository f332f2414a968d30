//! Services whose endpoints are on other nodes, proven by packets: over one subnet, and through the tunnel.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bed;

use std::io::ErrorKind;
use std::net::IpAddr;

use bed::cluster::{Fabric, Node, Wire, join};
use bed::{Pod, ask, ask_udp, ip, local, service, set, udp_client};
use klynge_network::netlink::{NetworkNamespace, Nft};
use klynge_network::pod_net::{Admission, admit};
use klynge_network::services::{Endpoint, Programmer, ServicePort, TrafficPolicy, TransportProtocol};

const CLUSTER_IP: &str = "10.43.0.7";
const NODE_PORT: u16 = 30_080;

/// Two nodes, a pod on each, a client outside; everything about Services is the same whatever lies between the nodes.
struct Pair {
    a: Node,
    b: Node,
    on_a: Pod,
    on_b: Pod,
    client: Pod,
    outside: NetworkNamespace,
    outside_ip: IpAddr,
    services: [Programmer; 2],
    _fabric: Fabric,
}

impl Pair {
    fn new(subnet_of_b: usize) -> Self {
        let fabric = Fabric::new();
        let (mut a, mut b) = (fabric.node(0, 1), fabric.node(subnet_of_b, 2));
        join(&mut [&mut a, &mut b]);
        let (on_a, on_b, client) = (a.pod("on-a").serve(), b.pod("on-b").serve(), a.pod("client"));
        let (outside, addresses) = fabric.machine(0, 100, Wire::Dual);
        let services = [a.services(), b.services()];
        Self { a, b, on_a, on_b, client, outside, outside_ip: addresses[0], services, _fabric: fabric }
    }

    /// Programs a Service on both nodes with these pods behind it, as each node sees them.
    fn set(&mut self, pods: &[&str], change: impl Fn(&mut klynge_network::services::ServiceState)) {
        for (index, programmer) in self.services.iter_mut().enumerate() {
            let see = |pod: &Pod, home: usize, port| {
                if home == index { local(pod, port) } else { Endpoint::ready(pod.ip(), port) }
            };
            let all = [(&self.on_a, 0), (&self.on_b, 1)];
            let behind = |port| {
                let chosen = all.iter().filter(|(pod, _)| pods.contains(&pod.uid.as_str()));
                chosen.map(|(pod, home)| see(pod, *home, port)).collect::<Vec<_>>()
            };
            let mut state = service(CLUSTER_IP, 80, behind(8080));
            state.ports[0].node_port = Some(NODE_PORT);
            state.ports.push(ServicePort {
                name: "udp".to_owned(),
                protocol: TransportProtocol::Udp,
                port: 53,
                node_port: Some(NODE_PORT),
                endpoints: behind(5353),
            });
            change(&mut state);
            set(programmer, "web", state);
        }
    }
}

/// A check for both kinds of way between the nodes.
fn check(work: impl Fn(Pair, bool)) {
    work(Pair::new(0), false);
    work(Pair::new(1), true);
}

#[test]
fn a_cluster_address_reaches_a_pod_on_another_node_with_the_callers_address() {
    check(|mut pair, is_tunnelled| {
        pair.set(&["on-b"], |_| {});
        let to = ip(CLUSTER_IP);
        assert_eq!(ask(&pair.client.namespace, to, 80).unwrap(), ("on-b".to_owned(), pair.client.ip()));
        let socket = udp_client(&pair.client.namespace);
        assert_eq!(ask_udp(&socket, to, 53).unwrap(), format!("on-b {}", pair.client.ip()));
        // A pod calls its own Service on its own node, and gets itself.
        assert_eq!(ask(&pair.on_b.namespace, to, 80).unwrap(), ("on-b".to_owned(), pair.b.ip()));
        // The node's own processes.
        let expected = if is_tunnelled { ip("10.42.1.1") } else { pair.a.ip() };
        assert_eq!(ask(&pair.a.namespace, to, 80).unwrap(), ("on-b".to_owned(), expected));
        // Both endpoints are used.
        pair.set(&["on-a", "on-b"], |_| {});
        let mut seen = std::collections::HashSet::new();
        for _ in 0..40 {
            let (name, source) = ask(&pair.client.namespace, to, 80).unwrap();
            assert_eq!(source, pair.client.ip());
            seen.insert(name);
        }
        assert_eq!(seen.len(), 2);
    });
}

#[test]
fn a_node_port_passes_a_client_on_to_the_node_that_has_the_pod() {
    check(|mut pair, is_tunnelled| {
        pair.set(&["on-b"], |_| {});
        // Policy Cluster: through node 1, whose address the pod sees, so that the answer comes back that way.
        let via_a = if is_tunnelled { ip("10.42.1.1") } else { pair.a.ip() };
        assert_eq!(ask(&pair.outside, pair.a.ip(), NODE_PORT).unwrap(), ("on-b".to_owned(), via_a));
        let socket = udp_client(&pair.outside);
        assert_eq!(ask_udp(&socket, pair.a.ip(), NODE_PORT).unwrap(), format!("on-b {via_a}"));
        assert_eq!(ask(&pair.outside, pair.b.ip(), NODE_PORT).unwrap(), ("on-b".to_owned(), pair.b.ip()));
        // A pod that calls another node's port, and is led back to its own node.
        pair.set(&["on-a"], |_| {});
        let via_b = if is_tunnelled { ip("10.42.2.1") } else { pair.b.ip() };
        assert_eq!(ask(&pair.client.namespace, pair.b.ip(), NODE_PORT).unwrap(), ("on-a".to_owned(), via_b));
    });
}

#[test]
fn a_local_policy_keeps_the_clients_address_and_serves_on_the_pods_node_alone() {
    check(|mut pair, _| {
        pair.set(&["on-b"], |state| state.external_policy = TrafficPolicy::Local);
        assert_eq!(ask(&pair.outside, pair.b.ip(), NODE_PORT).unwrap(), ("on-b".to_owned(), pair.outside_ip));
        assert_eq!(ask(&pair.outside, pair.a.ip(), NODE_PORT).unwrap_err().kind(), ErrorKind::TimedOut);
        // Pods are no outsiders: they reach it on any node's port, and keep their address.
        assert_eq!(ask(&pair.client.namespace, pair.a.ip(), NODE_PORT).unwrap(), ("on-b".to_owned(), pair.client.ip()));
        assert_eq!(ask(&pair.a.namespace, pair.a.ip(), NODE_PORT).unwrap().0, "on-b");
    });
}

#[test]
fn a_closed_firewall_lets_a_client_through_to_another_node() {
    check(|mut pair, _| {
        pair.set(&["on-b"], |_| {});
        for node in [&pair.a, &pair.b] {
            node.close_firewall();
        }
        assert!(ask(&pair.outside, pair.a.ip(), NODE_PORT).is_err());
        let admission = Admission { open_ports: Vec::new(), cluster_ranges: pair.a.options.cluster_ranges.clone() };
        for node in [&pair.a, &pair.b] {
            admit(&mut Nft::open_in(&node.namespace).unwrap(), &admission).unwrap();
        }
        assert_eq!(ask(&pair.outside, pair.a.ip(), NODE_PORT).unwrap().0, "on-b");
    });
}
