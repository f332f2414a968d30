//! Measures how long the kernel takes to get 1,000 to 50,000 Services, one changed Service among them, and one attached pod; and what a
//! connection through a Service takes longer than one to its endpoint.
//!
//! `cargo run --release -p klynge-network --example services_bench [-- --quick]`, as root; everything happens in a network namespace of its own.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::collections::HashMap;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use klynge_network::netlink::{NetworkNamespace, RouteBatch, Rtnetlink};
use klynge_network::pod_net::{self, PodAttachment, PodNetwork};
use klynge_network::services::{Endpoint, Options, Programmer, ServiceKey, ServicePort, ServiceState};

const CHANGES: usize = 300;

fn main() -> Result<(), Box<dyn Error>> {
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    let changes = if is_quick { 100 } else { CHANGES };
    let mut figures = vec!["\"bench\":\"services\"".to_owned()];
    println!(
        "{:>9} {:>12} {:>14} {:>14} {:>16} {:>18} {:>18}",
        "services",
        "cold ms",
        "change p50 us",
        "change p99 us",
        "same key p50 us",
        "connect p50 us",
        "through it p50 us"
    );
    for count in [1_000, 10_000, 50_000] {
        let namespace = NetworkNamespace::create()?;
        let mut options = Options::new(namespace.clone());
        options.pod_ranges = vec!["10.0.0.0/9".parse()?];
        options.service_ranges = vec!["10.128.0.0/9".parse()?];
        let mut programmer = Programmer::new(options)?;
        let all: HashMap<ServiceKey, Arc<ServiceState>> =
            (0..count).map(|number| (key(number), Arc::new(service(number, 0)))).collect();
        let started = Instant::now();
        programmer.replace(all)?;
        let cold = started.elapsed();
        // An endpoint of one Service after another is replaced: what a rolling update does.
        let mut times = Vec::with_capacity(changes);
        for round in 0..changes {
            let number = u32::try_from(round * 7919)? % count;
            let change = (key(number), Some(Arc::new(service(number, 1 + u32::try_from(round)?))));
            let started = Instant::now();
            programmer.apply([change])?;
            times.push(started.elapsed());
        }
        let mut coming_and_going = Vec::with_capacity(changes);
        for round in 0..changes {
            let state = (round % 2 == 1).then(|| Arc::new(service(3, 0)));
            let started = Instant::now();
            programmer.apply([(key(3), state)])?;
            coming_and_going.push(started.elapsed());
        }
        let (p50, p99, same) =
            (quantile(&mut times, 50), quantile(&mut times, 99), quantile(&mut coming_and_going, 50));
        let (direct, through) = connect(&namespace, &mut programmer, if is_quick { 2_000 } else { 10_000 })?;
        println!(
            "{count:>9} {:>12.1} {:>14} {:>14} {:>16} {:>18.1} {:>18.1}",
            cold.as_secs_f64() * 1000.0,
            p50.as_micros(),
            p99.as_micros(),
            same.as_micros(),
            direct.as_secs_f64() * 1e6,
            through.as_secs_f64() * 1e6
        );
        let added = through.as_secs_f64() - direct.as_secs_f64();
        figures.push(format!("\"added_{count}_us\":{:.1}", added.max(0.0) * 1e6));
        figures.push(format!("\"cold_{count}_ms\":{:.1}", cold.as_secs_f64() * 1000.0));
        figures.push(format!("\"change_{count}_p50_us\":{}", p50.as_micros()));
        figures.push(format!("\"change_{count}_p99_us\":{}", p99.as_micros()));
    }
    let (attach, detach) = attach(if is_quick { 50 } else { 200 })?;
    println!("\nattach a pod: p50 {} us, detach: p50 {} us", attach.as_micros(), detach.as_micros());
    figures.push(format!("\"attach_p50_us\":{},\"detach_p50_us\":{}", attach.as_micros(), detach.as_micros()));
    println!("{{{}}}", figures.join(","));
    Ok(())
}

