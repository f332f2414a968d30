//! kill -9 of a process that writes: whatever it was told is written is there afterwards.

use crate::common::*;
use klynge_store::embedded::{Options, open};
use klynge_store::{Expect, Revision, Store, Transaction};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const DIRECTORY: &str = "KLYNGE_STORE_KILL_TEST_DIRECTORY";
const HOLDER_DIRECTORY: &str = "KLYNGE_STORE_HOLD_TEST_DIRECTORY";

fn options(directory: &Path) -> Options {
    // Small limits, so that segments and snapshots happen within a moment.
    Options { segment_bytes: 64 << 10, snapshot_threshold_bytes: 256 << 10, ..small(directory) }
}

/// Runs in the child only: writes until it is killed, and reports what was acknowledged.
#[test]
fn child_writes_until_killed() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = open(options(Path::new(&directory))).unwrap();
        let writers = (0..8_u64).map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for index in 0_u64.. {
                    let key = format!("pods/{writer}/{}", index % 50);
                    let operations = vec![put(&key, &format!("{index:0200}"), Expect::Any)];
                    let relaxed = index % 5 == 0;
                    let done = store.commit(Transaction { operations, relaxed }).await.unwrap();
                    // One write per line, so that lines of several threads do not mix.
                    let line = format!("acknowledged {key} {}\n", done.revision);
                    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
    });
}

#[test]
fn acknowledged_writes_survive_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    let mut highest = Revision(0);
    for round in 0..8_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child_writes_until_killed", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (begun, has_begun) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut seen = BTreeMap::new();
            for line in output.split(b'\n') {
                let line = String::from_utf8(line.unwrap()).unwrap();
                // The child's test harness prints as well, and the last line may be cut by the kill.
                let Some((_, rest)) = line.split_once("acknowledged ") else { continue };
                let Some((key, revision)) = rest.split_once(' ') else { continue };
                let _ = begun.send(());
                let Ok(revision) = revision.parse::<u64>() else { continue };
                let newest = seen.entry(key.to_owned()).or_insert(0);
                *newest = revision.max(*newest);
            }
            seen
        });
        has_begun.recv_timeout(Duration::from_secs(60)).unwrap();
        std::thread::sleep(Duration::from_millis(30 + round * round * 7 % 200));
        child.kill().unwrap();
        child.wait().unwrap();
        let mut seen = reader.join().unwrap();
        // The very last line may have lost digits: a smaller revision only asks for less.
        for (key, revision) in std::mem::take(&mut seen) {
            let newest = acknowledged.entry(key).or_insert(0);
            *newest = revision.max(*newest);
        }
        let store = open(options(directory.path())).unwrap();
        assert!(store.revision() >= highest, "revisions never go backwards");
        highest = store.revision();
        let entries = store.list("pods", "", None, None, None).unwrap().entries;
        let held: BTreeMap<_, _> = entries.iter().map(|entry| (entry.key.as_str(), entry)).collect();
        for (key, revision) in &acknowledged {
            let entry = held.get(key.as_str()).unwrap();
            assert!(entry.revision.0 >= *revision, "{key} acknowledged at {revision} is held at {}", entry.revision);
            assert!(text(entry).ends_with(&format!("#{}", entry.revision)), "{}", text(entry));
        }
        assert!(acknowledged.len() > 8, "the child wrote hardly anything");
    }
}

/// Runs in the child only: holds the store with much memory, whose return delays the end of a killed process.
#[test]
fn child_holds_until_killed() {
    let Ok(directory) = std::env::var(HOLDER_DIRECTORY) else { return };
    let _store = open(options(Path::new(&directory))).unwrap();
    let memory = vec![1_u8; 512 << 20];
    let touched = memory.iter().step_by(4096).map(|byte| usize::from(*byte)).sum::<usize>();
    std::io::stdout().lock().write_all(format!("holding {touched}\n").as_bytes()).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn the_store_of_a_process_that_was_just_killed_opens() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child_holds_until_killed", "--nocapture", "--test-threads=1"])
            .env(HOLDER_DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        assert!(output.lines().any(|line| line.unwrap().contains("holding ")), "the child opens the store");
        child.kill().unwrap();
        let opened = open(options(directory.path())); // no waiting for the child in between
        child.wait().unwrap();
        drop(opened.unwrap());
    }
}
