//! Measures cluster DNS: questions answered per CPU-second of the serving threads, hits and misses, beside knot and unbound where those are
//! installed, and the time until a change is seen.
//!
//! `cargo run --release -p klynge-network --example dns_bench [-- --quick]`, as root; everything happens in a network namespace of its own.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

mod peers;

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use klynge_network::dns::{Dns, DnsKind, DnsPort, DnsService, Name, Options};
use klynge_network::netlink::{NetworkNamespace, RouteBatch, Rtnetlink};
use klynge_network::services::{ServiceKey, TransportProtocol};

const SERVICES: u32 = 15_000;
const WINDOW: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    let seconds = if is_quick { 2 } else { 5 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let _inside = runtime.enter();
    let namespace = NetworkNamespace::create()?;
    namespace.run(|| -> Result<(), klynge_network::netlink::Error> {
        let mut rtnetlink = Rtnetlink::open()?;
        let mut batch = RouteBatch::new();
        batch.set_up(rtnetlink.index_of("lo")?);
        batch.send(rtnetlink.socket())
    })??;
    let mut options = Options::new(vec!["127.0.0.1:53".parse()?], "cluster.local");
    options.namespace = Some(namespace.clone());
    options.resolv_conf = Vec::new();
    let handle = Dns::run(options)?;
    let address = handle.addresses().first().copied().ok_or("not listening")?;
    let before_kib = resident_kib();
    let started = Instant::now();
    for number in 0..SERVICES {
        handle.update(&key(number), Some(service(number)));
    }
    let load = started.elapsed();
    let zone_kib = resident_kib().saturating_sub(before_kib);
    let mut figures = vec!["\"bench\":\"dns\"".to_owned(), format!("\"services\":{SERVICES}")];
    println!("{SERVICES} Services loaded in {:.0} ms, {zone_kib} KiB", load.as_secs_f64() * 1000.0);
    let names: Vec<_> = (0..SERVICES).map(|number| (format!("service-{number}"), cluster_ip(number))).collect();
    let peers = peers::start(&namespace, &names)?;
    let own_cpu = || cpu_seconds(std::process::id(), Some("dns"));
    println!("{:>10} {:>10} {:>14} {:>18}", "server", "questions", "per second", "per CPU-second");
    for (label, kind, suffix) in [
        ("A_hit", 1_u16, "default.svc.cluster.local"),
        ("SRV_hit", 33, "default.svc.cluster.local"),
        ("NXDOMAIN", 1, "default.svc.cluster.local.default.svc.cluster.local"),
    ] {
        let questions = Questions::new(kind, suffix)?;
        // There and back again (A B C, C B A), so that a drift of the machine meets all alike; the better round of each counts.
        let mut rows: Vec<(&str, f64, f64)> = Vec::new();
        for is_back in [false, true] {
            let mut order: Vec<Option<&peers::Peer>> = std::iter::once(None).chain(peers.iter().map(Some)).collect();
            if is_back {
                order.reverse();
            }
            for peer in order {
                let duration = Duration::from_secs(seconds);
                let (name, figures) = match peer {
                    None => ("klynge", measure(&namespace, address, &questions, &own_cpu, duration)?),
                    Some(peer) => {
                        (peer.name, measure(&namespace, peer.address, &questions, &|| peer.cpu_seconds(), duration)?)
                    }
                };
                match rows.iter_mut().find(|row| row.0 == name) {
                    Some(row) => (row.1, row.2) = (row.1.max(figures.0), row.2.max(figures.1)),
                    None => rows.push((name, figures.0, figures.1)),
                }
            }
        }
        let ours = rows.first().map_or(0.0, |row| row.2);
        figures.push(format!("\"{}_per_cpu_s\":{ours:.0}", label.to_lowercase()));
        for (name, per_second, per_cpu_second) in rows {
            println!("{name:>10} {label:>10} {per_second:>14.0} {per_cpu_second:>18.0}");
            if name != "klynge" {
                figures.push(format!(
                    "\"{}_share_of_{name}\":{:.2}",
                    label.to_lowercase(),
                    ours / per_cpu_second.max(1.0)
                ));
            }
        }
    }
    for peer in &peers {
        println!("{}: {} KiB PSS with the same names", peer.name, peer.memory_kib());
        figures.push(format!("\"{}_kib\":{}", peer.name, peer.memory_kib()));
    }
    drop(peers);
    // How long until a change is answered.
    let client = client(&namespace, address)?;
    let mut seen = Vec::new();
    for number in 0..200_u32 {
        let question = question(&format!("fresh-{number}.default.svc.cluster.local"), 1)?;
        let started = Instant::now();
        handle.update(&ServiceKey::new("default", format!("fresh-{number}")), Some(service(number)));
        let mut buffer = [0; 512];
        client.send(&question)?;
        client.recv(&mut buffer)?;
        if buffer.get(6..8) != Some(&[0, 1]) {
            return Err("a change was not seen by the next question".into());
        }
        seen.push(started.elapsed());
    }
    seen.sort_unstable();
    let p99 = seen.get(197).copied().unwrap_or_default();
    println!("change to answer: p99 {} us", p99.as_micros());
    figures.push(format!("\"zone_kib\":{zone_kib},\"change_to_answer_p99_us\":{}", p99.as_micros()));
    println!("{{{}}}", figures.join(","));
    Ok(())
}

