//! The store against a simple model: every list at every retained revision, every watch from every retained revision.

use crate::common::*;
use klynge_store::{Change, CommitError, EventKind, Expect, Key, Operation, Revision, Store, Transaction};
use proptest::prelude::*;
use std::collections::BTreeMap;

const KEYS: [&str; 6] = ["pods/a/1", "pods/a/2", "pods/b/1", "pods/ab", "nodes/1", "nodes/2"];
const QUERIES: [(&str, &str); 5] = [("pods", ""), ("pods", "a/"), ("pods", "a"), ("nodes", ""), ("none", "")];

#[derive(Clone, Debug)]
enum Step {
    Commit { operations: Vec<(usize, Wish, bool)>, relaxed: bool },
    Compact { back: u64 },
    Close,
    Crash,
}

#[derive(Copy, Clone, Debug)]
enum Wish {
    Absent,
    Current,
    Stale,
    Any,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wish = prop_oneof![
        2 => Just(Wish::Absent),
        3 => Just(Wish::Current),
        1 => Just(Wish::Stale),
        4 => Just(Wish::Any)
    ];
    let operation = (0..KEYS.len(), wish, prop::bool::weighted(0.3));
    let commit = (prop::collection::vec(operation, 1..4), any::<bool>())
        .prop_map(|(operations, relaxed)| Step::Commit { operations, relaxed });
    let step = prop_oneof![
        20 => commit,
        1 => (0..10_u64).prop_map(|back| Step::Compact { back }),
        1 => Just(Step::Close),
        1 => Just(Step::Crash)
    ];
    prop::collection::vec(step, 1..60)
}

type Contents = BTreeMap<String, (String, u64)>;
type ModelEvent = (u64, EventKind, String, String, Option<String>);

#[derive(Default)]
struct Model {
    now: Contents,
    /// The contents at each revision that was given out.
    then: BTreeMap<u64, Contents>,
    events: Vec<ModelEvent>,
    oldest: u64,
}

impl Model {
    fn expectation(&self, key: &str, wish: Wish) -> Expect {
        match (wish, self.now.get(key)) {
            (Wish::Absent, _) => Expect::Absent,
            (Wish::Any, _) | (Wish::Current, None) => Expect::Any,
            (Wish::Current, Some((_, revision))) => Expect::Revision(Revision(*revision)),
            (Wish::Stale, held) => Expect::Revision(Revision(held.map_or(1, |(_, revision)| revision - 1))),
        }
    }

    /// The index of the first operation that conflicts.
    fn conflict(&self, operations: &[Operation]) -> Option<usize> {
        operations.iter().position(|operation| match (operation.expect, self.now.get(operation.key.as_str())) {
            (Expect::Any, _) | (Expect::Absent, None) => false,
            (Expect::Revision(expected), Some((_, held))) => expected.0 != *held,
            _ => true,
        })
    }

    fn apply(&mut self, operations: &[Operation], revision: u64) {
        for operation in operations {
            let key = operation.key.as_str().to_owned();
            let old = self.now.get(&key).map(|(text, _)| text.clone());
            match (&operation.change, &old) {
                (Change::Put(template), _) => {
                    let text = format!("{}{revision}", String::from_utf8_lossy(&template.bytes));
                    let kind = if old.is_some() { EventKind::Modified } else { EventKind::Added };
                    self.now.insert(key.clone(), (text.clone(), revision));
                    self.events.push((revision, kind, key, text, old));
                }
                (Change::Delete(_), Some(_)) => {
                    self.now.remove(&key);
                    self.events.push((revision, EventKind::Deleted, key, format!("gone#{revision}"), old));
                }
                _ => {}
            }
        }
        self.then.insert(revision, self.now.clone());
    }

    fn selected(contents: &Contents, bucket: &str, prefix: &str) -> Vec<(String, String)> {
        let wanted = format!("{bucket}/{prefix}");
        let matching = contents.iter().filter(|(key, _)| key.starts_with(&wanted));
        matching.map(|(key, (text, _))| (key.clone(), text.clone())).collect()
    }
}

