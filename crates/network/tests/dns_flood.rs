//! One client of cluster DNS asks as fast as it can for names whose resolver is dead; another one is answered all the same.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use klynge_network::dns::{Dns, DnsKind, DnsService, Options};
use klynge_network::services::ServiceKey;

/// A resolver that answers at once, and one that never does.
fn living() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
            let address = RData::A(std::net::Ipv4Addr::new(192, 0, 2, 1).into());
            answer.add_answer(Record::from_rdata(query.queries[0].name().clone(), 60, address));
            answer.add_queries(query.queries);
            socket.send_to(&answer.to_vec().unwrap(), client).unwrap();
        }
    });
    address
}

fn question(name: &str, id: u16) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = id;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

/// Asks as fast as the kernel takes it, every time for another name, until it is told to stop.
fn flood(server: SocketAddr, stop: Arc<AtomicBool>, sent: Arc<AtomicUsize>) -> std::thread::JoinHandle<()> {
    let socket = UdpSocket::bind("127.0.0.2:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let mut bytes = question("xxxxxxxx.dead.example.", 1);
        let mut ignored = [0; 512];
        while !stop.load(Ordering::Relaxed) {
            let number = sent.fetch_add(1, Ordering::Relaxed);
            bytes[13..21].copy_from_slice(format!("{number:08}").as_bytes());
            let _ = socket.send_to(&bytes, server);
            while socket.recv(&mut ignored).is_ok() {}
        }
    })
}

/// What a client sees: the answer's code and how long it took, asking again after a second as resolvers do; and how often it asked.
fn ask(socket: &UdpSocket, server: SocketAddr, name: &str, id: u16) -> (ResponseCode, Duration, usize) {
    let (begun, bytes) = (Instant::now(), question(name, id));
    for attempt in 1..=5 {
        socket.send_to(&bytes, server).unwrap();
        let mut buffer = [0; 4096];
        while let Ok(length) = socket.recv(&mut buffer) {
            let answer = Message::from_vec(&buffer[..length]).unwrap();
            if answer.metadata.id == id {
                return (answer.metadata.response_code, begun.elapsed(), attempt);
            }
        }
    }
    (ResponseCode::Refused, begun.elapsed(), 5)
}

#[test]
fn one_that_floods_leaves_the_others_their_answers() {
    let dead = UdpSocket::bind("127.0.0.1:0").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let inside = runtime.enter();
    let mut options = Options::new(vec!["127.0.0.1:0".parse().unwrap()], "cluster.local");
    options.resolv_conf = vec!["/nonexistent".into()];
    options.outside.stub_domains =
        vec![(String::new(), vec![dead.local_addr().unwrap()]), ("good.example".to_owned(), vec![living()])];
    let handle = Dns::run(options).unwrap();
    let server = handle.addresses()[0];
    let service = DnsService { kind: DnsKind::ClusterIps(vec!["10.43.0.7".parse().unwrap()]), ports: Vec::new() };
    handle.update(&ServiceKey::new("default", "web"), Some(service));

    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let flooding = flood(server, Arc::clone(&stop), Arc::clone(&sent));
    let begun = Instant::now();
    while handle.statistics().questions < 5000 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the flood does not arrive");
        std::thread::sleep(Duration::from_millis(5));
    }
    let victim = UdpSocket::bind("127.0.0.3:0").unwrap();
    victim.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let (mut first, mut asked, mut times) = (0, 0, Vec::new());
    for number in 0..200_u16 {
        let name = format!("u{number}.good.example.");
        for name in ["web.default.svc.cluster.local.", name.as_str()] {
            let (code, took, attempts) = ask(&victim, server, name, number * 2 + u16::from(name.starts_with('u')));
            assert_eq!(code, ResponseCode::NoError, "{name} after {attempts} attempts");
            (first, asked) = (first + usize::from(attempts == 1), asked + 1);
            times.push(took);
        }
    }
    stop.store(true, Ordering::Relaxed);
    flooding.join().unwrap();
    times.sort();
    println!(
        "{asked} questions beside a flood of {:.0} a second: {first} answered at the first attempt, median {:?}, p99 {:?}",
        sent.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64(),
        times[times.len() / 2],
        times[times.len() * 99 / 100],
    );
    drop(handle);
    drop(inside);
}