/// A thousand questions of one kind, spread over the names.
struct Questions(Vec<Vec<u8>>);

impl Questions {
    fn new(kind: u16, suffix: &str) -> Result<Self, Box<dyn Error>> {
        let prefix = if kind == 33 { "_http._tcp." } else { "" };
        let one = |number: u32| question(&format!("{prefix}service-{}.{suffix}", number * 13 % SERVICES), kind);
        Ok(Self((0..1000).map(one).collect::<Result<_, _>>()?))
    }
}

/// Keeps a window of questions under way from one client, and counts the processor time of the server.
fn measure(
    namespace: &NetworkNamespace,
    address: SocketAddr,
    questions: &Questions,
    server_cpu_seconds: &dyn Fn() -> f64,
    duration: Duration,
) -> Result<(f64, f64), Box<dyn Error>> {
    let client = client(namespace, address)?;
    let mut next = questions.0.iter().cycle();
    let mut send = || client.send(next.next().map_or(&[], Vec::as_slice));
    for _ in 0..WINDOW {
        send()?;
    }
    let cpu_before = server_cpu_seconds();
    let started = Instant::now();
    let mut answered = 0_u32;
    let mut buffer = [0; 2048];
    while started.elapsed() < duration {
        client.recv(&mut buffer)?;
        answered += 1;
        send()?;
    }
    let (elapsed, cpu) = (started.elapsed().as_secs_f64(), server_cpu_seconds() - cpu_before);
    Ok((f64::from(answered) / elapsed, f64::from(answered) / cpu.max(0.001)))
}

fn client(namespace: &NetworkNamespace, address: SocketAddr) -> Result<UdpSocket, Box<dyn Error>> {
    let socket = namespace.run(|| UdpSocket::bind("127.0.0.1:0"))??;
    socket.connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(socket)
}

fn question(name: &str, kind: u16) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut bytes = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(Name::parse(name)?.wire());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    Ok(bytes)
}

fn key(number: u32) -> ServiceKey {
    ServiceKey::new("default", format!("service-{number}"))
}

fn cluster_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a2b_0000 + number)
}

fn service(number: u32) -> DnsService {
    DnsService {
        kind: DnsKind::ClusterIps(vec![IpAddr::V4(cluster_ip(number))]),
        ports: vec![DnsPort { name: "http".to_owned(), protocol: TransportProtocol::Tcp, port: 80 }],
    }
}

/// The run time, in nanoseconds precision, of a process's threads, or of those with one name.
fn cpu_seconds(process: u32, only: Option<&str>) -> f64 {
    let mut total = 0.0;
    for task in std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
        if only
            .is_none_or(|only| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == only))
        {
            let schedule = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            total += schedule.split(' ').next().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0) / 1e9;
        }
    }
    total
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0)
}
