//! Services over SCTP, where the kernel has it (`tests/guest/network sctp` runs this under one that does).
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod bed;

use std::collections::HashSet;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use bed::{Bed, HOST, eventually, ip, local, service, set};
use klynge_network::netlink::NetworkNamespace;
use klynge_network::services::TransportProtocol;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

/// A socket in the style of TCP (RFC 6458, section 4): std's streams serve it.
fn socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    Ok(rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::SCTP))?)
}

/// Answers each association with "name client-address".
fn serve(namespace: &NetworkNamespace, name: &str, address: &str) {
    let address: SocketAddr = address.parse().unwrap();
    let name = name.to_owned();
    let listener = namespace.run(|| {
        let socket = socket(address).unwrap();
        rustix::net::bind(&socket, &address).unwrap();
        rustix::net::listen(&socket, 16).unwrap();
        TcpListener::from(socket)
    });
    let listener = listener.unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let peer = stream.peer_addr().unwrap().ip().to_canonical();
            let _ = stream.write_all(format!("{name} {peer}").as_bytes());
            let _ = stream.read(&mut [0; 1]); // until the client has gone
        }
    });
}

fn ask(namespace: &NetworkNamespace, host: IpAddr, port: u16) -> io::Result<String> {
    let asked = namespace.run(|| {
        let address = SocketAddr::new(host, port);
        let socket = socket(address)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?; // for the connection as well
        rustix::net::connect(&stream, &address)?;
        let mut buffer = [0; 256];
        let length = (&stream).read(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    });
    asked.unwrap()
}

fn is_there() -> bool {
    let there = socket(SocketAddr::from(([127, 0, 0, 1], 0))).is_ok();
    if !there {
        eprintln!("skipped: this kernel has no SCTP");
    }
    there
}

#[test]
fn associations_go_through_cluster_addresses_and_node_ports() {
    if !is_there() {
        return;
    }
    let mut bed = Bed::new();
    let client = bed.pod("client");
    let pods = [bed.pod("a"), bed.pod("b")];
    for pod in &pods {
        serve(&pod.namespace, &pod.uid, "[::]:8080");
        // The same port over TCP is another one.
        pod.serve_tcp(8080);
    }
    let mut services = bed.services();
    let state = |endpoints| {
        let mut state = service("10.43.0.7", 80, endpoints);
        state.ports[0].protocol = TransportProtocol::Sctp;
        state.ports[0].node_port = Some(30_080);
        state
    };
    set(&mut services, "web", state(pods.iter().map(|pod| local(pod, 8080)).collect()));
    let mut answered = HashSet::new();
    for _ in 0..30 {
        answered.insert(ask(&client.namespace, ip("10.43.0.7"), 80).unwrap());
    }
    let from_pod = |name: &str| format!("{name} {}", client.ip());
    assert_eq!(answered, HashSet::from([from_pod("a"), from_pod("b")]), "both, and the source stays");
    eventually("the node port", || ask(&bed.outside, ip(HOST), 30_080).is_ok());
    assert!(bed::ask(&client.namespace, ip("10.43.0.7"), 80).is_err(), "not over TCP");
    // One endpoint goes, then both.
    set(&mut services, "web", state(vec![local(&pods[1], 8080)]));
    for _ in 0..10 {
        assert_eq!(ask(&client.namespace, ip("10.43.0.7"), 80).unwrap(), from_pod("b"));
    }
    set(&mut services, "web", state(Vec::new()));
    assert!(ask(&client.namespace, ip("10.43.0.7"), 80).is_err(), "nobody is there");
}
