//! Several nodes in network namespaces, on subnets that a router joins; the router refuses to carry packets with addresses of pods.

use std::io::{Read as _, Write as _};
use std::net::IpAddr;

use klynge_network::netlink::{
    ChainSpec, Expressions, Family, Hook, NetworkNamespace, Nft, NftBatch, Route, RouteBatch, Rtnetlink, Verdict,
    VethPair,
};
use klynge_network::pod_net::{Options, Peer, PeersReport, PodAttachment, PodNetwork};
use klynge_network::services::{self, Programmer};

use super::{Pod, ask, connect, give_address, greeting, ip, prefix};

/// The subnets that nodes may be on: IPv4 and IPv6 of each.
const SUBNETS: [(&str, &str); 2] = [("192.0.2.", "2001:db8:0:a::"), ("198.51.100.", "2001:db8:0:b::")];

/// Which families a node's own network has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Dual,
    OnlyIpv6,
}

/// The machines between the nodes: a bridge for each subnet, and a router.
pub struct Fabric {
    pub router: NetworkNamespace,
}

/// A node of a cluster.
pub struct Node {
    pub namespace: NetworkNamespace,
    pub network: PodNetwork,
    pub options: Options,
    pub name: String,
    pub pod_ranges: Vec<klynge_network::Prefix>,
    directory: tempfile::TempDir,
}

impl Fabric {
    pub fn new() -> Self {
        let router = NetworkNamespace::create().unwrap();
        prepare(&router);
        for family in ["iptables", "ip6tables"] {
            // Where br_netfilter is loaded, the router's rules would see what the bridges carry as well. Absent is fine.
            let _ = router.write_sysctl(&format!("net/bridge/bridge-nf-call-{family}"), "0");
        }
        let mut rtnetlink = Rtnetlink::open_in(&router).unwrap();
        for (number, (four, six)) in SUBNETS.iter().enumerate() {
            let bridge = format!("br{number}");
            let mut batch = RouteBatch::new();
            batch.add_bridge(&bridge);
            batch.send(rtnetlink.socket()).unwrap();
            give_address(&mut rtnetlink, &bridge, &[(&format!("{four}254"), 24), (&format!("{six}fe"), 64)]);
        }
        router.write_sysctl("net/ipv4/ip_forward", "1").unwrap();
        router.write_sysctl("net/ipv6/conf/all/forwarding", "1").unwrap();
        let mut nft = Nft::open_in(&router).unwrap();
        let mut batch = NftBatch::new();
        for (family, pods) in [(Family::Ip, "10.42.0.0/16"), (Family::Ip6, "fd00:42::/56")] {
            batch.add_table(family, "cloud");
            batch.add_chain(family, "cloud", &ChainSpec { name: "forward", base: Some((Hook::Forward, "filter", 0)) });
            let scratch = klynge_network::netlink::Register::new(0);
            for rule in [
                Expressions::new().match_source_prefix(&prefix(pods), false, scratch),
                Expressions::new().match_destination_prefix(&prefix(pods), false, scratch),
            ] {
                batch.add_rule(family, "cloud", "forward", &rule.verdict(Verdict::Drop));
            }
        }
        batch.commit(nft.socket()).unwrap();
        Self { router }
    }

    /// A machine on a subnet, with the default route through the router.
    pub fn machine(&self, subnet: usize, number: u8, wire: Wire) -> (NetworkNamespace, Vec<IpAddr>) {
        let machine = NetworkNamespace::create().unwrap();
        prepare(&machine);
        let mut rtnetlink = Rtnetlink::open_in(&self.router).unwrap();
        let port = format!("port{subnet}-{number}");
        let mut batch = RouteBatch::new();
        let tail = u8::try_from(subnet).unwrap();
        batch.add_veth(&VethPair {
            name: &port,
            address: [2, 0, 0, 1, tail, number],
            peer_name: "eth0",
            peer_address: [2, 0, 0, 2, tail, number],
            peer_namespace: Some(&machine),
            mtu_bytes: 1500,
        });
        batch.send(rtnetlink.socket()).unwrap();
        let mut batch = RouteBatch::new();
        let bridge = rtnetlink.index_of(&format!("br{subnet}")).unwrap();
        batch.set_master(rtnetlink.index_of(&port).unwrap(), bridge);
        batch.send(rtnetlink.socket()).unwrap();
        let (four, six) = SUBNETS[subnet];
        let mut addresses = vec![format!("{four}{number}"), format!("{six}{number:x}")];
        let mut gateways = vec![("0.0.0.0/0", format!("{four}254")), ("::/0", format!("{six}fe"))];
        if wire == Wire::OnlyIpv6 {
            addresses.remove(0);
            gateways.remove(0);
        }
        let mut inside = Rtnetlink::open_in(&machine).unwrap();
        let lengths: Vec<(&str, u8)> =
            addresses.iter().map(|text| (text.as_str(), if text.contains(':') { 64 } else { 24 })).collect();
        give_address(&mut inside, "eth0", &lengths);
        add_default_routes(&mut inside, &gateways);
        (machine, addresses.iter().map(|text| ip(text)).collect())
    }

