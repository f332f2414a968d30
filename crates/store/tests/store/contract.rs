//! What the API server relies on: compare-and-set, one revision per transaction, lists and watches at old revisions.

use crate::common::*;
use klynge_store::embedded::{OpenError, open};
use klynge_store::{
    Change, CommitError, EventKind, Expect, Key, Operation, Revision, Store, Template, Transaction, WatchError,
    WindowLimits,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[tokio::test]
async fn compare_and_set() {
    let directory = tempfile::tempdir().unwrap();
    let store = reopen(directory.path());
    assert_eq!(store.revision(), Revision(1));
    let first = store.commit(one(put("pods/a/x", "1", Expect::Absent))).await.unwrap();
    assert!(first.revision > Revision(1));
    let entry = first.entries[0].clone().unwrap();
    assert_eq!((text(&entry), entry.created), (format!("1#{}", first.revision), first.revision));
    match store.commit(one(put("pods/a/x", "2", Expect::Absent))).await {
        Err(CommitError::Conflict { operation: 0, current: Some(current) }) => assert!(Arc::ptr_eq(&current, &entry)),
        other => unreachable!("{other:?}"),
    }
    let second = store.commit(one(put("pods/a/x", "2", Expect::Revision(first.revision)))).await.unwrap();
    assert!(second.revision > first.revision);
    let stale = store.commit(one(delete("pods/a/x", Expect::Revision(first.revision)))).await;
    assert!(matches!(stale, Err(CommitError::Conflict { operation: 0, current: Some(_) })));
    let gone = store.commit(one(delete("pods/a/x", Expect::Revision(second.revision)))).await.unwrap();
    assert_eq!(text(gone.entries[0].as_ref().unwrap()), format!("gone#{}", gone.revision));
    assert!(store.get(&Key::new("pods", "a/x")).is_none());
    let again = store.commit(one(delete("pods/a/x", Expect::Any))).await.unwrap();
    assert_eq!((again.revision, again.entries[0].is_none()), (gone.revision, true), "nothing changes, no new revision");
    let missing = store.commit(one(delete("pods/a/x", Expect::Revision(second.revision)))).await;
    assert!(matches!(missing, Err(CommitError::Conflict { operation: 0, current: None })));
}

#[tokio::test]
async fn a_transaction_is_all_or_nothing_at_one_revision() {
    let directory = tempfile::tempdir().unwrap();
    let store = reopen(directory.path());
    let held = write(&store, "services/a/s", "1").await.unwrap().revision;
    let mut watcher = store.watch("pods", "", store.revision()).unwrap();
    let operations = vec![put("pods/a/x", "1", Expect::Absent), put("services/a/s", "2", Expect::Absent)];
    let refused = store.commit(Transaction { operations, relaxed: false }).await;
    assert!(matches!(refused, Err(CommitError::Conflict { operation: 1, .. })));
    assert!(store.get(&Key::new("pods", "a/x")).is_none());
    let keep = |revision| Operation {
        key: Key::new("services", "a/s"),
        expect: Expect::Revision(revision),
        change: Change::Keep,
    };
    let operations = vec![put("pods/a/x", "1", Expect::Absent), keep(held), put("pods/a/y", "1", Expect::Absent)];
    let done = store.commit(Transaction { operations, relaxed: false }).await.unwrap();
    assert_eq!(done.entries[1].as_ref().unwrap().revision, held, "a kept key keeps its revision");
    let batch = watcher.next().await.unwrap();
    assert_eq!(revisions(&batch.events), [done.revision, done.revision]);
    assert_eq!(batch.revision, done.revision);
    let refused = store.commit(Transaction { operations: vec![keep(Revision(1))], relaxed: false }).await;
    assert!(matches!(refused, Err(CommitError::Conflict { operation: 0, current: Some(_) })));
    let twice = vec![put("pods/a/x", "1", Expect::Any), delete("pods/a/x", Expect::Any)];
    let refused = store.commit(Transaction { operations: twice, relaxed: false }).await;
    assert!(matches!(refused, Err(CommitError::Invalid { .. })));
}

#[tokio::test]
async fn limits_are_errors() {
    let directory = tempfile::tempdir().unwrap();
    let options = klynge_store::embedded::Options { value_bytes_max: 100, ..small(directory.path()) };
    let store = open(options).unwrap();
    let large = write(&store, "pods/x", &"v".repeat(101)).await;
    assert!(matches!(large, Err(CommitError::TooLarge { size_bytes: 102, limit_bytes: 100 })), "{large:?}");
    let long = write(&store, &format!("pods/{}", "k".repeat(1024)), "v").await;
    assert!(matches!(long, Err(CommitError::Invalid { operation: 0, .. })));
    let outside = Template { bytes: "abc".into(), revision_at: Some(4) };
    let change = Change::Put(outside);
    let outside = store.commit(one(Operation { key: Key::new("pods", "x"), expect: Expect::Any, change })).await;
    assert!(matches!(outside, Err(CommitError::Invalid { operation: 0, .. })));
    assert_eq!(store.status().entries, 0);
}

#[tokio::test]
async fn pages_of_an_old_list_are_consistent() {
    let directory = tempfile::tempdir().unwrap();
    let store = reopen(directory.path());
    for index in 0..10 {
        write(&store, &format!("pods/a/{index}"), "old").await.unwrap();
        write(&store, &format!("pods/b/{index}"), "other").await.unwrap();
    }
    let first = store.list("pods", "a/", None, Some(4), None).unwrap();
    assert_eq!((first.entries.len(), first.remaining, first.more), (4, 6, true));
    let at = first.revision;
    let expected: Vec<_> =
        store.list("pods", "a/", None, None, None).unwrap().entries.iter().map(|e| text(e)).collect();
    for index in [2, 5, 7] {
        store.commit(one(delete(&format!("pods/a/{index}"), Expect::Any))).await.unwrap();
    }
    for index in [3, 4, 7, 55] {
        write(&store, &format!("pods/a/{index}"), "new").await.unwrap();
    }
    let mut seen: Vec<_> = first.entries.iter().map(|entry| text(entry)).collect();
    let mut last = first.entries[3].key.rest().to_owned();
    let mut remaining = first.remaining;
    while remaining > 0 {
        let page = store.list("pods", "a/", Some(&last), Some(4), Some(at)).unwrap();
        assert_eq!((page.revision, page.more), (at, page.remaining > 0));
        assert_eq!(remaining - page.entries.len(), page.remaining);
        remaining = page.remaining;
        last = page.entries.last().unwrap().key.rest().to_owned();
        seen.extend(page.entries.iter().map(|entry| text(entry)));
    }
    assert_eq!(seen, expected);
    let now = store.list("pods", "a/", None, None, None).unwrap();
    assert_eq!((now.entries.len(), now.revision), (9, store.revision()));
    assert_eq!(store.list("nothing", "", None, None, None).unwrap().entries.len(), 0);
}

#[tokio::test]
async fn a_watch_delivers_what_matches_and_then_waits() {
    let directory = tempfile::tempdir().unwrap();
    let store = reopen(directory.path());
    let start = store.revision();
    let mut watcher = store.watch("pods", "a/", start).unwrap();
    assert_eq!(store.status().watchers, 1);
    assert!(tokio::time::timeout(Duration::from_millis(20), watcher.next()).await.is_err(), "nothing has happened");
    let writer = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            write(&store, "pods/b/x", "1").await.unwrap();
            write(&store, "nodes/n", "1").await.unwrap();
            write(&store, "pods/a/x", "1").await.unwrap();
            write(&store, "pods/a/x", "2").await.unwrap();
            store.commit(one(delete("pods/a/x", Expect::Any))).await.unwrap();
        })
    };
    let mut events = Vec::new();
    while events.len() < 3 {
        events.extend(watcher.next().await.unwrap().events);
    }
    writer.await.unwrap();
    let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Added, EventKind::Modified, EventKind::Deleted]);
    assert!(Arc::ptr_eq(&events[0].entry, events[1].previous.as_ref().unwrap()));
    assert!(Arc::ptr_eq(&events[1].entry, events[2].previous.as_ref().unwrap()));
    assert_eq!(text(&events[2].entry), format!("gone#{}", events[2].revision));
    // Events of others move the cursor, so that a quiet watch does not fall out of the window.
    let other = write(&store, "pods/b/y", "1").await.unwrap().revision;
    let batch = watcher.try_next().unwrap();
    assert_eq!((batch.events.len(), batch.revision), (0, other));
    let future = store.watch("pods", "", Revision(other.0 + 1)).unwrap_err();
    assert_eq!(future, WatchError::Future { current: other });
    drop(watcher);
    assert_eq!(store.status().watchers, 0);
}

