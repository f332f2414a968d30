//! Backups are taken while the store serves; restores never overwrite and never turn revisions back.

use crate::common::*;
use klynge_store::embedded::{RestoreError, restore};
use klynge_store::{Revision, Store, WatchError};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_one_revision_and_restores() {
    let directory = tempfile::tempdir().unwrap();
    let store = reopen(directory.path());
    for index in 0..300 {
        write(&store, &format!("pods/{index}"), &"v".repeat(3000)).await.unwrap();
    }
    let done = Arc::new(AtomicBool::new(false));
    let writer = {
        let (store, done) = (Arc::clone(&store), Arc::clone(&done));
        tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                write(&store, "pods/busy", "w").await.unwrap();
            }
        })
    };
    let file = directory.path().join("backup");
    let taken = store.backup(&file).await.unwrap();
    done.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    let listed = store.list("pods", "", None, None, Some(taken)).unwrap();
    let expected: Vec<_> = listed.entries.iter().map(|entry| (text(entry), entry.revision, entry.created)).collect();
    assert!(store.backup(&file).await.is_err(), "a backup never overwrites");
    let last = store.revision();
    let target = tempfile::tempdir().unwrap();
    let restored = restore(&file, &target.path().join("store"), Revision(last.0 + 1000)).unwrap();
    assert_eq!((restored.backup_revision, restored.revision), (taken, Revision(last.0 + 1000)));
    assert_eq!(restored.cluster_id, store.cluster_id());
    let second = reopen(target.path());
    assert_eq!(second.revision(), restored.revision);
    let entries = second.list("pods", "", None, None, None).unwrap().entries;
    let found: Vec<_> = entries.iter().map(|entry| (text(entry), entry.revision, entry.created)).collect();
    assert_eq!(found, expected);
    assert_eq!(second.watch("pods", "", last).unwrap_err(), WatchError::Compacted { oldest: restored.revision });
    assert!(write(&second, "pods/new", "x").await.unwrap().revision > restored.revision);
    let again = restore(&file, &target.path().join("store"), Revision(0));
    assert!(matches!(again, Err(RestoreError::NotEmpty { .. }) | Err(RestoreError::Open(_))), "{again:?}");
    drop(second);
    assert!(matches!(restore(&file, &target.path().join("store"), Revision(0)), Err(RestoreError::NotEmpty { .. })));
    // Without a higher revision the backup's own is the least.
    let third = tempfile::tempdir().unwrap();
    assert_eq!(restore(&file, &third.path().join("store"), Revision(0)).unwrap().revision, taken);
    let bytes = fs::read(&file).unwrap();
    for (name, damaged) in [("cut", bytes[..bytes.len() - 8].to_vec()), ("empty", Vec::new())] {
        let damaged_file = directory.path().join(name);
        fs::write(&damaged_file, damaged).unwrap();
        let target = tempfile::tempdir().unwrap();
        let error = restore(&damaged_file, &target.path().join("store"), Revision(0)).unwrap_err().to_string();
        assert!(error.contains(&damaged_file.display().to_string()), "{error}");
    }
}