async fn check(store: &impl Store, model: &Model) {
    for (bucket, prefix) in QUERIES {
        for (revision, contents) in model.then.iter().map(|(revision, contents)| (*revision, contents)) {
            let at = Some(Revision(revision));
            if revision < model.oldest {
                assert!(store.list(bucket, prefix, None, None, at).is_err(), "{bucket} at {revision}");
                assert!(store.watch(bucket, prefix, Revision(revision)).is_err());
                continue;
            }
            let expected = Model::selected(contents, bucket, prefix);
            let mut found = Vec::new();
            let mut after: Option<String> = None;
            loop {
                let page = store.list(bucket, prefix, after.as_deref(), Some(2), at).unwrap();
                found.extend(page.entries.iter().map(|entry| (entry.key.as_str().to_owned(), text(entry))));
                assert_eq!(page.remaining, expected.len() - found.len());
                if !page.more {
                    break;
                }
                after = page.entries.last().map(|entry| entry.key.rest().to_owned());
            }
            assert_eq!(found, expected, "{bucket}/{prefix} at {revision}");
            let mut watcher = store.watch(bucket, prefix, Revision(revision)).unwrap();
            let events: Vec<ModelEvent> = drain(&mut watcher)
                .iter()
                .map(|event| {
                    let key = event.entry.key.as_str().to_owned();
                    (
                        event.revision.0,
                        event.kind,
                        key,
                        text(&event.entry),
                        event.previous.as_ref().map(|old| text(old)),
                    )
                })
                .collect();
            let wanted = format!("{bucket}/{prefix}");
            let of_query = |event: &&ModelEvent| event.0 > revision && event.2.starts_with(&wanted);
            let expected: Vec<_> = model.events.iter().filter(of_query).cloned().collect();
            assert_eq!(events, expected, "watch {bucket}/{prefix} from {revision}");
            assert_eq!(watcher.revision(), store.revision());
        }
    }
}

async fn run(steps: Vec<Step>) {
    let mut directory = tempfile::tempdir().unwrap();
    let mut store = reopen(directory.path());
    let mut model = Model::default();
    model.then.insert(1, Contents::default());
    for (number, step) in steps.into_iter().enumerate() {
        let before = store.revision();
        match step {
            Step::Commit { operations, relaxed } => {
                let mut unique = BTreeMap::new();
                for (key, wish, removes) in operations {
                    let (key, expect) = (KEYS[key], model.expectation(KEYS[key], wish));
                    let operation = match removes {
                        true => delete(key, expect),
                        false => put(key, &format!("v{number}"), expect),
                    };
                    unique.entry(key).or_insert(operation);
                }
                let operations: Vec<_> = unique.into_values().collect();
                let result = store.commit(Transaction { operations: operations.clone(), relaxed }).await;
                match (result, model.conflict(&operations)) {
                    (Ok(committed), None) if committed.revision > before => {
                        assert_eq!(committed.revision, store.revision());
                        model.apply(&operations, committed.revision.0);
                    }
                    (Ok(committed), None) => {
                        assert_eq!(committed.revision, before);
                        let no_change = |operation: &Operation| {
                            matches!(operation.change, Change::Delete(_))
                                && !model.now.contains_key(operation.key.as_str())
                        };
                        assert!(operations.iter().all(no_change), "{operations:?} changed nothing");
                    }
                    (Err(CommitError::Conflict { operation, current }), Some(expected)) => {
                        assert_eq!(operation, expected);
                        let held = model.now.get(operations[operation].key.as_str()).map(|(text, _)| text.clone());
                        assert_eq!(current.map(|entry| text(&entry)), held);
                    }
                    (result, expected) => unreachable!("{result:?}, expected conflict at {expected:?}"),
                }
            }
            Step::Compact { back } => {
                let floor = before.0.saturating_sub(back).max(1);
                store.compact(Revision(floor)).await;
                model.oldest = model.oldest.max(floor);
                assert_eq!(store.oldest().0, model.oldest.max(1));
            }
            Step::Close => {
                drop(store);
                store = reopen(directory.path());
                assert_eq!(store.revision(), before);
                // The log still has the whole history; compaction bounds memory and is not written down.
                model.oldest = 0;
            }
            Step::Crash => {
                let copy = crash_copy(directory.path());
                drop(store);
                directory = copy;
                store = reopen(directory.path());
                assert!(store.revision() >= before);
                model.oldest = 0;
            }
        }
        for key in KEYS {
            let held = store.get(&Key::parse(key).unwrap());
            let found = held.as_ref().map(|entry| (text(entry), entry.revision.0));
            assert_eq!(found, model.now.get(key).cloned());
        }
    }
    check(&*store, &model).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_the_model(steps in steps()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(steps));
    }
}
