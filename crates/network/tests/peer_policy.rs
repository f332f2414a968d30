//! Policies between nodes, proven by packets: each end's node enforces its side, over one subnet and through the tunnel.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bed;

use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bed::cluster::{Fabric, Node, Wire, join};
use bed::policies::{Policies, block, egress, ingress, of, own, rule, tcp, udp};
use bed::{Pod, ask_udp, ip, local, service, set, udp_client};
use klynge_network::netlink::NetworkNamespace;
use klynge_network::policy::Change;
use klynge_network::services::{Endpoint, Programmer, TrafficPolicy};

const NODE_PORT: u16 = 30_080;

fn reaches(from: &NetworkNamespace, to: IpAddr, port: u16) -> bool {
    let attempt = || {
        let address = std::net::SocketAddr::new(to, port);
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(500))?;
        stream.set_read_timeout(Some(bed::TIMEOUT))?;
        bed::greeting(&mut stream)
    };
    from.run(|| attempt().is_ok()).unwrap()
}

struct Pair {
    a: Node,
    b: Node,
    client: Pod,
    server: Pod,
    outside: NetworkNamespace,
    policies: [Policies; 2],
    services: [Programmer; 2],
    _fabric: Fabric,
}

impl Pair {
    /// A client on node a, a server on node b; each node knows the other's pod as the API tells of it.
    fn new(subnet_of_b: usize) -> Self {
        let fabric = Fabric::new();
        let (mut a, mut b) = (fabric.node(0, 1), fabric.node(subnet_of_b, 2));
        join(&mut [&mut a, &mut b]);
        let (client, server) = (a.pod("client").serve(), b.pod("server").serve());
        let (outside, _) = fabric.machine(0, 100, Wire::Dual);
        let mut policies = [Policies::new(&a.namespace), Policies::new(&b.namespace)];
        let services = [a.services(), b.services()];
        let [on_a, on_b] = &mut policies;
        on_a.attach(&client, "default", "");
        on_b.attach(&server, "default", "");
        for (known, other) in [(&*on_a, &*on_b)].map(|(a, b)| (a.known.clone(), b.known.clone())) {
            let told = |pods: &std::collections::BTreeMap<String, klynge_network::policy::LocalPod>| {
                pods.iter()
                    .map(|(uid, pod)| Change::Pod(uid.clone(), Some(Arc::new(pod.state.clone()))))
                    .collect::<Vec<_>>()
            };
            on_a.programmer.apply(told(&other)).unwrap();
            on_b.programmer.apply(told(&known)).unwrap();
        }
        Self { a, b, client, server, outside, policies, services, _fabric: fabric }
    }

    /// Both nodes learn of a policy, as they do.
    fn set(&mut self, name: &str, policy: &klynge_network::policy::Policy) {
        for node in &mut self.policies {
            node.set(name, policy.clone());
        }
    }

    fn remove(&mut self, name: &str) {
        for node in &mut self.policies {
            node.remove(name);
        }
    }

    fn seen(&self) -> [bool; 3] {
        let client = &self.client.namespace;
        [
            reaches(client, self.server.ip(), 8080),
            reaches(client, self.server.ip6(), 8080),
            ask_udp(&udp_client(client), self.server.ip(), 5353).is_ok(),
        ]
    }
}

fn check(subnet_of_b: usize) {
    let mut pair = Pair::new(subnet_of_b);
    assert_eq!(pair.seen(), [true; 3]);
    for (what, policy, wanted) in [
        ("ingress denied", ingress("name=server", vec![]), [false; 3]),
        ("ingress from the client", ingress("name=server", vec![rule(vec![own("name=client")], vec![])]), [true; 3]),
        ("ingress from another", ingress("name=server", vec![rule(vec![of("", "name=x")], vec![])]), [false; 3]),
        (
            "ingress at a port of TCP",
            ingress("name=server", vec![rule(vec![], vec![tcp(8080, 8080)])]),
            [true, true, false],
        ),
        (
            "ingress from the client's IPv4 address",
            ingress("name=server", vec![rule(vec![block("10.42.1.0/24", &[])], vec![])]),
            [true, false, true],
        ),
        ("egress denied", egress("name=client", vec![]), [false; 3]),
        (
            "egress to the server",
            egress("name=client", vec![rule(vec![of("team=a", "name=server")], vec![])]),
            [true; 3],
        ),
        ("egress of UDP", egress("name=client", vec![rule(vec![own("")], vec![udp(1, 65535)])]), [false, false, true]),
        ("ingress of the client: answers come", ingress("name=client", vec![]), [true; 3]),
        ("egress of the server: it answers", egress("name=server", vec![]), [true; 3]),
    ] {
        pair.set("p", &policy);
        assert_eq!(pair.seen(), wanted, "{what}, subnet {subnet_of_b}");
    }
    pair.remove("p");
    check_services(&mut pair);
}

/// Through a Service's address and node ports: judged by the pod's address and port, with the source that arrives.
fn check_services(pair: &mut Pair) {
    for external_policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
        for (index, programmer) in pair.services.iter_mut().enumerate() {
            let endpoint = if index == 1 { local(&pair.server, 8080) } else { Endpoint::ready(pair.server.ip(), 8080) };
            let mut state = service("10.43.0.7", 80, vec![endpoint]);
            state.ports[0].node_port = Some(NODE_PORT);
            state.external_policy = external_policy;
            set(programmer, "web", state);
        }
        let (a, b) = (pair.a.ip(), pair.b.ip());
        let all = |pair: &Pair| {
            [
                reaches(&pair.client.namespace, ip("10.43.0.7"), 80),
                reaches(&pair.outside, b, NODE_PORT),
                reaches(&pair.outside, a, NODE_PORT),
            ]
        };
        let is_cluster = external_policy == TrafficPolicy::Cluster;
        assert_eq!(all(pair), [true, true, is_cluster]);
        pair.set("p", &ingress("name=server", vec![rule(vec![own("name=client")], vec![tcp(8080, 8080)])]));
        assert_eq!(all(pair), [true, false, false], "the client alone");
        pair.set("p", &ingress("name=server", vec![rule(vec![own("name=client")], vec![tcp(80, 80)])]));
        assert_eq!(all(pair), [false, false, false], "the Service's port is not the pod's");
        pair.set("p", &egress("name=client", vec![rule(vec![own("name=server")], vec![tcp(8080, 8080)])]));
        assert_eq!(all(pair), [true, true, is_cluster], "egress through the Service");
        pair.set("p", &egress("name=client", vec![rule(vec![block("10.43.0.0/16", &[])], vec![])]));
        assert_eq!(all(pair), [false, true, is_cluster], "the Service's address is nobody's");
        pair.remove("p");
    }
    // Under Local the outside's own address arrives.
    pair.set("p", &ingress("name=server", vec![rule(vec![block("192.0.2.100/32", &[])], vec![])]));
    assert!(reaches(&pair.outside, pair.b.ip(), NODE_PORT));
    assert!(reaches(&pair.b.namespace, pair.server.ip(), 8080), "its own node");
    assert!(!reaches(&pair.a.namespace, pair.server.ip(), 8080), "another node is an address like others");
}

#[test]
fn on_one_subnet() {
    check(0);
}

#[test]
fn through_the_tunnel() {
    check(1);
}
