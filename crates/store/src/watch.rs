//! A watcher: a cursor into its bucket's window, woken by the bucket's notification. It has no queue.

use crate::state::Shared;
use crate::types::{Event, Revision};
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::Notify;

/// Why a watch cannot start.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WatchError {
    /// The history from that revision on is gone (HTTP 410).
    #[error("the requested revision has been compacted; the oldest retained one is {oldest}")]
    Compacted {
        /// The oldest revision that would have worked.
        oldest: Revision,
    },
    /// The revision has not happened yet.
    #[error("the requested revision is newer than the current one, {current}")]
    Future {
        /// The latest revision.
        current: Revision,
    },
}

/// The watcher was slower than its bucket's window, or the store was closed: list again (HTTP 410).
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the watch fell out of the retained history; the oldest retained revision is {oldest}")]
pub struct Lost {
    /// The oldest revision that is retained.
    pub oldest: Revision,
}

/// A run of events, in order.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The events; those of one transaction are always in one batch.
    pub events: Vec<Arc<Event>>,
    /// Everything up to here has been delivered; a bookmark may carry it.
    pub revision: Revision,
}

/// Follows the events of a prefix.
pub struct Watcher {
    shared: Arc<Shared>,
    changed: Arc<Notify>,
    bucket: Box<str>,
    prefix: Box<str>,
    cursor: Revision,
}

impl Watcher {
    pub(crate) fn new(shared: &Arc<Shared>, bucket: &str, prefix: &str, after: Revision) -> Result<Self, WatchError> {
        let changed = {
            let mut state = shared.write();
            if after > state.revision() {
                return Err(WatchError::Future { current: state.revision() });
            }
            if let Err(compacted) = state.check_retained(bucket, after) {
                return Err(WatchError::Compacted { oldest: compacted.oldest });
            }
            state.changed(bucket)
        };
        shared.watchers.fetch_add(1, Ordering::Relaxed);
        Ok(Self { shared: Arc::clone(shared), changed, bucket: bucket.into(), prefix: prefix.into(), cursor: after })
    }

    /// Everything up to here has been delivered.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.cursor
    }

    /// Waits for the next events. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Batch, Lost> {
        loop {
            let batch = {
                let mut changed = pin!(self.changed.notified());
                // Registered before looking, so that a change between looking and waiting is not missed.
                changed.as_mut().enable();
                let (events, revision) = self.look()?;
                if events.is_empty() && revision == self.cursor {
                    changed.await;
                    continue;
                }
                Batch { events, revision }
            };
            self.cursor = batch.revision;
            if !batch.events.is_empty() {
                return Ok(batch);
            }
        }
    }

    /// What is there now, perhaps nothing. On a caller's timer, an empty batch's revision makes a bookmark.
    pub fn try_next(&mut self) -> Result<Batch, Lost> {
        let (events, revision) = self.look()?;
        self.cursor = revision;
        Ok(Batch { events, revision })
    }

    fn look(&self) -> Result<(Vec<Arc<Event>>, Revision), Lost> {
        let state = self.shared.read();
        let found = state.events_after(&self.bucket, &self.prefix, self.cursor)?;
        if found.0.is_empty() && self.shared.closed.load(Ordering::Acquire) {
            return Err(Lost { oldest: state.revision() });
        }
        Ok(found)
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Watcher({}/{}* after {})", self.bucket, self.prefix, self.cursor)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}
