//! A watch's feed of items. It has no task and no queue: the reader pulls, so a slow client holds back only itself.

use crate::core::{Core, Row, Scope, decoded};
use crate::read::{self, Selection};
use object::{Status, Value};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use store::{Batch, Entry, Event, EventKind, Lost, Revision, WatchError, Watcher};
use tokio::time::{Instant, sleep_until};

/// Bookmarks come at least so often to those who want them.
const BOOKMARK_EVERY: Duration = Duration::from_secs(55);
/// Upstream ends watches that name no timeout after 30 to 60 minutes.
const TIMEOUT_MINIMUM: Duration = Duration::from_secs(1800);
/// Longer timeouts are cut to this: in effect none.
const TIMEOUT_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Initial entries are handed out so many at a time.
const INITIAL_CHUNK: usize = 256;

/// What happened to an object, seen through the selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
}

/// One item of a feed.
pub(crate) enum Item {
    /// A change of a stored object; of a deletion the last state.
    Change(Change, Arc<Entry>),
    /// The object left the selection: its last selected state, with the revision at which it left.
    Left(Box<Value>),
    /// Nothing else happened up to this revision.
    Bookmark { revision: Revision, initial_end: bool },
    /// The watch ends with this.
    Error(Status),
}

/// How a watch is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct WatchRequest {
    pub(crate) resource_version: String,
    pub(crate) bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
    pub(crate) timeout_seconds: Option<u64>,
    /// Start after exactly this revision, even 0: in-process callers have listed before.
    pub(crate) after: Option<u64>,
}

/// A running watch.
pub(crate) struct Feed {
    row: Row,
    selection: Selection,
    watcher: Watcher,
    stopping: tokio::sync::watch::Receiver<bool>,
    initial: VecDeque<Arc<Entry>>,
    initial_end: Option<Revision>,
    pending_error: Option<Status>,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    ended: bool,
}

