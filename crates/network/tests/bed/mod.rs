//! The test bed: a host, pods and an outside machine in network namespaces of their own, with real servers in them.
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(dead_code, unreachable_pub, reason = "each test file uses a part of the bed")]

pub mod cluster;
pub mod policies;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use klynge_network::Prefix;
use klynge_network::netlink::{NetworkNamespace, Route, RouteBatch, Rtnetlink, VethPair};
use klynge_network::pod_net::{Options, PodAttachment, PodNetwork};
use klynge_network::services::{self, Endpoint, Programmer, ServiceKey, ServicePort, ServiceState};

pub const HOST: &str = "192.0.2.1";
pub const OUTSIDE: &str = "192.0.2.2";
pub const TIMEOUT: Duration = Duration::from_secs(2);

/// A machine with pods, and another one on the same wire.
pub struct Bed {
    pub host: NetworkNamespace,
    pub outside: NetworkNamespace,
    pub network: PodNetwork,
    pub directory: tempfile::TempDir,
}

pub struct Pod {
    pub namespace: NetworkNamespace,
    pub addresses: Vec<IpAddr>,
    pub uid: String,
    pub interface: String,
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub fn options(host: &NetworkNamespace, directory: &std::path::Path) -> Options {
    Options {
        namespace: host.clone(),
        pod_ranges: vec![prefix("10.42.0.0/24"), prefix("fd00:42::/64")],
        cluster_ranges: vec![prefix("10.42.0.0/16"), prefix("fd00:42::/56")],
        service_ranges: vec![prefix("10.43.0.0/16"), prefix("fd00:43::/112")],
        node_addresses: vec![ip(HOST), ip("2001:db8::1")],
        directory: Some(directory.to_owned()),
        mtu_bytes: None,
    }
}

impl Bed {
    pub fn new() -> Self {
        let host = NetworkNamespace::create().unwrap();
        let outside = NetworkNamespace::create().unwrap();
        let mut rtnetlink = Rtnetlink::open_in(&host).unwrap();
        let mut batch = RouteBatch::new();
        batch.add_veth(&VethPair {
            name: "up0",
            address: [2, 0, 0, 0, 0, 1],
            peer_name: "eth0",
            peer_address: [2, 0, 0, 0, 0, 2],
            peer_namespace: Some(&outside),
            mtu_bytes: 1500,
        });
        batch.send(rtnetlink.socket()).unwrap();
        give_address(&mut rtnetlink, "up0", &[(HOST, 24), ("2001:db8::1", 64)]);
        let mut inside = Rtnetlink::open_in(&outside).unwrap();
        give_address(&mut inside, "eth0", &[(OUTSIDE, 24), ("2001:db8::2", 64)]);
        let mut batch = RouteBatch::new();
        for (to, gateway) in [("0.0.0.0/0", HOST), ("::/0", "2001:db8::1")] {
            batch.add_route(&Route {
                destination: prefix(to),
                gateway: Some(ip(gateway)),
                interface: None,
                source: None,
                on_link: false,
            });
        }
        batch.send(inside.socket()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let network = PodNetwork::open(options(&host, directory.path())).unwrap();
        Self { host, outside, network, directory }
    }

    pub fn pod(&mut self, uid: &str) -> Pod {
        self.pod_with(uid, Vec::new())
    }

    pub fn pod_with(&mut self, uid: &str, host_ports: Vec<klynge_network::pod_net::HostPort>) -> Pod {
        let namespace = NetworkNamespace::create().unwrap();
        let attachment = PodAttachment { uid: uid.to_owned(), namespace: namespace.clone(), host_ports };
        let attached = self.network.attach(&attachment).unwrap();
        Pod { namespace, addresses: attached.addresses, uid: uid.to_owned(), interface: attached.interface }
    }

    pub fn services(&self) -> Programmer {
        let mut options = services::Options::new(self.host.clone());
        options.pod_ranges = vec![prefix("10.42.0.0/16"), prefix("fd00:42::/56")];
        options.service_ranges = vec![prefix("10.43.0.0/16"), prefix("fd00:43::/112")];
        options.node_addresses = vec![ip(HOST), ip("2001:db8::1")];
        let mut programmer = Programmer::new(options).unwrap();
        programmer.resync().unwrap();
        programmer
    }
}

pub fn give_address(rtnetlink: &mut Rtnetlink, interface: &str, addresses: &[(&str, u8)]) {
    let index = rtnetlink.index_of(interface).unwrap();
    let mut batch = RouteBatch::new();
    batch.set_up(rtnetlink.index_of("lo").unwrap());
    batch.set_up(index);
    for (address, length) in addresses {
        batch.add_address(index, ip(address), *length);
    }
    batch.send(rtnetlink.socket()).unwrap();
}

impl Pod {
    pub fn ip(&self) -> IpAddr {
        self.addresses[0]
    }

