//! A failing disk: short writes, errors on write, truncate and sync, no space.

use crate::common::*;
use klynge_store::embedded::{Embedded, Options, open};
use klynge_store::{CommitError, Expect, Store};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

fn faulty(directory: &Path) -> (Arc<Embedded>, Arc<Faults>) {
    let faults = Faults::new();
    let disk = Arc::new(FaultyDisk(Arc::clone(&faults)));
    (open(Options { disk, ..small(directory) }).unwrap(), faults)
}

#[tokio::test]
async fn short_writes_are_continued() {
    let directory = tempfile::tempdir().unwrap();
    let (store, faults) = faulty(directory.path());
    faults.short_bytes.store(7, SeqCst);
    for index in 0..20 {
        write(&store, &format!("pods/{index}"), "value").await.unwrap();
    }
    let expected = contents(&store, &["pods"]);
    let copy = crash_copy(directory.path());
    assert_eq!(contents(&reopen(copy.path()), &["pods"]), expected);
    assert_eq!(expected.len(), 20);
}

#[tokio::test]
async fn a_failed_sync_stops_the_store_and_is_never_retried() {
    let directory = tempfile::tempdir().unwrap();
    let (store, faults) = faulty(directory.path());
    write(&store, "pods/a", "kept").await.unwrap();
    let mut watcher = store.watch("pods", "", store.revision()).unwrap();
    let before = store.revision();
    faults.sync_error.store(i64::from(libc::EIO), SeqCst);
    let failed = write(&store, "pods/b", "lost").await;
    match failed {
        Err(CommitError::Stopped { reason }) => {
            assert!(reason.contains("durable") && reason.contains("log-"), "{reason}")
        }
        other => unreachable!("{other:?}"),
    }
    let syncs = faults.syncs.load(SeqCst);
    faults.sync_error.store(0, SeqCst);
    assert!(matches!(write(&store, "pods/c", "refused").await, Err(CommitError::Stopped { .. })));
    assert!(!store.stopped().await.closed);
    assert!(store.status().stopped.is_some());
    assert_eq!(faults.syncs.load(SeqCst), syncs, "a sync after a failed one proves nothing");
    assert_eq!((store.revision(), contents(&store, &["pods"]).len()), (before, 1), "what is not durable is not shown");
    assert!(watcher.next().await.is_err(), "the watch ends without the event");
    drop(store);
    assert_eq!(faults.syncs.load(SeqCst), syncs);
    let store = reopen(directory.path());
    assert!(contents(&store, &["pods"])["pods/a"].starts_with("kept#"));
    assert!(!contents(&store, &["pods"]).contains_key("pods/c"));
}

