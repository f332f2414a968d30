//! One group commit: checks transactions against the state and each other, and encodes them.

use crate::embedded::options::Options;
use crate::embedded::record;
use crate::entry::Entry;
use crate::state::{Applied, Shared};
use crate::types::{Change, CommitError, Committed, Expect, Key, Operation, Revision, Transaction};
use std::collections::HashMap;
use std::sync::Arc;

/// An update may grow an object by this much and still count as shrinking: what a graceful deletion adds.
const SHRINKING_SLACK_BYTES: usize = 512;

/// What is let through when the disk is full.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Admit {
    Everything,
    /// Deletes, and updates that do not grow what is there.
    Shrinking,
    /// Deletes only: the reserve is half spent.
    Deletes,
}

/// A transaction's answer, and what it changes.
pub(crate) struct Outcome {
    pub(crate) answer: Result<Committed, CommitError>,
    pub(crate) changes: Vec<Applied>,
}

/// Transactions that go to the log together.
pub(crate) struct Batch<'a> {
    shared: &'a Shared,
    options: &'a Options,
    admit: Admit,
    /// The last revision given out.
    pub(crate) revision: Revision,
    /// What earlier transactions of this batch have changed.
    pending: HashMap<Key, Option<Arc<Entry>>>,
}

/// Checks what does not depend on the state, and gives the size. Done by the caller's thread, before the queue.
pub(crate) fn check(transaction: &Transaction, options: &Options) -> Result<usize, CommitError> {
    let mut size_bytes = 0;
    for (index, operation) in transaction.operations.iter().enumerate() {
        let invalid = |reason| Err(CommitError::Invalid { operation: index, reason });
        let key = &operation.key;
        if key.bucket().is_empty() || key.rest().is_empty() || key.as_str().len() > Key::LENGTH_MAX_BYTES {
            return invalid("the key has no bucket or no rest, or is too long");
        }
        size_bytes += key.as_str().len() + 64;
        let template = match &operation.change {
            Change::Put(template) | Change::Delete(Some(template)) => template,
            Change::Delete(None) | Change::Keep => continue,
        };
        if template.revision_at.is_some_and(|at| at as usize > template.bytes.len()) {
            return invalid("the revision's place lies outside the value");
        }
        if template.bytes.len() > options.value_bytes_max {
            let limit_bytes = options.value_bytes_max;
            return Err(CommitError::TooLarge { size_bytes: template.bytes.len(), limit_bytes });
        }
        size_bytes += template.bytes.len();
    }
    if size_bytes > options.transaction_bytes_max {
        return Err(CommitError::TooLarge { size_bytes, limit_bytes: options.transaction_bytes_max });
    }
    let mut keys: Vec<_> = transaction.operations.iter().map(|operation| &operation.key).collect();
    if keys.len() > 1 {
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(CommitError::Invalid { operation: 0, reason: "the transaction names a key twice" });
        }
    }
    Ok(size_bytes)
}

impl<'a> Batch<'a> {
    pub(crate) fn new(shared: &'a Shared, options: &'a Options, admit: Admit, revision: Revision) -> Self {
        Self { shared, options, admit, revision, pending: HashMap::new() }
    }

    fn current(&self, key: &Key) -> Option<Arc<Entry>> {
        match self.pending.get(key) {
            Some(pending) => pending.clone(),
            None => self.shared.read().get(key).cloned(),
        }
    }

    /// Checks a transaction and, if it holds, appends it to the frame.
    pub(crate) fn add(&mut self, transaction: &Transaction, frame: &mut Vec<u8>) -> Outcome {
        let refuse = |error| Outcome { answer: Err(error), changes: Vec::new() };
        let mut current = Vec::with_capacity(transaction.operations.len());
        for (index, operation) in transaction.operations.iter().enumerate() {
            let held = self.current(&operation.key);
            let holds = match (operation.expect, &held) {
                (Expect::Any, _) | (Expect::Absent, None) => true,
                (Expect::Revision(expected), Some(held)) => held.revision == expected,
                (Expect::Absent, Some(_)) | (Expect::Revision(_), None) => false,
            };
            if !holds {
                return refuse(CommitError::Conflict { operation: index, current: held });
            }
            current.push(held);
        }
        if !self.admits(&transaction.operations, &current) {
            return refuse(CommitError::NoSpace { directory: self.options.directory.display().to_string() });
        }
        let revision = Revision(self.revision.0 + 1);
        let mut entries = Vec::with_capacity(current.len());
        let mut changes = Vec::new();
        for (operation, held) in transaction.operations.iter().zip(current) {
            match self.apply(operation, held.as_ref(), revision) {
                Some(change) => {
                    entries.push(Some(Arc::clone(&change.entry)));
                    changes.push(change);
                }
                None => entries.push(held),
            }
        }
        if changes.is_empty() {
            return Outcome { answer: Ok(Committed { revision: self.revision, entries }), changes };
        }
        self.revision = revision;
        for change in &changes {
            let held = (!change.deleted).then(|| Arc::clone(&change.entry));
            self.pending.insert(change.entry.key.clone(), held);
        }
        record::put_transaction(frame, revision, &changes);
        Outcome { answer: Ok(Committed { revision, entries }), changes }
    }

    fn apply(&self, operation: &Operation, held: Option<&Arc<Entry>>, revision: Revision) -> Option<Applied> {
        let (template, deleted) = match &operation.change {
            Change::Keep => return None,
            Change::Put(template) => (Some(template), false),
            Change::Delete(template) => {
                held?;
                (template.as_ref(), true)
            }
        };
        let value = match template {
            // The place was checked before the queue; a value without its revision is still the caller's value.
            Some(template) => template.splice(revision).unwrap_or_else(|| template.bytes.clone()),
            None => held.map(|held| held.value.clone()).unwrap_or_default(),
        };
        // A key that is held keeps its own text, so that the key's memory is shared over all revisions.
        let key = held.map_or(&operation.key, |held| &held.key).clone();
        let created = held.map_or(revision, |held| held.created);
        let entry = Arc::new(Entry::new(key, revision, created, value, &self.shared.budget));
        Some(Applied { entry, deleted })
    }

    fn admits(&self, operations: &[Operation], current: &[Option<Arc<Entry>>]) -> bool {
        self.admit == Admit::Everything
            || operations.iter().zip(current).all(|(operation, held)| match &operation.change {
                Change::Delete(_) | Change::Keep => true,
                Change::Put(template) => {
                    let limit = held.as_ref().map(|held| held.value.len() + SHRINKING_SLACK_BYTES);
                    self.admit == Admit::Shrinking && limit.is_some_and(|limit| template.bytes.len() <= limit)
                }
            })
    }
}
