//! Crashes and damage: the log cut and flipped at every byte, missing and foreign files, lost relaxed writes.

use crate::common::*;
use klynge_store::embedded::{OpenError, Options, open};
use klynge_store::{Expect, Revision, Store, WatchError};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Writes a few transactions, each made durable on its own; gives the contents after each.
async fn history(
    directory: &Path,
) -> (std::sync::Arc<klynge_store::embedded::Embedded>, Vec<BTreeMap<String, String>>) {
    let store = reopen(directory);
    let mut states = vec![contents(&store, &["pods", "nodes"])];
    for index in 0..7 {
        if index == 4 {
            store.commit(one(delete("pods/a/1", Expect::Any))).await.unwrap();
        } else {
            write(&store, &format!("{}/a/{index}", ["pods", "nodes"][index % 2]), "value").await.unwrap();
            write(&store, "pods/a/1", &format!("again-{index}")).await.unwrap();
        }
        states.push(contents(&store, &["pods", "nodes"]));
    }
    (store, states)
}

fn refused(directory: &Path) -> (std::path::PathBuf, u64, String) {
    match open(small(directory)) {
        Err(OpenError::Corrupt { file, offset, what }) => (file, offset, what),
        Err(other) => unreachable!("{other}"),
        Ok(store) => unreachable!("opened at {}", store.revision()),
    }
}

/// The length of the log's frames: the file is longer, with zeros.
fn used_length(bytes: &[u8]) -> usize {
    (bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1).next_multiple_of(8)
}