/// The median times to connect to an endpoint, and through a Service to the same endpoint, by turns.
fn connect(
    namespace: &NetworkNamespace,
    programmer: &mut Programmer,
    rounds: usize,
) -> Result<(Duration, Duration), Box<dyn Error>> {
    let endpoint: SocketAddr = "192.0.2.1:8080".parse()?;
    let front: SocketAddr = "10.255.0.1:80".parse()?;
    let state = ServiceState {
        cluster_ips: vec![front.ip()],
        ports: vec![ServicePort {
            port: 80,
            endpoints: vec![Endpoint::ready(endpoint.ip(), 8080)],
            ..ServicePort::default()
        }],
        ..ServiceState::default()
    };
    programmer.apply([(ServiceKey::new("default", "measured"), Some(Arc::new(state)))])?;
    let listener = namespace.run(|| -> Result<TcpListener, Box<dyn Error + Send + Sync>> {
        let mut rtnetlink = Rtnetlink::open()?;
        let lo = rtnetlink.index_of("lo")?;
        let mut batch = RouteBatch::new();
        batch.set_up(lo);
        batch.add_address(lo, endpoint.ip(), 32);
        batch.add_address(lo, "10.128.0.1".parse()?, 9); // makes every Service's address one that can be sent to
        batch.send(rtnetlink.socket())?;
        Ok(TcpListener::bind(endpoint)?)
    })?;
    let listener = listener.map_err(|error| error.to_string())?;
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let measured = namespace.run(move || -> std::io::Result<_> {
        let (mut direct, mut through) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
        for round in 0..rounds * 2 {
            let (address, times) = if round % 2 == 0 { (endpoint, &mut direct) } else { (front, &mut through) };
            let started = Instant::now();
            let connection = TcpStream::connect(address)?;
            times.push(started.elapsed());
            drop(connection);
        }
        Ok((quantile(&mut direct, 50), quantile(&mut through, 50)))
    })??;
    Ok(measured)
}

fn attach(count: usize) -> Result<(Duration, Duration), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let mut network = PodNetwork::open(pod_net::Options {
        namespace: NetworkNamespace::create()?,
        pod_ranges: vec!["10.42.0.0/22".parse()?],
        cluster_ranges: vec!["10.42.0.0/16".parse()?],
        service_ranges: Vec::new(),
        node_addresses: Vec::new(),
        directory: Some(directory.path().to_owned()),
        mtu_bytes: None,
    })?;
    let (mut attached, mut detached) = (Vec::new(), Vec::new());
    let mut pods = Vec::new();
    for number in 0..count {
        let pod = PodAttachment {
            uid: format!("pod-{number}"),
            namespace: NetworkNamespace::create()?,
            host_ports: Vec::new(),
        };
        let started = Instant::now();
        network.attach(&pod)?;
        attached.push(started.elapsed());
        pods.push(pod);
    }
    for pod in &pods {
        let started = Instant::now();
        network.detach(&pod.uid)?;
        detached.push(started.elapsed());
    }
    Ok((quantile(&mut attached, 50), quantile(&mut detached, 50)))
}

fn key(number: u32) -> ServiceKey {
    ServiceKey::new("default", format!("service-{number}"))
}

fn service(number: u32, variant: u32) -> ServiceState {
    let address = |base: u32, offset: u32| IpAddr::V4(Ipv4Addr::from_bits(base + offset));
    let endpoints = vec![
        Endpoint::ready(address(0x0a00_0000, 1 + 2 * number), 8080),
        Endpoint::ready(address(0x0a40_0000, 2 + 2 * number + variant), 8080),
    ];
    ServiceState {
        cluster_ips: vec![address(0x0a80_0000, 1 + number)],
        ports: vec![ServicePort { port: 80, endpoints, ..ServicePort::default() }],
        ..ServiceState::default()
    }
}

fn quantile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}