    /// A node on a subnet; its number is in its addresses and ranges.
    pub fn node(&self, subnet: usize, number: u8) -> Node {
        self.node_on(subnet, number, Wire::Dual)
    }

    pub fn node_on(&self, subnet: usize, number: u8, wire: Wire) -> Node {
        let (namespace, addresses) = self.machine(subnet, number, wire);
        Node::open(namespace, number, addresses)
    }
}

/// Machines that have been up for a while: without duplicate address detection, which would keep neighbours unknown for a second or two.
fn prepare(machine: &NetworkNamespace) {
    machine.write_sysctl("net/ipv6/conf/default/accept_dad", "0").unwrap();
}

fn add_default_routes(rtnetlink: &mut Rtnetlink, gateways: &[(&str, String)]) {
    let mut batch = RouteBatch::new();
    for (everywhere, gateway) in gateways {
        batch.add_route(&Route {
            destination: prefix(everywhere),
            gateway: Some(ip(gateway)),
            interface: None,
            source: None,
            on_link: false,
        });
    }
    batch.send(rtnetlink.socket()).unwrap();
}

impl Node {
    pub fn open(namespace: NetworkNamespace, number: u8, node_addresses: Vec<IpAddr>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pod_ranges = vec![prefix(&format!("10.42.{number}.0/24")), prefix(&format!("fd00:42:0:{number:x}::/64"))];
        let options = Options {
            namespace: namespace.clone(),
            pod_ranges: pod_ranges.clone(),
            cluster_ranges: vec![prefix("10.42.0.0/16"), prefix("fd00:42::/56")],
            service_ranges: vec![prefix("10.43.0.0/16"), prefix("fd00:43::/112")],
            node_addresses,
            directory: Some(directory.path().to_owned()),
            mtu_bytes: None,
        };
        let network = PodNetwork::open(options.clone()).unwrap();
        Self { namespace, network, options, name: format!("node{number}"), pod_ranges, directory }
    }

    /// As if its agent had been killed and started again.
    pub fn restart(&mut self) {
        self.network = PodNetwork::open(self.options.clone()).unwrap();
    }

    /// Takes up the pods that live on.
    pub fn recover(&mut self, live: &[&Pod]) {
        let attachment = |pod: &&Pod| PodAttachment {
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            host_ports: Vec::new(),
        };
        let live: Vec<PodAttachment> = live.iter().map(attachment).collect();
        assert_eq!(self.network.recover(&live).unwrap(), [""; 0]);
    }

    pub fn ip(&self) -> IpAddr {
        self.options.node_addresses[0]
    }

    /// What the others know of it.
    pub fn peer(&self) -> Peer {
        Peer {
            name: self.name.clone(),
            addresses: self.options.node_addresses.clone(),
            pod_ranges: self.pod_ranges.clone(),
            encryption_key: None,
            since_s: 0,
        }
    }

    pub fn pod(&mut self, uid: &str) -> Pod {
        let namespace = NetworkNamespace::create().unwrap();
        let attachment = PodAttachment { uid: uid.to_owned(), namespace: namespace.clone(), host_ports: Vec::new() };
        let attached = self.network.attach(&attachment).unwrap();
        Pod { namespace, addresses: attached.addresses, uid: uid.to_owned(), interface: attached.interface }
    }

    pub fn services(&self) -> Programmer {
        let mut options = services::Options::new(self.namespace.clone());
        options.pod_ranges.clone_from(&self.options.cluster_ranges);
        options.service_ranges.clone_from(&self.options.service_ranges);
        options.node_addresses.clone_from(&self.options.node_addresses);
        let mut programmer = Programmer::new(options).unwrap();
        programmer.resync().unwrap();
        programmer
    }

