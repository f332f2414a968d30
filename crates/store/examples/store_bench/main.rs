//! Measures the embedded store: durable puts with many writers and with one, reads, lists beside writes, memory, reopen.
//!
//! `cargo run --release -p klynge-store --example store_bench -- [--quick] [--directory DIR]` prints a table and, as its
//! last line, one JSON object.
//!
//! Beside it, in the same run, stands etcd where Debian's etcd-server is installed: over gRPC on loopback, since it has no
//! other door, with its own fsync of every batch.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark stops at the first failure and prints")]

mod etcd;

use bytes::Bytes;
use klynge_store::embedded::{Embedded, Options, open};
use klynge_store::{Change, Expect, Key, Operation, Revision, Store, Template, Transaction};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const VALUE_BYTES: usize = 2048;
const HEAD: &str = r#"{"metadata":{"resourceVersion":""},"data":""#;

fn template() -> Template {
    let mut value = String::from(HEAD);
    value.extend(std::iter::repeat_n('x', VALUE_BYTES - HEAD.len() - 2));
    value.push_str("\"}");
    let revision_at = HEAD.find(r#":""}"#).map(|at| at as u32 + 2);
    Template { bytes: Bytes::from(value), revision_at }
}

fn put(rest: &str, relaxed: bool) -> Transaction {
    let change = Change::Put(template());
    Transaction { operations: vec![Operation { key: Key::new("pods", rest), expect: Expect::Any, change }], relaxed }
}

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn percentile(latencies: &mut [Duration], part: f64) -> Duration {
    latencies.sort_unstable();
    latencies.get((latencies.len() as f64 * part) as usize).copied().unwrap_or_default()
}

/// Puts per second, median and 99th percentile with this many writers.
async fn puts(store: &Arc<Embedded>, writers: usize, total: usize, relaxed: bool) -> (f64, Duration, Duration) {
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|_| {
            let (store, next) = (Arc::clone(store), Arc::clone(&next));
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= total {
                        return latencies;
                    }
                    let transaction = put(&format!("ns/pod-{:06}", index % 20_000), relaxed);
                    let begin = Instant::now();
                    store.commit(transaction).await.unwrap();
                    latencies.push(begin.elapsed());
                }
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    let rate = total as f64 / start.elapsed().as_secs_f64();
    (rate, percentile(&mut latencies, 0.5), percentile(&mut latencies, 0.99))
}

/// The bare disk: write and fdatasync of one small record over prepared blocks.
fn bare_sync(directory: &Path, count: usize) -> Duration {
    use std::os::unix::fs::FileExt;
    let path = directory.join("bare");
    let file = std::fs::File::create(&path).unwrap();
    let record = vec![b'x'; VALUE_BYTES + 100];
    file.write_all_at(&vec![0; record.len() * count], 0).unwrap();
    file.sync_all().unwrap();
    let mut latencies = Vec::new();
    for index in 0..count {
        let begin = Instant::now();
        file.write_all_at(&record, (index * record.len()) as u64).unwrap();
        file.sync_data().unwrap();
        latencies.push(begin.elapsed());
    }
    std::fs::remove_file(path).unwrap();
    percentile(&mut latencies, 0.5)
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let place = arguments.iter().position(|argument| argument == "--directory").and_then(|at| arguments.get(at + 1));
    let scale = if quick { 10 } else { 1 };
    let directory = match place {
        Some(place) => tempfile::tempdir_in(place).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(directory.path(), scale));
}

/// What both did in turns: rate, median, 99th percentile.
struct Beside {
    ours: (f64, Duration, Duration),
    etcd: (f64, Duration, Duration),
    etcd_one: (f64, Duration, Duration),
}

/// Ours and etcd in the order A B B A, the better of the two rounds of each.
async fn beside_etcd(store: &Arc<Embedded>, directory: &Path, scale: usize) -> Option<Beside> {
    let etcd = etcd::Etcd::start(directory).await?;
    let (many, few) = (100_000 / scale, 20_000 / scale);
    let better = |a: (f64, Duration, Duration), b: (f64, Duration, Duration)| if a.0 >= b.0 { a } else { b };
    let first = puts(store, 64, many, false).await;
    let theirs = etcd.puts(64, few).await;
    let theirs = better(theirs, etcd.puts(64, few).await);
    let ours = better(first, puts(store, 64, many, false).await);
    let etcd_one = etcd.puts(1, 2000 / scale).await;
    Some(Beside { ours, etcd: theirs, etcd_one })
}

async fn run(directory: &Path, scale: usize) {
    let bare = bare_sync(directory, 2000 / scale);
    let options = Options::new(directory.join("store"));
    let store = open(options.clone()).unwrap();
    println!("{:<44} {:>12} {:>10} {:>10}", "2 KiB values", "per second", "p50 us", "p99 us");
    let line = |name: &str, (rate, median, high): (f64, Duration, Duration)| {
        println!("{name:<44} {rate:>12.0} {:>10} {:>10}", median.as_micros(), high.as_micros());
    };
    println!("{:<44} {:>12.0} {:>10}", "bare write + fdatasync", 1.0 / bare.as_secs_f64(), bare.as_micros());
    puts(&store, 64, 20_000 / scale, false).await;
    let one = puts(&store, 1, 5000 / scale, false).await;
    line("durable puts, 1 writer", one);
    let cpu = cpu_seconds();
    let syncs = store.status().syncs;
    let many = puts(&store, 64, 200_000 / scale, false).await;
    let cpu_per_put = (cpu_seconds() - cpu) / (200_000 / scale) as f64;
    let group = (200_000 / scale) as f64 / (store.status().syncs - syncs) as f64;
    line("durable puts, 64 writers", many);
    let peer = beside_etcd(&store, directory, scale).await;
    if let Some(peer) = &peer {
        line("durable puts, 64 writers (beside etcd)", peer.ours);
        line("etcd: durable puts, 64 writers", peer.etcd);
        line("etcd: durable puts, 1 writer", peer.etcd_one);
    } else {
        println!("{:<44} {:>12}", "etcd", "not installed");
    }
    line("durable puts, 256 writers", puts(&store, 256, 200_000 / scale, false).await);
    line("relaxed puts, 64 writers", puts(&store, 64, 200_000 / scale, true).await);

    // A list of 150,000 entries must not hold up a write.
    let filled = 150_000 / scale;
    let before = (resident_bytes(), store.status());
    let fill: Vec<_> = (0..64)
        .map(|part| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for index in (part..filled).step_by(64) {
                    let change = Change::Put(Template { bytes: Bytes::from_static(b"{}"), revision_at: None });
                    let key = Key::new("nodes", &format!("node-{index:07}"));
                    let operations = vec![Operation { key, expect: Expect::Absent, change }];
                    store.commit(Transaction { operations, relaxed: true }).await.unwrap();
                }
            })
        })
        .collect();
    for task in fill {
        task.await.unwrap();
    }
    // What the window holds is trimmed, so that only the entries count.
    store.compact(store.revision()).await;
    let after = (resident_bytes(), store.status());
    let per_entry = after.0.saturating_sub(before.0) as f64 / (after.1.entries - before.1.entries).max(1) as f64;
    let begin = Instant::now();
    let listed = store.list("nodes", "", None, None, None).unwrap().entries.len();
    let list_time = begin.elapsed();
    let lister = {
        let store = Arc::clone(&store);
        std::thread::spawn(move || {
            let end = Instant::now() + Duration::from_millis(1500);
            while Instant::now() < end {
                assert_eq!(store.list("nodes", "", None, None, None).unwrap().entries.len(), listed);
            }
        })
    };
    let beside = puts(&store, 1, 5000 / scale, false).await;
    lister.join().unwrap();
    line(&format!("durable puts, 1 writer, beside {listed}-lists"), beside);
    let begin = Instant::now();
    let gets = 1_000_000 / scale;
    for index in 0..gets {
        store.get(&Key::new("pods", &format!("ns/pod-{:06}", index % 1000))).unwrap();
    }
    let get_rate = gets as f64 / begin.elapsed().as_secs_f64();
    println!("{:<44} {get_rate:>12.0}", "gets, one thread");
    println!("{:<44} {:>9.1} ms", format!("list of {listed}"), list_time.as_secs_f64() * 1e3);
    println!("{:<44} {per_entry:>9.0} B", "memory per entry of 2 bytes");
    println!("{:<44} {:>9.1} us", "CPU per durable put, clients included", cpu_per_put * 1e6);
    println!("{:<44} {group:>9.1}", "puts per sync, 64 writers");
    let revision = store.revision();
    store.close().await;
    drop(store);
    let begin = Instant::now();
    let store = open(options).unwrap();
    let reopen = begin.elapsed();
    assert!(store.revision() >= revision && revision > Revision(1));
    println!("{:<44} {:>9.0} ms", "open again", reopen.as_secs_f64() * 1e3);
    println!(
        "{{\"bench\":\"store\",\"puts_per_s\":{:.0},\"puts_p50_us\":{},\"puts_p99_us\":{},\"one_put_p50_us\":{},\
         \"bare_sync_p50_us\":{},\"gets_per_s\":{get_rate:.0},\"list_ms\":{:.1},\"bytes_per_entry\":{per_entry:.0},\
         \"cpu_us_per_put\":{:.1},\"open_ms\":{:.0}{}}}",
        many.0,
        many.1.as_micros(),
        many.2.as_micros(),
        one.1.as_micros(),
        bare.as_micros(),
        list_time.as_secs_f64() * 1e3,
        cpu_per_put * 1e6,
        reopen.as_secs_f64() * 1e3,
        peer.map_or_else(String::new, |peer| format!(
            ",\"beside_etcd_puts_per_s\":{:.0},\"etcd_puts_per_s\":{:.0},\"etcd_one_put_p50_us\":{}",
            peer.ours.0,
            peer.etcd.0,
            peer.etcd_one.1.as_micros()
        )),
    );
}