    pub fn ip6(&self) -> IpAddr {
        self.addresses[1]
    }

    /// Answers each TCP connection with "name client-address", and each line on it with the line.
    pub fn serve_tcp(&self, port: u16) {
        serve_tcp(&self.namespace, "[::]", port, &self.uid);
    }

    /// Answers each datagram with "name client-address".
    pub fn serve_udp(&self, port: u16) {
        let socket = self.namespace.run(|| UdpSocket::bind(("0.0.0.0", port)).unwrap()).unwrap();
        let name = self.uid.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
            }
        });
    }
}

pub fn serve_tcp(namespace: &NetworkNamespace, address: &str, port: u16, name: &str) {
    let listener = namespace.run(|| TcpListener::bind(format!("{address}:{port}")).unwrap()).unwrap();
    let name: Arc<str> = name.into();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let name = Arc::clone(&name);
            std::thread::spawn(move || {
                let peer = stream.peer_addr().map(|peer| peer.ip().to_canonical());
                let Ok(peer) = peer else { return };
                if stream.write_all(format!("{name} {peer}\n").as_bytes()).is_err() {
                    return;
                }
                let mut buffer = [0; 1024];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Connects from inside a namespace.
pub fn connect(namespace: &NetworkNamespace, address: IpAddr, port: u16) -> std::io::Result<TcpStream> {
    let stream = namespace.run(|| TcpStream::connect_timeout(&SocketAddr::new(address, port), TIMEOUT)).unwrap()?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// Connects from a port of one's own choice, which may have been used a moment ago; waits for 200 ms.
pub fn connect_from(namespace: &NetworkNamespace, from: u16, address: IpAddr, port: u16) -> std::io::Result<TcpStream> {
    let connect = || -> std::io::Result<TcpStream> {
        let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None)?;
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
        let patience = Some(Duration::from_millis(200));
        rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Send, patience)?;
        rustix::net::bind(&socket, &SocketAddr::from(([0, 0, 0, 0], from)))?;
        rustix::net::connect(&socket, &SocketAddr::new(address, port))?;
        Ok(socket.into())
    };
    let stream = namespace.run(connect).unwrap()?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// Who answered, and which address it saw.
pub fn ask(namespace: &NetworkNamespace, address: IpAddr, port: u16) -> std::io::Result<(String, IpAddr)> {
    let mut stream = connect(namespace, address, port)?;
    greeting(&mut stream)
}

pub fn greeting(stream: &mut TcpStream) -> std::io::Result<(String, IpAddr)> {
    let mut text = String::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        text.push(char::from(byte[0]));
    }
    let (name, peer) = text.split_once(' ').ok_or(std::io::ErrorKind::InvalidData)?;
    Ok((name.to_owned(), peer.parse().map_err(|_| std::io::ErrorKind::InvalidData)?))
}

/// A UDP client socket in a namespace.
pub fn udp_client(namespace: &NetworkNamespace) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket
}

pub fn ask_udp(socket: &UdpSocket, address: IpAddr, port: u16) -> std::io::Result<String> {
    socket.send_to(b"hello", (address, port))?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Repeats `attempt` until it holds or the deadline passes.
pub fn eventually(what: &str, mut attempt: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !attempt() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

pub fn local(pod: &Pod, port: u16) -> Endpoint {
    Endpoint { node_local: true, ..Endpoint::ready(pod.ip(), port) }
}

pub fn service(cluster_ip: &str, port: u16, endpoints: Vec<Endpoint>) -> ServiceState {
    ServiceState {
        cluster_ips: vec![ip(cluster_ip)],
        ports: vec![ServicePort { port, endpoints, ..ServicePort::default() }],
        ..ServiceState::default()
    }
}

pub fn set(programmer: &mut Programmer, name: &str, state: ServiceState) -> services::Report {
    programmer.apply([(key(name), Some(Arc::new(state)))]).unwrap()
}