#[tokio::test]
async fn a_failed_write_stops_the_store_and_leaves_no_half_record() {
    for truncate_error in [0, libc::EIO] {
        let directory = tempfile::tempdir().unwrap();
        let (store, faults) = faulty(directory.path());
        write(&store, "pods/a", "kept").await.unwrap();
        faults.truncate_error.store(i64::from(truncate_error), SeqCst);
        faults.write_error.store(i64::from(libc::EIO), SeqCst);
        assert!(matches!(write(&store, "pods/b", "lost").await, Err(CommitError::Stopped { .. })));
        faults.write_error.store(0, SeqCst);
        assert!(matches!(write(&store, "pods/c", "refused").await, Err(CommitError::Stopped { .. })));
        drop(store);
        let store = reopen(directory.path());
        assert_eq!(contents(&store, &["pods"]).into_keys().collect::<Vec<_>>(), ["pods/a"]);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_growth_lets_deletes_through_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let (store, faults) = faulty(directory.path());
    for index in 0..50 {
        write(&store, &format!("pods/{index}"), &"v".repeat(500)).await.unwrap();
    }
    let before = contents(&store, &["pods"]);
    // 100 bytes are left: the write is short, then fails, and is undone.
    faults.space_bytes.store(100, SeqCst);
    let refused = write(&store, "pods/new", &"v".repeat(500)).await;
    match &refused {
        Err(error @ CommitError::NoSpace { .. }) => assert!(error.to_string().contains("store"), "{error}"),
        other => unreachable!("{other:?}"),
    }
    assert!(store.status().space_low);
    assert_eq!(contents(&store, &["pods"]), before);
    // Conflicts are still answered as such, deletes and updates that do not grow are done.
    let conflict = store.commit(one(put("pods/1", "x", Expect::Absent))).await;
    assert!(matches!(conflict, Err(CommitError::Conflict { .. })), "{conflict:?}");
    write(&store, "pods/1", "smaller").await.unwrap();
    for index in 2..40 {
        store.commit(one(delete(&format!("pods/{index}"), Expect::Any))).await.unwrap();
    }
    assert!(matches!(write(&store, "pods/new", "v").await, Err(CommitError::NoSpace { .. })));
    let copy = crash_copy(directory.path());
    assert_eq!(contents(&reopen(copy.path()), &["pods"]), contents(&store, &["pods"]));
    // Space is there again: the reserve is taken back, and everything works.
    faults.space_bytes.store(-1, SeqCst);
    let deadline = Instant::now() + Duration::from_secs(20);
    while write(&store, "pods/new", &"v".repeat(500)).await.is_err() {
        assert!(Instant::now() < deadline, "the store does not recover");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!store.status().space_low);
    let expected = contents(&store, &["pods"]);
    assert_eq!(expected.len(), 13);
    drop(store);
    assert_eq!(contents(&reopen(directory.path()), &["pods"]), expected);
}

#[tokio::test]
async fn the_reserve_ends_and_the_store_still_serves() {
    let directory = tempfile::tempdir().unwrap();
    let (store, faults) = faulty(directory.path());
    for index in 0..1000 {
        store.commit(relaxed(put(&format!("pods/{index}"), "v", Expect::Any))).await.unwrap();
    }
    faults.space_bytes.store(0, SeqCst);
    let mut deleted = 0;
    let ended = loop {
        match store.commit(one(delete(&format!("pods/{deleted}"), Expect::Any))).await {
            Ok(_) => deleted += 1,
            Err(error) => break error,
        }
        assert!(deleted < 1000, "the reserve has no end");
    };
    assert!(matches!(ended, CommitError::NoSpace { .. }), "{ended:?}");
    assert!(deleted > 300, "64 KiB of reserve are enough for more than {deleted} deletes");
    assert_eq!(contents(&store, &["pods"]).len(), 1000 - deleted);
    faults.space_bytes.store(-1, SeqCst);
    store.commit(one(delete(&format!("pods/{deleted}"), Expect::Any))).await.unwrap();
    drop(store);
    assert_eq!(contents(&reopen(directory.path()), &["pods"]).len(), 999 - deleted);
}

/// A small file system of its own, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=6m,mode=0700", "klynge-store-test"])
            .arg(directory.path())
            .stderr(std::process::Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(directory))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_store_that_is_removed_while_in_use_acknowledges_nothing_more() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(Options::new(&path)).unwrap();
    write(&store, "pods/a", "kept").await.unwrap();
    std::fs::remove_dir_all(&path).unwrap();
    match write(&store, "pods/b", "lost").await {
        Err(CommitError::Stopped { reason }) => {
            assert!(reason.contains("removed the file while it is in use"), "{reason}")
        }
        other => unreachable!("{other:?}"),
    }
    assert!(!store.stopped().await.closed);
}

#[tokio::test]
async fn a_really_full_disk_heals_through_deletes() {
    let Some(disk) = SmallDisk::mount() else {
        // Past the harness's capture, so that a skipped test is seen.
        let _ = std::io::stderr().write_all(b"SKIPPED: mounting a tmpfs needs root\n");
        return;
    };
    let options = Options {
        segment_bytes: 256 << 10,
        snapshot_threshold_bytes: 1 << 20,
        reserve_bytes: 1 << 20,
        ..Options::new(disk.0.path().join("store"))
    };
    let store = open(options.clone()).unwrap();
    let mut written = 0;
    let refused = loop {
        match write(&store, &format!("pods/{written}"), &"v".repeat(2000)).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, CommitError::NoSpace { .. }), "{refused:?}");
    assert!(written > 500, "{written}");
    for index in 0..written {
        store.commit(one(delete(&format!("pods/{index}"), Expect::Any))).await.unwrap();
    }
    // The deletes make the log worth a snapshot, that frees the log, and the reserve is taken back.
    let deadline = Instant::now() + Duration::from_secs(25);
    while write(&store, "pods/after", &"v".repeat(2000)).await.is_err() {
        assert!(Instant::now() < deadline, "{:?}", store.status());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!store.status().space_low);
    let expected = contents(&store, &["pods"]);
    drop(store);
    let store = open(options).unwrap();
    assert_eq!((contents(&store, &["pods"]), expected.len()), (expected, 1));
}
