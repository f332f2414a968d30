//! Measures pods of different nodes against the nodes' own wires (throughput and requests per second), also where what goes between
//! them is encrypted in user space, and what peers cost.
//!
//! `cargo run --release -p klynge-network --example network_bench [-- --quick]`, as root; everything happens in network namespaces of its own.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

#[path = "../tests/bed/mod.rs"]
mod bed;

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bed::cluster::{Fabric, Node, Wire, join};
use klynge_network::netlink::{Forwarding, Neighbour, NetworkNamespace, RouteBatch, Rtnetlink, VxlanInfo};
use klynge_network::pod_net::{ENCRYPTION_INTERFACE, ENCRYPTION_PORT, Peer, PodNetwork, PrivateKey};
use klynge_network::wireguard::{self, Process, Setup};

const PORT: u16 = 7777;
const CHUNK_BYTES: usize = 128 * 1024;

/// A way from one namespace to another.
struct Path {
    name: &'static str,
    from: NetworkNamespace,
    to: IpAddr,
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [word, directory] = &words[..]
        && word == wireguard::WORD
    {
        return Ok(wireguard::serve(directory.as_ref())?);
    }
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    let (rounds, span) = if is_quick { (2, Duration::from_millis(500)) } else { (5, Duration::from_secs(1)) };
    let mut figures = vec!["\"bench\":\"network\"".to_owned()];
    let fabric = Fabric::new();
    let (mut a, mut b, mut c) = (fabric.node(0, 1), fabric.node(0, 2), fabric.node(1, 3));
    join(&mut [&mut a, &mut b, &mut c]);
    let (one, two, three) = (a.pod("one"), b.pod("two"), c.pod("three"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (mut d, mut e) = (fabric.node(0, 4), fabric.node(1, 5));
    let processes = [encrypt(&mut d, &runtime)?, encrypt(&mut e, &runtime)?];
    let peers_of = [(&mut d, 1), (&mut e, 0)].map(|(node, other)| (node, processes[other].peer.clone()));
    for (node, other) in peers_of {
        node.network.set_peers(&[other])?;
    }
    let (four, five) = (d.pod("four"), e.pod("five"));
    let (near, near_addresses) = fabric.machine(0, 11, Wire::Dual);
    let (far, far_addresses) = fabric.machine(1, 12, Wire::Dual);
    let raw = [(&near, near_addresses[0], 1), (&far, far_addresses[0], 2)];
    add_raw_vxlan(raw[0], raw[1])?;
    add_raw_vxlan(raw[1], raw[0])?;
    for namespace in [&b.namespace, &two.namespace, &three.namespace, &five.namespace, &far] {
        serve(namespace)?;
    }
    let paths = [
        Path { name: "raw veth", from: a.namespace.clone(), to: b.ip() },
        Path { name: "pods, one subnet", from: one.namespace.clone(), to: two.ip() },
        Path { name: "raw vxlan", from: near.clone(), to: "10.200.0.2".parse()? },
        Path { name: "pods, tunnel", from: one.namespace.clone(), to: three.ip() },
        Path { name: "pods, encrypted", from: four.namespace.clone(), to: five.ip() },
    ];
    // The ways take turns, so that what else the machine does falls on all alike.
    let mut measured = [(); 5].map(|()| (Vec::new(), Vec::new()));
    for _ in 0..rounds {
        for (path, (throughputs, rates)) in paths.iter().zip(&mut measured) {
            throughputs.push(throughput(path, span)?);
            rates.push(requests(path, span)?);
        }
    }
    let results = measured.map(|(mut throughputs, mut rates)| (median(&mut throughputs), median(&mut rates)));
    println!("{:<18} {:>10} {:>14}", "way", "Gbit/s", "requests/s");
    for (path, (throughput, rate)) in paths.iter().zip(results) {
        println!("{:<18} {throughput:>10.2} {rate:>14.0}", path.name);
        let key = path.name.replace(", ", "_").replace(' ', "_");
        figures.push(format!("\"{key}_gbit_s\":{throughput:.2},\"{key}_requests_s\":{rate:.0}"));
    }
    for (name, pods, wire) in
        [("subnet", results[1], results[0]), ("tunnel", results[3], results[2]), ("encrypted", results[4], results[2])]
    {
        let (throughput, rate) = (100.0 * pods.0 / wire.0, 100.0 * pods.1 / wire.1);
        println!("pods as a share of the raw wire, {name}: {throughput:.0} % of throughput, {rate:.0} % of requests");
        figures.push(format!("\"{name}_throughput_percent\":{throughput:.0},\"{name}_requests_percent\":{rate:.0}"));
    }
    figures.push(format!("\"encrypted_process_kib\":{}", processes[0].private_kib()?));
    figures.push(encrypted_peers(&mut d, &processes[0], 5000)?);
    for count in [5, 500, 5000] {
        figures.push(peers(&fabric, count)?);
    }
    // Those who look after the processes go first.
    drop((d, e));
    for directory in processes.map(|process| process.directory) {
        wireguard::end(&directory)?;
    }
    println!("{{{}}}", figures.join(","));
    Ok(())
}

/// A process that encrypts in user space, and what its node is to the other.
struct Encrypting {
    tunnel: Arc<wireguard::Handle>,
    peer: Peer,
    directory: std::path::PathBuf,
}

impl Encrypting {
    /// Its private memory.
    fn private_kib(&self) -> Result<u64, Box<dyn Error>> {
        let process = self.tunnel.process().ok_or("it does not run")?;
        let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
        let of = |line: &str| line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
        Ok(text.lines().filter(|line| line.starts_with("Private_")).filter_map(of).sum())
    }
}

fn encrypt(node: &mut Node, runtime: &tokio::runtime::Runtime) -> Result<Encrypting, Box<dyn Error>> {
    let directory = node.options.directory.clone().ok_or("a node without a directory")?;
    let key_file = directory.join("wireguard.key");
    let public_key = PrivateKey::load_or_make(&key_file)?.public_key();
    let setup = Setup {
        interface: ENCRYPTION_INTERFACE.to_owned(),
        port: ENCRYPTION_PORT,
        key_file,
        public_key,
        groups: Vec::new(),
    };
    let options = wireguard::Options { directory: directory.clone(), program: "/proc/self/exe".into(), setup };
    let tunnel = Arc::new(runtime.block_on(Process::run(options, node.namespace.clone()))?);
    node.network.encrypt_in_user_space(Arc::clone(&tunnel))?;
    Ok(Encrypting { tunnel, peer: Peer { encryption_key: Some(public_key), ..node.peer() }, directory })
}

/// What many peers cost a process: told at once, one changed, its memory.
fn encrypted_peers(node: &mut Node, process: &Encrypting, count: u16) -> Result<String, Box<dyn Error>> {
    let peer = |number: u16, variant: u8| -> Result<Peer, Box<dyn Error>> {
        let [high, low] = number.to_be_bytes();
        let mut key = [1; 32];
        key[..3].copy_from_slice(&[high, low, 1]);
        Ok(Peer {
            name: format!("peer{number}"),
            addresses: vec![IpAddr::from([198, 18 + variant, high, low])],
            pod_ranges: vec![format!("10.42.{}.{}/30", 64 + high, low & !3).parse()?],
            encryption_key: Some(klynge_network::netlink::PublicKey(key)),
            since_s: 0,
        })
    };
    // Every fourth number has a range of its own.
    let all = (0..count).map(|number| peer(number * 4 % 49_152 + number / 12_288, 0)).collect::<Result<Vec<_>, _>>()?;
    let start = Instant::now();
    node.network.set_peers(&all)?;
    let cold = start.elapsed().as_secs_f64() * 1e3;
    let mut changes = Vec::new();
    for round in 0..50_u16 {
        let changed = peer(round * 4, 1)?;
        let start = Instant::now();
        node.network.change_peers([(changed.name.clone(), Some(changed))])?;
        changes.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let change = median(&mut changes);
    let memory = process.private_kib()?;
    println!(
        "{count} encrypted peers: all {cold:.0} ms, one changed {change:.1} ms, the process has {memory} KiB of its own"
    );
    Ok(format!(
        "\"encrypted_{count}_cold_ms\":{cold:.1},\"encrypted_{count}_change_ms\":{change:.2},\"encrypted_{count}_process_kib\":{memory}"
    ))
}

/// A VXLAN interface with nothing around it, from one machine to another.
fn add_raw_vxlan(
    (own, local, number): (&NetworkNamespace, IpAddr, u8),
    (_, remote, other): (&NetworkNamespace, IpAddr, u8),
) -> Result<(), Box<dyn Error>> {
    let mut rtnetlink = Rtnetlink::open_in(own)?;
    let mut batch = RouteBatch::new();
    let vxlan = VxlanInfo { identifier: 7, port: 4789, local, is_learning: false };
    batch.add_vxlan("raw", [2, 0, 0, 9, 0, number], 1450, &vxlan);
    batch.send(rtnetlink.socket())?;
    let interface = rtnetlink.index_of("raw")?;
    let mut batch = RouteBatch::new();
    batch.set_up(interface);
    batch.add_address(interface, format!("10.200.0.{number}").parse()?, 24);
    let link_address = [2, 0, 0, 9, 0, other];
    batch.add_forwarding(&Forwarding { interface, link_address, destination: remote });
    batch.add_neighbour(&Neighbour { interface, address: format!("10.200.0.{other}").parse()?, link_address });
    Ok(batch.send(rtnetlink.socket())?)
}

/// Answers each byte 1 with a byte, and takes everything else in.
fn serve(namespace: &NetworkNamespace) -> Result<(), Box<dyn Error>> {
    let listener = namespace.run(|| TcpListener::bind(("0.0.0.0", PORT)))??;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut buffer = vec![0; CHUNK_BYTES];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if length == 1 && buffer[0] == 1 && stream.write_all(&[1]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(())
}

fn connect(path: &Path) -> Result<TcpStream, Box<dyn Error>> {
    let to = SocketAddr::new(path.to, PORT);
    let stream = path.from.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(3)))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Gbit/s of one connection.
fn throughput(path: &Path, span: Duration) -> Result<f64, Box<dyn Error>> {
    let mut stream = connect(path)?;
    let chunk = vec![0; CHUNK_BYTES];
    let start = Instant::now();
    let mut chunks = 0_u32;
    while start.elapsed() < span {
        stream.write_all(&chunk)?;
        chunks += 1;
    }
    let bits = f64::from(chunks) * f64::from(u32::try_from(CHUNK_BYTES)?) * 8.0;
    Ok(bits / start.elapsed().as_secs_f64() / 1e9)
}

/// Questions and answers of one byte per second, one after the other.
fn requests(path: &Path, span: Duration) -> Result<f64, Box<dyn Error>> {
    let mut stream = connect(path)?;
    let start = Instant::now();
    let mut count = 0_u32;
    while start.elapsed() < span {
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0])?;
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

/// What a number of peers costs: all at once, one changed, a check.
fn peers(fabric: &Fabric, count: u32) -> Result<String, Box<dyn Error>> {
    let node = fabric.node(0, u8::try_from(100 + count % 97)?);
    let mut options = node.options.clone();
    options.cluster_ranges.push("10.128.0.0/9".parse()?);
    let mut network = PodNetwork::open(options)?;
    let peer = |number: u32, variant: u8| -> Result<Peer, Box<dyn Error>> {
        let [_, _, high, low] = number.to_be_bytes();
        Ok(Peer {
            name: format!("peer{number}"),
            addresses: vec![IpAddr::from([198, 18 + variant, high, low])],
            pod_ranges: vec![format!("10.{}.{low}.0/24", 128 + u32::from(high)).parse()?],
            encryption_key: None,
            since_s: 0,
        })
    };
    let all = (0..count).map(|number| peer(number, 0)).collect::<Result<Vec<_>, _>>()?;
    let start = Instant::now();
    network.set_peers(&all)?;
    let cold = start.elapsed();
    let mut changes = Vec::new();
    for round in 0..200 {
        let changed = peer(round % count, u8::from((round / count).is_multiple_of(2)))?;
        let start = Instant::now();
        network.change_peers([(changed.name.clone(), Some(changed))])?;
        changes.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let change = median(&mut changes);
    let start = Instant::now();
    network.verify_peers()?;
    let check = start.elapsed();
    println!("{count:>5} peers: all {cold:.1?}, one changed {change:.0} us, check {check:.1?}");
    let (cold, check) = (cold.as_secs_f64() * 1e3, check.as_secs_f64() * 1e3);
    Ok(format!(
        "\"peers_{count}_cold_ms\":{cold:.1},\"peers_{count}_change_us\":{change:.0},\"peers_{count}_check_ms\":{check:.1}"
    ))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