    /// The interfaces, and the ranges of other nodes' pods that are routed.
    pub fn kernel(&self) -> (Vec<String>, Vec<String>) {
        let mut rtnetlink = Rtnetlink::open_in(&self.namespace).unwrap();
        let links = rtnetlink.links().unwrap().into_iter().map(|link| link.name).collect();
        let routes = rtnetlink.routes().unwrap();
        let mut routed: Vec<String> = routes
            .iter()
            .filter(|route| route.protocol == 114 && route.gateway.is_some() && route.destination.length() > 0)
            .map(|route| route.destination.to_string())
            .collect();
        routed.sort();
        (links, routed)
    }

    pub fn has_interface(&self, name: &str) -> bool {
        self.kernel().0.iter().any(|link| link == name)
    }

    /// The entries of its tunnel: forwarding entries and neighbours.
    pub fn tunnel_entries(&self, name: &str) -> (usize, usize) {
        let mut rtnetlink = Rtnetlink::open_in(&self.namespace).unwrap();
        let index = rtnetlink.index_of(name).unwrap();
        (rtnetlink.forwardings(index).unwrap().len(), rtnetlink.neighbours(index).unwrap().len())
    }

    /// A foreign firewall that drops all that is forwarded or comes in, but what belongs to connections of its own.
    pub fn close_firewall(&self) {
        let mut nft = Nft::open_in(&self.namespace).unwrap();
        let mut batch = NftBatch::new();
        let scratch = klynge_network::netlink::Register::new(0);
        for family in [Family::Ip, Family::Ip6] {
            batch.add_table(family, "filter");
            for (name, hook) in [("FORWARD", Hook::Forward), ("INPUT", Hook::Input)] {
                batch.add_chain(family, "filter", &ChainSpec { name, base: Some((hook, "filter", 0)) });
                if family == Family::Ip6 {
                    let discovery = Expressions::new().match_protocol(58, scratch).verdict(Verdict::Accept);
                    batch.add_rule(family, "filter", name, &discovery);
                }
                batch.add_rule(family, "filter", name, &Expressions::new().verdict(Verdict::Drop));
            }
        }
        batch.commit(nft.socket()).unwrap();
    }
}

/// Makes all nodes each other's peers, and returns what each said.
pub fn join(nodes: &mut [&mut Node]) -> Vec<PeersReport> {
    let peers: Vec<Peer> = nodes.iter().map(|node| node.peer()).collect();
    let mut reports = Vec::new();
    for (number, node) in nodes.iter_mut().enumerate() {
        let others: Vec<Peer> =
            peers.iter().enumerate().filter(|(other, _)| *other != number).map(|(_, peer)| peer.clone()).collect();
        let report = node.network.set_peers(&others).unwrap();
        assert_eq!(report.problems, [], "{}", node.name);
        reports.push(report);
    }
    reports
}

/// Asserts that each pod reaches the other, in both families, over TCP and UDP, and sees its address. Both serve 8080 and 5353.
pub fn assert_connected(one: &Pod, other: &Pod) {
    for (from, to) in [(one, other), (other, one)] {
        for (address, own) in [(to.ip(), from.ip()), (to.ip6(), from.ip6())] {
            let seen = ask(&from.namespace, address, 8080).map_err(|error| error.to_string());
            assert_eq!(seen, Ok((to.uid.clone(), own)), "{} to {}", from.uid, to.uid);
        }
        let socket = super::udp_client(&from.namespace);
        assert_eq!(super::ask_udp(&socket, to.ip(), 5353).unwrap(), format!("{} {}", to.uid, from.ip()));
    }
}

/// Sends this much through an echo server, and asserts that it comes back.
pub fn assert_carries(from: &NetworkNamespace, to: IpAddr, bytes: usize) {
    let mut stream = connect(from, to, 8080).unwrap();
    greeting(&mut stream).unwrap();
    let sent: Vec<u8> = (0..bytes).map(|index| u8::try_from(index % 251).unwrap()).collect();
    let mut writer = stream.try_clone().unwrap();
    let copy = sent.clone();
    let writing = std::thread::spawn(move || writer.write_all(&copy));
    let mut back = vec![0; bytes];
    stream.read_exact(&mut back).unwrap();
    writing.join().unwrap().unwrap();
    assert!(sent == back, "the bytes came back changed");
}

impl Pod {
    /// TCP on 8080, UDP on 5353.
    pub fn serve(self) -> Self {
        self.serve_tcp(8080);
        self.serve_udp(5353);
        self
    }

    pub fn mtu_bytes(&self) -> u32 {
        Rtnetlink::open_in(&self.namespace).unwrap().link_by_name("eth0").unwrap().mtu_bytes
    }
}