#[tokio::test]
async fn compaction_and_the_window_end_old_reads() {
    let directory = tempfile::tempdir().unwrap();
    let window = WindowLimits { events_max: 10, ..WindowLimits::default() };
    let store = open(klynge_store::embedded::Options { window, ..small(directory.path()) }).unwrap();
    let mut lagging = store.watch("pods", "", store.revision()).unwrap();
    let mut quiet = store.watch("nodes", "", store.revision()).unwrap();
    let mut last = Revision(0);
    for index in 0..20 {
        last = write(&store, "pods/x", &index.to_string()).await.unwrap().revision;
    }
    let oldest = Revision(last.0 - 10);
    assert_eq!(lagging.next().await.unwrap_err().oldest, oldest);
    assert_eq!(store.list("pods", "", None, None, Some(Revision(oldest.0 - 1))).unwrap_err().oldest, oldest);
    assert_eq!(store.list("pods", "", None, None, Some(oldest)).unwrap().revision, oldest);
    assert_eq!(store.watch("pods", "", Revision(oldest.0 - 1)).unwrap_err(), WatchError::Compacted { oldest });
    assert_eq!(drain(&mut store.watch("pods", "", oldest).unwrap()).len(), 10);
    assert_eq!(quiet.try_next().unwrap().revision, last, "a quiet bucket is not touched by another's window");
    store.compact(Revision(last.0 - 3)).await;
    assert_eq!(store.oldest(), Revision(last.0 - 3));
    assert_eq!(drain(&mut store.watch("pods", "", store.oldest()).unwrap()).len(), 3);
    let refused = store.watch("nodes", "", Revision(last.0 - 4)).unwrap_err();
    assert_eq!(refused, WatchError::Compacted { oldest: store.oldest() });
    store.compact(Revision(u64::MAX)).await;
    assert_eq!(store.oldest(), last, "a compaction never passes the present");
}

