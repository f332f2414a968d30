//! The vocabulary of the store: revisions, keys, transactions, events.

use crate::entry::Entry;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// A position in the store's single ordered history. A fresh store is at 1; the first write is above 1.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// `bucket/rest`: the bucket is a resource (`pods`, `deployments.apps`), the rest is `namespace/name` or `name`.
#[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// Longest key that the engine stores, in bytes.
    pub const LENGTH_MAX_BYTES: usize = 1024;

    /// Joins a bucket and the rest. A bucket must not contain `/`: everything after the first `/` belongs to the rest.
    #[must_use]
    pub fn new(bucket: &str, rest: &str) -> Self {
        debug_assert!(!bucket.contains('/'), "a bucket has no slash: {bucket}");
        let mut text = String::with_capacity(bucket.len() + 1 + rest.len());
        text.push_str(bucket);
        text.push('/');
        text.push_str(rest);
        Self(text.into())
    }

    /// The key that [`Key::as_str`] gave; `None` when the text has no bucket or no rest.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (bucket, rest) = text.split_once('/')?;
        (!bucket.is_empty() && !rest.is_empty()).then(|| Self(text.into()))
    }

    /// The resource part.
    #[must_use]
    pub fn bucket(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(bucket, _)| bucket)
    }

    /// The part after the bucket.
    #[must_use]
    pub fn rest(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, rest)| rest)
    }

    /// Bucket and rest with the slash between them.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Encoded bytes with one hole: the engine inserts its decimal revision at `revision_at`.
///
/// The caller leaves `"resourceVersion":""` and points between the quotes, so an object is encoded once and its bytes
/// are final when readers and watchers see them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Template {
    /// The encoded object without its revision.
    pub bytes: Bytes,
    /// Where the revision goes, as a byte offset; `None` stores the bytes as they are.
    pub revision_at: Option<u32>,
}

impl Template {
    /// The final bytes at a revision, or `None` when the offset lies outside the bytes.
    #[must_use]
    pub fn splice(&self, revision: Revision) -> Option<Bytes> {
        let Some(offset) = self.revision_at else { return Some(self.bytes.clone()) };
        let (head, tail) = self.bytes.split_at_checked(offset as usize)?;
        let mut digits = [0_u8; 20];
        let digits = decimal(revision.0, &mut digits);
        let mut value = Vec::with_capacity(self.bytes.len() + digits.len());
        value.extend_from_slice(head);
        value.extend_from_slice(digits);
        value.extend_from_slice(tail);
        Some(value.into())
    }
}

/// Writes a number into a fixed buffer; `u64::MAX` has 20 digits, so the buffer always suffices.
fn decimal(mut number: u64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut start = buffer.len();
    loop {
        start -= 1;
        buffer[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &buffer[start..];
        }
    }
}

/// What must be true of a key for the transaction to be applied.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key exists and was last modified at this revision.
    Revision(Revision),
    /// Nothing is expected.
    Any,
}

/// What happens to a key.
#[derive(Clone, Debug)]
pub enum Change {
    /// Creates or replaces the value.
    Put(Template),
    /// Removes the key. The template is the final object as watchers must see it, with the deletion's revision in it;
    /// without one, watchers see the last value as it was. Deleting an absent key under [`Expect::Any`] does nothing.
    Delete(Option<Template>),
    /// Changes nothing: the transaction depends on this key's expectation.
    Keep,
}

/// One key's part of a transaction. A transaction names a key once.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The key.
    pub key: Key,
    /// What must hold.
    pub expect: Expect,
    /// What happens.
    pub change: Change,
}

/// Operations that are applied together, all or none, at one revision.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    /// The operations.
    pub operations: Vec<Operation>,
    /// The transaction may be acknowledged before it is durable (Lease renewals, Events): a crash of the machine, not of
    /// the process, may lose it.
    pub relaxed: bool,
}

/// A transaction that was applied.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The transaction's revision; the store's current one when nothing was changed.
    pub revision: Revision,
    /// Per operation: the new entry of a put, the final entry of a delete (`None` if there was nothing to delete), the
    /// current entry of a keep.
    pub entries: Vec<Option<Arc<Entry>>>,
}

/// Why a transaction was not applied. Nothing of it was.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// An operation's expectation did not hold.
    #[error("operation {operation} expected another state of its key")]
    Conflict {
        /// Index of the first operation whose expectation failed.
        operation: usize,
        /// What the key holds now.
        current: Option<Arc<Entry>>,
    },
    /// The disk is full. Deletes, and updates that do not grow an object, still work out of the store's reserve.
    #[error("the disk that holds the store is full: delete objects or free space in {directory}")]
    NoSpace {
        /// The store's directory.
        directory: String,
    },
    /// The store no longer accepts writes because an earlier one could not be made durable, or because it was closed.
    #[error("the store has stopped: {reason}")]
    Stopped {
        /// What happened.
        reason: String,
    },
    /// A value or the transaction is larger than the store's limits.
    #[error("{size_bytes} bytes are more than the limit of {limit_bytes} bytes")]
    TooLarge {
        /// Its size.
        size_bytes: usize,
        /// The limit that it breaks.
        limit_bytes: usize,
    },
    /// The transaction contradicts itself; a bug of the caller.
    #[error("operation {operation}: {reason}")]
    Invalid {
        /// Index of the operation.
        operation: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// The revision asked for is no longer retained (HTTP 410, `Expired`).
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the requested revision has been compacted; the oldest retained one is {oldest}")]
pub struct Compacted {
    /// The oldest revision that would have worked.
    pub oldest: Revision,
}

/// What an event did to its key.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum EventKind {
    /// The key did not exist before.
    Added,
    /// The key's value was replaced.
    Modified,
    /// The key was removed.
    Deleted,
}

/// One change of one key.
#[derive(Clone, Debug)]
pub struct Event {
    /// The revision of the transaction that made it.
    pub revision: Revision,
    /// What happened.
    pub kind: EventKind,
    /// The new entry; for a deletion the final one, with the deletion's revision.
    pub entry: Arc<Entry>,
    /// The entry before the change; `None` for an addition.
    pub previous: Option<Arc<Entry>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splices_the_revision_between_the_quotes() {
        let text = r#"{"metadata":{"resourceVersion":"","name":"a"}}"#;
        let at = text.find(r#"":"","#).map(|at| at as u32 + 3);
        let template = |revision_at| Template { bytes: Bytes::from_static(text.as_bytes()), revision_at };
        for (revision, digits) in [(0, "0"), (7, "7"), (1234, "1234"), (u64::MAX, "18446744073709551615")] {
            let expected = format!(r#"{{"metadata":{{"resourceVersion":"{digits}","name":"a"}}}}"#);
            assert_eq!(template(at).splice(Revision(revision)), Some(Bytes::from(expected)));
        }
        assert_eq!(template(None).splice(Revision(3)), Some(Bytes::from_static(text.as_bytes())));
        assert_eq!(template(Some(text.len() as u32 + 1)).splice(Revision(3)), None);
    }

    #[test]
    fn splits_keys_at_the_first_slash() {
        let key = Key::new("deployments.apps", "default/web");
        assert_eq!((key.bucket(), key.rest()), ("deployments.apps", "default/web"));
        assert_eq!(Key::parse(key.as_str()), Some(key));
        for bad in ["", "pods", "/x", "pods/"] {
            assert_eq!(Key::parse(bad), None, "{bad}");
        }
    }
}
