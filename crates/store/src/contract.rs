//! The trait that the API server writes, reads and watches through, whatever engine stands behind it.

use crate::entry::Entry;
use crate::types::{CommitError, Committed, Compacted, Key, Revision, Transaction};
use crate::watch::{WatchError, Watcher};
use async_trait::async_trait;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An ordered history of revisions. See the crate's documentation.
///
/// Reads are answered from memory and never wait for the disk. Another engine (etcd) feeds the same memory from one
/// watch; [`Store::read_barrier`] is where it waits until that has caught up.
#[async_trait]
pub trait Store: Send + Sync {
    /// Applies a transaction, all or nothing, at one new revision. It is durable when this returns, unless relaxed, and
    /// every read and watch sees it. Dropping the future does not take the transaction back.
    async fn commit(&self, transaction: Transaction) -> Result<Committed, CommitError>;

    /// The latest entry of a key.
    fn get(&self, key: &Key) -> Option<Arc<Entry>>;

    /// The entries of a bucket whose rest starts with `prefix`, in order, as of one revision: `at`, or the latest (also
    /// when `at` lies in the future). A page starts after the rest `start_after` and has at most `limit` entries.
    fn list(
        &self,
        bucket: &str,
        prefix: &str,
        start_after: Option<&str>,
        limit: Option<usize>,
        at: Option<Revision>,
    ) -> Result<List, Compacted>;

    /// Follows the changes after a revision.
    fn watch(&self, bucket: &str, prefix: &str, after: Revision) -> Result<Watcher, WatchError>;

    /// The latest revision that readers see.
    fn revision(&self) -> Revision;

    /// Returns when reads see everything that any server had acknowledged before the call. The embedded engine is always
    /// there already.
    async fn read_barrier(&self) -> Result<Revision, CommitError> {
        Ok(self.revision())
    }

    /// Forgets the history before a revision: lists and new watches at older ones are refused from now on.
    async fn compact(&self, before: Revision);

    /// The compaction floor. A bucket whose window has overflowed may refuse newer revisions as well.
    fn oldest(&self) -> Revision;

    /// Writes the current state to a new file while the store goes on serving; gives its revision.
    async fn backup(&self, to: &Path) -> Result<Revision, BackupError>;

    /// Sizes and counters.
    fn status(&self) -> Status;

    /// Waits until the store has stopped accepting writes: the server cannot go on then.
    async fn stopped(&self) -> StoreStopped;
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct List {
    /// The entries, ordered by key.
    pub entries: Vec<Arc<Entry>>,
    /// The revision that all of them belong to.
    pub revision: Revision,
    /// How many entries follow this page.
    pub remaining: usize,
    /// Whether any follow.
    pub more: bool,
}

/// Why the store stopped.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoreStopped {
    /// A sentence for the operator.
    pub reason: String,
    /// It was asked to.
    pub closed: bool,
}

/// A backup could not be written; nothing is left at its path.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the backup {}: {source}", path.display())]
pub struct BackupError {
    /// The backup's path.
    pub path: PathBuf,
    /// What failed.
    #[source]
    pub source: std::io::Error,
}

/// Sizes and counters of a store.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The latest visible revision.
    pub revision: Revision,
    /// The compaction floor.
    pub oldest: Revision,
    /// Keys.
    pub entries: usize,
    /// Bytes of their values.
    pub value_bytes: usize,
    /// Retained events.
    pub window_events: usize,
    /// What they cost.
    pub window_bytes: usize,
    /// Estimated bytes of decoded objects and other encodings held.
    pub decoded_bytes: usize,
    /// Open watches.
    pub watchers: usize,
    /// Bytes of log written since the last snapshot.
    pub log_bytes: u64,
    /// Revision of the last snapshot.
    pub snapshot_revision: Revision,
    /// Transactions applied since the store was opened.
    pub commits: u64,
    /// Times the log was made durable since the store was opened.
    pub syncs: u64,
    /// The disk was full at the last attempt to write; only deletes are accepted until space is there again.
    pub space_low: bool,
    /// Set once the store accepts no more writes.
    pub stopped: Option<String>,
}
