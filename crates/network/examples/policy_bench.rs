//! Measures policies: 200 of them over 1,000 pods of which 110 (a full node) or all are here: the first load, one pod that comes, one whose label
//! changes, one policy that changes, and a look into conntrack.
//!
//! `cargo run --release -p klynge-network --example policy_bench [-- --quick]`, as root; everything happens in a network namespace of its own.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use klynge_network::netlink::{Family, NetworkNamespace};
use klynge_network::policy::{
    Change, Labels, LocalPod, Options, Peer, PodState, Policy, PolicyKey, Port, Programmer, Rule,
};
use klynge_network::services::TransportProtocol;
use object::selector::labels::Selector;

const PODS: u16 = 1_000;
const POLICIES: u16 = 200;
const NAMESPACES: u16 = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    let rounds: u16 = if is_quick { 50 } else { 300 };
    let mut figures = vec!["\"bench\":\"policy\"".to_owned()];
    println!(
        "{:>10} {:>9} {:>16} {:>16} {:>17} {:>15}",
        "pods here", "cold ms", "pod p50/p99 us", "label p50 us", "policy p50 us", "elements"
    );
    for here in [110, PODS] {
        let mut programmer = Programmer::new(Options {
            namespace: NetworkNamespace::create()?,
            families: vec![Family::Ip, Family::Ip6],
            stand_ins: Vec::new(),
        })?;
        let policies = (0..POLICIES).map(|number| Ok((key(number), policy(number, 80)?)));
        let policies = policies.collect::<Result<Vec<_>, Box<dyn Error>>>()?;
        let namespaces = (0..NAMESPACES).map(|number| (format!("ns-{number}"), Labels::new())).collect();
        let pods = (0..PODS).map(|number| (uid(number), Arc::new(pod(number, 0)))).collect();
        let local = (0..here).map(local_pod).collect();
        programmer.apply([Change::Policies(policies), Change::Namespaces(namespaces), Change::Pods(pods)])?;
        let started = Instant::now();
        let report = programmer.apply([Change::Recovered(local), Change::Known])?;
        let cold = started.elapsed();
        let mut timed = |changes: &dyn Fn(u16) -> Result<Change, Box<dyn Error>>| {
            let mut times = Vec::new();
            for round in 0..rounds {
                let change = changes(round)?;
                let started = Instant::now();
                programmer.apply([change])?;
                times.push(started.elapsed());
            }
            Ok::<_, Box<dyn Error>>(times)
        };
        // A pod comes to this node and goes, as a new pod waits for it.
        let mut coming = timed(&|round| {
            let number = PODS + 1;
            Ok(if round % 2 == 0 { Change::Attached(local_pod(number)) } else { Change::Detached(uid(number)) })
        })?;
        // A pod elsewhere changes a label that selectors ask for.
        let mut labels = timed(&|round| {
            let number = 900 + round % 100;
            Ok(Change::Pod(uid(number), Some(Arc::new(pod(number, 1 + round / 100)))))
        })?;
        let mut changed = timed(&|round| {
            let number = round % POLICIES;
            Ok(Change::Policy(key(number), Some(policy(number, 81 + round)?)))
        })?;
        let started = Instant::now();
        programmer.revoke()?;
        let look = started.elapsed();
        let (p50, p99) = (quantile(&mut coming, 50), quantile(&mut coming, 99));
        let (label, change) = (quantile(&mut labels, 50), quantile(&mut changed, 50));
        println!(
            "{here:>10} {:>9.1} {:>16} {:>16} {:>17} {:>15}",
            cold.as_secs_f64() * 1000.0,
            format!("{}/{}", p50.as_micros(), p99.as_micros()),
            label.as_micros(),
            change.as_micros(),
            report.added,
        );
        println!("look into an empty conntrack: {} us", look.as_micros());
        figures.push(format!("\"cold_{here}_ms\":{:.1}", cold.as_secs_f64() * 1000.0));
        figures.push(format!("\"pod_{here}_p50_us\":{},\"pod_{here}_p99_us\":{}", p50.as_micros(), p99.as_micros()));
        figures.push(format!("\"label_{here}_p50_us\":{}", label.as_micros()));
        figures.push(format!("\"policy_{here}_p50_us\":{}", change.as_micros()));
        figures.push(format!("\"look_{here}_us\":{}", look.as_micros()));
    }
    println!("{{{}}}", figures.join(","));
    Ok(())
}

fn key(number: u16) -> PolicyKey {
    PolicyKey::new(format!("ns-{}", number % NAMESPACES), format!("policy-{number}"))
}

fn uid(number: u16) -> String {
    format!("pod-{number}")
}

/// A policy of its namespace for one of ten applications: from another of the same namespace, from a role in all, and from a block, at a
/// port of its own.
fn policy(number: u16, port: u16) -> Result<Arc<Policy>, Box<dyn Error>> {
    let application = (number / NAMESPACES) % 10;
    let peers = vec![
        Peer::Pods { namespaces: None, pods: Selector::parse(&format!("app=app-{}", (application + 1) % 10))? },
        Peer::Pods {
            namespaces: Some(Selector::everything()),
            pods: Selector::parse(&format!("role=role-{}", number % 7))?,
        },
        Peer::Block { range: "192.0.2.0/24".parse()?, except: vec!["192.0.2.128/25".parse()?] },
    ];
    let ports = vec![Port::Numbers { protocol: TransportProtocol::Tcp, first: port, last: port }];
    let rules = vec![Rule { peers, ports }];
    Ok(Arc::new(Policy {
        pods: Selector::parse(&format!("app=app-{application}"))?,
        ingress: Some(rules.clone()),
        egress: Some(rules),
    }))
}

fn pod(number: u16, variant: u16) -> PodState {
    let labels = [
        ("app".to_owned(), format!("app-{}", (number / NAMESPACES) % 10)),
        ("role".to_owned(), format!("role-{}", (number + variant) % 7)),
    ];
    let [high, low] = number.to_be_bytes();
    PodState {
        namespace: format!("ns-{}", number % NAMESPACES),
        labels: labels.into(),
        ports: Vec::new(),
        addresses: vec![
            IpAddr::V4(Ipv4Addr::new(10, 42, high, low)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number)),
        ],
    }
}

fn local_pod(number: u16) -> LocalPod {
    LocalPod { uid: uid(number), interface: format!("kly{number}"), state: pod(number, 0) }
}

fn quantile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}