#[tokio::test]
async fn old_events_age_out_of_an_idle_store() {
    let directory = tempfile::tempdir().unwrap();
    let window = WindowLimits { age_max: Duration::from_millis(300), ..WindowLimits::default() };
    let store = open(klynge_store::embedded::Options { window, ..small(directory.path()) }).unwrap();
    write(&store, "pods/x", "1").await.unwrap();
    assert_eq!(store.status().window_events, 1);
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.status().window_events > 0 {
        assert!(Instant::now() < deadline, "the event is still retained");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn closing_ends_watches_and_gives_the_lock_free() {
    let directory = tempfile::tempdir().unwrap();
    let store = reopen(directory.path());
    write(&store, "pods/x", "1").await.unwrap();
    match open(small(directory.path())).err().unwrap() {
        OpenError::Locked { holder, .. } => assert_eq!(holder, format!("process {}", std::process::id())),
        other => unreachable!("{other}"),
    }
    let mut watcher = store.watch("pods", "", store.revision()).unwrap();
    let waiting = tokio::spawn(async move { watcher.next().await });
    store.close().await;
    assert!(waiting.await.unwrap().is_err());
    assert!(matches!(write(&store, "pods/y", "1").await, Err(CommitError::Stopped { .. })));
    assert!(store.stopped().await.closed);
    assert!(store.get(&Key::new("pods", "x")).is_some(), "reads go on");
    let next = reopen(directory.path());
    assert_eq!(contents(&next, &["pods"]).len(), 1);
    assert_eq!(next.revision(), store.revision(), "an orderly close skips nothing");
}

#[tokio::test]
async fn many_writers_get_distinct_rising_revisions() {
    let directory = tempfile::tempdir().unwrap();
    let store = reopen(directory.path());
    let mut watcher = store.watch("pods", "", store.revision()).unwrap();
    let tasks: Vec<_> = (0..32)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut mine = Vec::new();
                for index in 0..20 {
                    let operation = put(&format!("pods/{writer}/{index}"), "v", Expect::Absent);
                    let relaxed = (writer + index) % 3 == 0;
                    let done = store.commit(Transaction { operations: vec![operation], relaxed }).await.unwrap();
                    // A reader sees its own write at once.
                    assert!(store.get(&done.entries[0].as_ref().unwrap().key).is_some());
                    mine.push(done.revision);
                }
                assert!(mine.is_sorted_by(|left, right| left < right));
                mine
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    all.sort_unstable();
    let seen = revisions(&drain(&mut watcher));
    assert_eq!(seen, all, "watchers see every revision once, in order");
}