impl Feed {
    /// Starts a watch.
    pub(crate) async fn start(
        core: &Core,
        scope: &Scope<'_>,
        selection: Selection,
        request: &WatchRequest,
    ) -> Result<Self, Status> {
        let wants_initial = request.send_initial_events == Some(true);
        let given = match request.after {
            Some(revision) => Some(Revision(revision)),
            None => read::parse_revision(&request.resource_version)?,
        };
        read::wait_for(core, given).await?;
        let from_now = given.is_none_or(|revision| revision.0 == 0) && request.after.is_none();
        let synthetic = wants_initial || (from_now && request.send_initial_events.is_none());
        let mut initial = VecDeque::new();
        let mut after = given.unwrap_or_default();
        if synthetic {
            let listed = read::entries(core, scope, &selection, None)?;
            after = listed.revision;
            initial = listed.entries.into();
        } else if from_now {
            after = core.store.revision();
        }
        let (watcher, pending_error) = open(core, scope, &selection, after)?;
        let now = Instant::now();
        let jitter = Duration::from_secs(crate::random::below(TIMEOUT_MINIMUM.as_secs()));
        let timeout = request.timeout_seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs);
        Ok(Feed {
            row: scope.row.clone(),
            selection,
            watcher,
            stopping: core.stopping.subscribe(),
            initial,
            initial_end: (wants_initial && request.bookmarks).then_some(after),
            pending_error,
            bookmarks: request.bookmarks,
            next_bookmark: now + BOOKMARK_EVERY,
            deadline: now + timeout.unwrap_or(TIMEOUT_MINIMUM + jitter).min(TIMEOUT_MAX),
            ended: false,
        })
    }

    /// The next items, at least one; None at the end. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Vec<Item>> {
        if self.ended {
            return None;
        }
        if let Some(status) = self.pending_error.take() {
            self.ended = true;
            return Some(vec![Item::Error(status)]);
        }
        if !self.initial.is_empty() {
            let count = self.initial.len().min(INITIAL_CHUNK);
            return Some(self.initial.drain(..count).map(|entry| Item::Change(Change::Added, entry)).collect());
        }
        if let Some(revision) = self.initial_end.take() {
            return Some(vec![Item::Bookmark { revision, initial_end: true }]);
        }
        loop {
            let woken = tokio::select! {
                biased;
                batch = self.watcher.next() => Woken::Batch(batch),
                () = sleep_until(self.next_bookmark), if self.bookmarks => Woken::Bookmark,
                () = sleep_until(self.deadline) => Woken::Deadline,
                () = stopped(&mut self.stopping) => Woken::Stop,
            };
            match woken {
                Woken::Batch(Ok(batch)) => {
                    let items: Vec<Item> = batch.events.iter().filter_map(|event| self.item(event)).collect();
                    if !items.is_empty() {
                        return Some(items);
                    }
                }
                Woken::Batch(Err(lost)) => {
                    self.ended = true;
                    let stopping = *self.stopping.borrow();
                    let status = too_old(self.watcher.revision(), lost.oldest);
                    return (!stopping).then(|| vec![Item::Error(status)]);
                }
                Woken::Bookmark => {
                    self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                    return Some(self.progress());
                }
                Woken::Deadline => {
                    self.ended = true;
                    // A last bookmark lets the client go on where it stands.
                    return self.bookmarks.then(|| self.progress());
                }
                Woken::Stop => {
                    self.ended = true;
                    return None;
                }
            }
        }
    }

    fn progress(&mut self) -> Vec<Item> {
        match self.watcher.try_next() {
            Ok(batch) => {
                let mut items: Vec<Item> = batch.events.iter().filter_map(|event| self.item(event)).collect();
                items.push(Item::Bookmark { revision: batch.revision, initial_end: false });
                items
            }
            Err(lost) => {
                self.ended = true;
                vec![Item::Error(too_old(self.watcher.revision(), lost.oldest))]
            }
        }
    }

    /// An event through the selection; None where it is about nothing selected.
    fn item(&self, event: &Event) -> Option<Item> {
        let selects = |entry: &Arc<Entry>| self.selection.matches_entry(&self.row, entry);
        let before = || event.previous.as_ref().is_some_and(selects);
        let entry = Arc::clone(&event.entry);
        match event.kind {
            EventKind::Added => selects(&entry).then_some(Item::Change(Change::Added, entry)),
            EventKind::Deleted => {
                (self.selection.is_everything() || before()).then_some(Item::Change(Change::Deleted, entry))
            }
            EventKind::Modified if self.selection.is_everything() => Some(Item::Change(Change::Modified, entry)),
            EventKind::Modified => match (before(), selects(&entry)) {
                (true, true) => Some(Item::Change(Change::Modified, entry)),
                (false, true) => Some(Item::Change(Change::Added, entry)),
                (true, false) => {
                    let previous = event.previous.as_ref()?;
                    let mut value = decoded(previous).as_ref().clone();
                    value.set(&["metadata", "resourceVersion"], event.revision.to_string().into());
                    Some(Item::Left(Box::new(value)))
                }
                (false, false) => None,
            },
        }
    }
}

/// What ended a feed's wait.
enum Woken {
    Batch(Result<Batch, Lost>),
    Bookmark,
    Deadline,
    Stop,
}

/// Returns when the server stops. The guard that `wait_for` gives must not live across an await.
async fn stopped(stopping: &mut tokio::sync::watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Opens the store's watcher. A revision that is gone becomes an ERROR event, as upstream sends it.
fn open(
    core: &Core,
    scope: &Scope<'_>,
    selection: &Selection,
    after: Revision,
) -> Result<(Watcher, Option<Status>), Status> {
    let bucket = scope.row.bucket.as_str();
    let prefix = read::prefix(scope, selection);
    match core.store.watch(bucket, &prefix, after) {
        Ok(watcher) => Ok((watcher, None)),
        Err(WatchError::Compacted { oldest }) => {
            let status = too_old(after, oldest);
            let watcher = core.store.watch(bucket, &prefix, core.store.revision()).map_err(|_| status.clone())?;
            Ok((watcher, Some(status)))
        }
        Err(WatchError::Future { current }) => Err(Status::new(
            504,
            "Timeout",
            format!("Timeout: Too large resource version: {after}, current: {current}"),
        )),
    }
}

fn too_old(wanted: Revision, oldest: Revision) -> Status {
    Status::expired(format!("too old resource version: {wanted} ({oldest})"))
}