/// The offsets at which frames begin, found by their mark.
fn frame_offsets(bytes: &[u8]) -> Vec<usize> {
    let used = used_length(bytes);
    (0..used).step_by(8).filter(|offset| bytes[*offset..].starts_with(b"KLf1")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_cut_anywhere_keeps_every_whole_record() {
    let directory = tempfile::tempdir().unwrap();
    let store = reopen(directory.path());
    let mut states = vec![contents(&store, &["pods"])];
    for index in 0..6 {
        write(&store, &format!("pods/{}", index % 4), &"v".repeat(index)).await.unwrap();
        states.push(contents(&store, &["pods"]));
    }
    let copy = crash_copy(directory.path());
    let segment = segments(copy.path()).pop().unwrap();
    let bytes = fs::read(&segment).unwrap();
    let offsets = frame_offsets(&bytes);
    assert_eq!(offsets.len(), 7, "a header and six transactions");
    let used = used_length(&bytes);
    for length in offsets[1]..=used {
        // What follows the cut is missing, or zeros that were prepared: both happen.
        let mut cut = bytes[..length].to_vec();
        if length % 2 == 0 {
            cut.resize(bytes.len(), 0);
        }
        fs::write(&segment, cut).unwrap();
        let whole = offsets[1..].iter().chain([&used]).skip(1).filter(|end| **end <= length).count();
        let store = reopen(copy.path());
        // Padding zeros that were cut off are zeros again in a prepared file, so one more record may be whole.
        let found = contents(&store, &["pods"]);
        let position = states.iter().position(|state| *state == found);
        assert!(
            position == Some(whole) || (length % 2 == 0 && position == Some(whole + 1)),
            "cut at {length}: {found:?}"
        );
        if length % 16 == 0 {
            let before = store.revision();
            let done = write(&store, "pods/new", "after").await.unwrap();
            assert!(done.revision > before);
            drop(store);
            let store = reopen(copy.path());
            assert_eq!(contents(&store, &["pods"])["pods/new"], format!("after#{}", done.revision));
        }
    }
    fs::write(&segment, &bytes[..offsets[1] - 1]).unwrap();
    assert_eq!(refused(copy.path()).1, 0, "the segment's own header was durable before anything else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flipped_byte_before_the_last_record_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (store, states) = history(directory.path()).await;
    let copy = crash_copy(directory.path());
    let segment = segments(copy.path()).pop().unwrap();
    let bytes = fs::read(&segment).unwrap();
    let offsets = frame_offsets(&bytes);
    let middle = offsets.len() / 2;
    for position in (offsets[middle]..offsets[middle + 1]).chain(0..offsets[1]) {
        let mut bad = bytes.clone();
        bad[position] ^= 0x41;
        fs::write(&segment, &bad).unwrap();
        let (file, offset, what) = refused(copy.path());
        assert_eq!(file, segment);
        let expected = if position < offsets[1] { 0 } else { offsets[middle] as u64 };
        assert_eq!(offset, expected, "byte {position}: {what}");
        assert_eq!(fs::read(&segment).unwrap(), bad, "a refusal changes nothing");
    }
    // The last record cannot be told from one that a crash tore.
    let last = *offsets.last().unwrap();
    for position in (last..used_length(&bytes)).step_by(5) {
        let mut bad = bytes.clone();
        bad[position] ^= 0x41;
        fs::write(&segment, &bad).unwrap();
        let found = contents(&reopen(copy.path()), &["pods", "nodes"]);
        assert_ne!(found, states[states.len() - 1]);
    }
    // Garbage behind the end is a torn record too.
    let mut garbage = bytes[..used_length(&bytes)].to_vec();
    garbage.extend((0..5000_u32).map(|index| (index * 7 % 251) as u8));
    fs::write(&segment, garbage).unwrap();
    assert_eq!(contents(&reopen(copy.path()), &["pods", "nodes"]), states[states.len() - 1]);
    drop(store);
}

#[tokio::test]
async fn an_error_tells_file_place_and_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = history(directory.path()).await;
    drop(store);
    let segment = segments(directory.path()).pop().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let offset = frame_offsets(&bytes)[3];
    bytes[offset + 60] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let message = open(small(directory.path())).err().unwrap().to_string();
    for part in [&*segment.display().to_string(), &format!("byte {offset}"), "restore a backup"] {
        assert!(message.contains(part), "{part} in: {message}");
    }
}

#[tokio::test]
async fn relaxed_writes_may_be_lost_but_their_revisions_never_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = reopen(directory.path());
    write(&store, "pods/x", "durable").await.unwrap();
    let first = store.commit(relaxed(put("leases/x", "first", Expect::Any))).await.unwrap().revision;
    let second = store.commit(relaxed(put("leases/x", "second", Expect::Any))).await.unwrap().revision;
    let third = store.commit(relaxed(put("leases/x", "third", Expect::Any))).await.unwrap().revision;
    // The machine crashes: of the two writes in flight the kernel has kept the later one only.
    let copy = crash_copy(directory.path());
    let segment = segments(copy.path()).pop().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let at = find(&bytes, "second#");
    bytes[at..at + 4].fill(0);
    fs::write(&segment, bytes).unwrap();
    let after = reopen(copy.path());
    assert_eq!(contents(&after, &["leases"])["leases/x"], format!("first#{first}"));
    assert!(after.revision() > third, "{} was shown", third);
    for lost in [second, third] {
        let refused = after.watch("leases", "", lost).unwrap_err();
        assert_eq!(refused, WatchError::Compacted { oldest: after.revision() });
        assert!(after.list("leases", "", None, None, Some(lost)).is_err());
    }
    assert_eq!(drain(&mut after.watch("leases", "", first).unwrap()).len(), 0);
    let next = write(&after, "leases/x", "next").await.unwrap().revision;
    assert!(next > third);
    // The skipped revisions stay skipped over another crash.
    let again = crash_copy(copy.path());
    let again = reopen(again.path());
    assert!(matches!(again.watch("leases", "", second), Err(WatchError::Compacted { .. })));
    assert_eq!(revisions(&drain(&mut again.watch("leases", "", first).unwrap())), [next]);
}

#[tokio::test]
async fn a_relaxed_write_becomes_durable_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { relaxed_sync_after: Duration::from_millis(50), ..small(directory.path()) };
    let store = open(options).unwrap();
    // The first one carries the ceiling, and is made durable for its sake.
    store.commit(relaxed(put("leases/x", "0", Expect::Any))).await.unwrap();
    let before = store.status().syncs;
    store.commit(relaxed(put("leases/x", "1", Expect::Any))).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.status().syncs == before {
        assert!(Instant::now() < deadline, "no sync");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn segmented(directory: &Path) -> Options {
    Options { segment_bytes: 2048, ..small(directory) }
}

#[tokio::test]
async fn many_segments_replay_and_each_must_be_whole() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(segmented(directory.path())).unwrap();
    for index in 0..60 {
        write(&store, &format!("pods/{}", index % 7), &"v".repeat(100)).await.unwrap();
    }
    let expected = contents(&store, &["pods"]);
    let start = Revision(store.revision().0 - 50);
    let events = revisions(&drain(&mut store.watch("pods", "", start).unwrap()));
    drop(store);
    let paths = segments(directory.path());
    assert!(paths.len() > 4, "{paths:?}");
    let store = open(segmented(directory.path())).unwrap();
    assert_eq!(contents(&store, &["pods"]), expected);
    let replayed = revisions(&drain(&mut store.watch("pods", "", start).unwrap()));
    assert_eq!(replayed, events, "watches resume over a restart");
    drop(store);
    let middle = &paths[2];
    let bytes = fs::read(middle).unwrap();
    let last = *frame_offsets(&bytes).last().unwrap();
    let mut bad = bytes.clone();
    bad[last + 60] ^= 1;
    for (damaged, offset) in [(Some(bad), last), (Some(bytes[..last].to_vec()), last), (None, 0)] {
        match damaged {
            Some(damaged) => fs::write(middle, damaged).unwrap(),
            None => fs::remove_file(middle).unwrap(),
        }
        let found = refused(directory.path());
        assert_eq!((&found.0, found.1), (middle, offset as u64), "{}", found.2);
    }
    fs::write(middle, bytes).unwrap();
    assert_eq!(contents(&open(segmented(directory.path())).unwrap(), &["pods"]), expected);
}

#[tokio::test]
async fn a_snapshot_replaces_the_log_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { snapshot_threshold_bytes: 20_000, ..segmented(directory.path()) };
    let store = open(options.clone()).unwrap();
    for index in 0..200 {
        write(&store, &format!("pods/{}", index % 20), &"v".repeat(100)).await.unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.status().snapshot_revision == Revision(1) || segments(directory.path()).len() > 12 {
        assert!(Instant::now() < deadline, "{:?}", store.status());
        write(&store, "pods/0", "more").await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    write(&store, "pods/last", "one").await.unwrap();
    let (expected, revision) = (contents(&store, &["pods"]), store.revision());
    drop(store);
    assert!(!segments(directory.path())[0].ends_with("log-0000000000000001"));
    fs::write(directory.path().join("store/snapshot-00000000000000009999.tmp"), "half").unwrap();
    let store = open(options.clone()).unwrap();
    assert_eq!((contents(&store, &["pods"]), store.revision()), (expected.clone(), revision));
    let old = store.watch("pods", "", Revision(2)).unwrap_err();
    assert_eq!(old, WatchError::Compacted { oldest: store.status().snapshot_revision });
    drop(store);
    let names: Vec<_> =
        fs::read_dir(directory.path().join("store")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(names.iter().all(|path| path.extension().is_none()), "leftovers are removed: {names:?}");
    let snapshot = names.iter().rfind(|path| path.to_string_lossy().contains("snapshot-")).unwrap();
    let bytes = fs::read(snapshot).unwrap();
    for position in (0..bytes.len()).step_by(97) {
        let mut bad = bytes.clone();
        bad[position] ^= 0x10;
        fs::write(snapshot, bad).unwrap();
        assert_eq!(&refused(directory.path()).0, snapshot);
    }
    fs::write(snapshot, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(&refused(directory.path()).0, snapshot);
    fs::write(snapshot, bytes).unwrap();
    assert_eq!(contents(&open(options).unwrap(), &["pods"]), expected);
}

#[tokio::test]
async fn formats_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let (store, states) = history(directory.path()).await;
    let cluster = store.cluster_id();
    drop(store);
    let path = directory.path().join("store/FORMAT");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, good.replace("format 1", "format 2")).unwrap();
    match open(small(directory.path())).err().unwrap() {
        OpenError::NewerFormat { found: 2, supported: 1, .. } => {}
        other => unreachable!("{other}"),
    }
    fs::write(&path, "").unwrap();
    assert_eq!(refused(directory.path()).0, path);
    fs::remove_file(&path).unwrap();
    assert_eq!(refused(directory.path()).0, path);
    let other = tempfile::tempdir().unwrap();
    drop(reopen(other.path()));
    fs::copy(other.path().join("store/FORMAT"), &path).unwrap();
    assert!(refused(directory.path()).2.contains("another store"));
    fs::write(&path, good).unwrap();
    let store = reopen(directory.path());
    assert_eq!((store.cluster_id(), contents(&store, &["pods", "nodes"])), (cluster, states[states.len() - 1].clone()));
    // A creation that was interrupted before FORMAT starts afresh.
    fs::remove_file(other.path().join("store/FORMAT")).unwrap();
    let segment = segments(other.path()).pop().unwrap();
    let bytes = fs::read(&segment).unwrap();
    fs::write(&segment, &bytes[..frame_offsets(&bytes)[1]]).unwrap();
    assert_eq!(reopen(other.path()).revision(), Revision(1));
}
