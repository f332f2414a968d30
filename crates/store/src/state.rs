//! The state in memory: every bucket's entries and window, published atomically and read without copying.

use crate::contract::List;
use crate::entry::{DecodedBudget, Entry};
use crate::tree::{Position, Tree};
use crate::types::{Compacted, Event, EventKind, Key, Revision};
use crate::watch::Lost;
use crate::window::{Window, WindowLimits};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::Notify;

/// Most events that one look into a window passes, so that the lock is held for microseconds.
const EXAMINED_EVENTS_MAX: usize = 4096;
/// Most events that one batch delivers.
const BATCH_EVENTS_MAX: usize = 1024;
/// Most remembered revision gaps; older ones become part of the floor.
const GAPS_MAX: usize = 64;

/// One key's new state within a published transaction.
#[derive(Clone, Debug)]
pub(crate) struct Applied {
    pub(crate) entry: Arc<Entry>,
    pub(crate) deleted: bool,
}

/// Revisions that may have been shown before a crash of the machine and that no longer exist: after `last`, up to and
/// excluding `resumed`.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) struct Gap {
    pub(crate) last: Revision,
    pub(crate) resumed: Revision,
}

struct Bucket {
    tree: Tree,
    window: Window,
    changed: Arc<Notify>,
}

pub(crate) struct State {
    revision: Revision,
    /// The compaction floor that callers set.
    oldest: Revision,
    /// Where the history in memory begins: the snapshot's revision.
    base: Revision,
    gaps: Vec<Gap>,
    /// Index of each bucket; buckets are never removed.
    names: HashMap<Box<str>, usize>,
    buckets: Vec<Bucket>,
    limits: WindowLimits,
    entries: usize,
    value_bytes: usize,
    window_bytes: usize,
}

/// What a snapshot file is written from.
pub(crate) struct Image {
    pub(crate) revision: Revision,
    pub(crate) entries: usize,
    pub(crate) buckets: Vec<Tree>,
}

/// Counters of the state in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sizes {
    pub(crate) entries: usize,
    pub(crate) value_bytes: usize,
    pub(crate) window_events: usize,
    pub(crate) window_bytes: usize,
}

impl State {
    pub(crate) fn new(revision: Revision, limits: WindowLimits) -> Self {
        Self {
            revision,
            oldest: revision,
            base: revision,
            gaps: Vec::new(),
            names: HashMap::new(),
            buckets: Vec::new(),
            limits,
            entries: 0,
            value_bytes: 0,
            window_bytes: 0,
        }
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn oldest(&self) -> Revision {
        self.oldest
    }

    fn bucket(&self, name: &str) -> Option<&Bucket> {
        self.names.get(name).map(|index| &self.buckets[*index])
    }

    fn bucket_mut(&mut self, name: &str) -> &mut Bucket {
        let index = match self.names.get(name) {
            Some(index) => *index,
            None => {
                let window = Window::new(self.base);
                self.buckets.push(Bucket { tree: Tree::default(), window, changed: Arc::new(Notify::new()) });
                self.names.insert(name.into(), self.buckets.len() - 1);
                self.buckets.len() - 1
            }
        };
        &mut self.buckets[index]
    }

    /// Puts an entry of a snapshot in place, without an event.
    pub(crate) fn load(&mut self, entry: Arc<Entry>) {
        let bucket = self.bucket_mut(entry.key.bucket());
        let length = entry.value.len();
        let previous = bucket.tree.insert(entry);
        self.value_bytes += length;
        match previous {
            Some(previous) => self.value_bytes -= previous.value.len(),
            None => self.entries += 1,
        }
    }

    /// Makes a transaction visible: entries, events, revision. Pushes whatever is to be freed to `garbage` and whoever
    /// is to be woken to `wake`, both for after the lock.
    pub(crate) fn publish(
        &mut self,
        revision: Revision,
        changes: &[Applied],
        garbage: &mut Vec<Arc<Event>>,
        wake: &mut Vec<Arc<Notify>>,
    ) {
        let limits = self.limits;
        for change in changes {
            let entry = &change.entry;
            let bucket = self.bucket_mut(entry.key.bucket());
            let (bytes_before, freed_before) = (bucket.window.bytes(), bucket.tree.len());
            let previous = if change.deleted {
                bucket.tree.remove(entry.key.rest())
            } else {
                bucket.tree.insert(Arc::clone(entry))
            };
            let kind = match (&previous, change.deleted) {
                (_, true) => EventKind::Deleted,
                (Some(_), false) => EventKind::Modified,
                (None, false) => EventKind::Added,
            };
            let previous_length = previous.as_ref().map_or(0, |previous| previous.value.len());
            let event = Event { revision, kind, entry: Arc::clone(entry), previous };
            bucket.window.push(Arc::new(event), &limits, garbage);
            if !wake.iter().any(|held| Arc::ptr_eq(held, &bucket.changed)) {
                wake.push(Arc::clone(&bucket.changed));
            }
            let (bytes_after, length_after) = (bucket.window.bytes(), bucket.tree.len());
            self.window_bytes = self.window_bytes + bytes_after - bytes_before;
            self.entries = self.entries + length_after - freed_before;
            self.value_bytes -= previous_length;
            if !change.deleted {
                self.value_bytes += entry.value.len();
            }
        }
        while self.window_bytes > limits.total_bytes_max && self.shrink_largest_window(garbage) {}
        self.revision = revision;
    }

    fn shrink_largest_window(&mut self, garbage: &mut Vec<Arc<Event>>) -> bool {
        let Some(bucket) = self.buckets.iter_mut().max_by_key(|bucket| bucket.window.bytes()) else { return false };
        let before = bucket.window.bytes();
        let evicted = bucket.window.evict_first(garbage);
        self.window_bytes -= before - bucket.window.bytes();
        evicted
    }

    /// Moves the revision forward over numbers that may have been shown before a crash and are lost.
    pub(crate) fn resume(&mut self, gap: Gap) {
        if gap.resumed <= gap.last {
            return;
        }
        self.revision = self.revision.max(gap.resumed);
        self.gaps.push(gap);
        if self.gaps.len() > GAPS_MAX {
            let forgotten = self.gaps.remove(0);
            self.oldest = self.oldest.max(forgotten.resumed);
        }
    }

    pub(crate) fn compact(&mut self, before: Revision, garbage: &mut Vec<Arc<Event>>) {
        let before = before.min(self.revision);
        self.oldest = self.oldest.max(before);
        self.trim(before, garbage);
    }

    /// Drops the events at or below a revision; unlike a compaction, buckets without such events stay resumable.
    pub(crate) fn trim(&mut self, floor: Revision, garbage: &mut Vec<Arc<Event>>) {
        for bucket in self.buckets.iter_mut() {
            let before = bucket.window.bytes();
            bucket.window.trim(floor, garbage);
            self.window_bytes -= before - bucket.window.bytes();
        }
    }

    pub(crate) fn image(&self) -> Image {
        Image {
            revision: self.revision,
            entries: self.entries,
            buckets: self.buckets.iter().map(|bucket| bucket.tree.clone()).collect(),
        }
    }

    pub(crate) fn sizes(&self) -> Sizes {
        Sizes {
            entries: self.entries,
            value_bytes: self.value_bytes,
            window_events: self.buckets.iter().map(|bucket| bucket.window.len()).sum(),
            window_bytes: self.window_bytes,
        }
    }

    /// Bytes of all values, for deciding when a snapshot pays.
    pub(crate) fn value_bytes(&self) -> u64 {
        self.value_bytes as u64
    }

    pub(crate) fn has_events(&self) -> bool {
        self.window_bytes > 0
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Entry>> {
        self.bucket(key.bucket())?.tree.get(key.rest())
    }

    /// The oldest revision from which this bucket can be watched or listed.
    fn oldest_of(&self, bucket: &str) -> Revision {
        self.bucket(bucket).map_or(self.base, |bucket| bucket.window.floor()).max(self.oldest)
    }

    /// Whether a client may start from this revision.
    pub(crate) fn check_retained(&self, bucket: &str, revision: Revision) -> Result<(), Compacted> {
        let oldest = self.oldest_of(bucket);
        if revision < oldest {
            return Err(Compacted { oldest });
        }
        match self.gaps.iter().find(|gap| gap.last < revision && revision < gap.resumed) {
            Some(gap) => Err(Compacted { oldest: gap.resumed }),
            None => Ok(()),
        }
    }

    /// The bucket's notification, for a new watcher.
    pub(crate) fn changed(&mut self, bucket: &str) -> Arc<Notify> {
        Arc::clone(&self.bucket_mut(bucket).changed)
    }

    /// The events of a prefix after a revision, and the revision up to which that is everything.
    pub(crate) fn events_after(
        &self,
        bucket: &str,
        prefix: &str,
        after: Revision,
    ) -> Result<(Vec<Arc<Event>>, Revision), Lost> {
        let mut matching = Vec::new();
        let Some(bucket) = self.bucket(bucket) else { return Ok((matching, self.revision)) };
        if after < bucket.window.floor() {
            return Err(Lost { oldest: bucket.window.floor() });
        }
        let mut seen = after;
        for (examined, event) in bucket.window.after(after).enumerate() {
            // A transaction's events share a revision, which is the cursor: they are never split over two batches.
            let full = examined >= EXAMINED_EVENTS_MAX || matching.len() >= BATCH_EVENTS_MAX;
            if full && event.revision > seen {
                return Ok((matching, seen));
            }
            seen = event.revision;
            if event.entry.key.rest().starts_with(prefix) {
                matching.push(Arc::clone(event));
            }
        }
        Ok((matching, self.revision.max(after)))
    }
}

/// What a list is computed from, taken under the lock in constant time (plus the newer events of an old list).
struct Base {
    tree: Tree,
    revision: Revision,
    /// For an old list: each key that has changed since, as it was then.
    then: BTreeMap<Box<str>, Option<Arc<Entry>>>,
}

/// The state, its lock, and what lives as long as it.
pub(crate) struct Shared {
    state: RwLock<State>,
    pub(crate) budget: Arc<DecodedBudget>,
    pub(crate) closed: AtomicBool,
    pub(crate) watchers: AtomicUsize,
}

impl Shared {
    pub(crate) fn new(state: State, budget: Arc<DecodedBudget>) -> Arc<Self> {
        let state = RwLock::new(state);
        Arc::new(Self { state, budget, closed: AtomicBool::new(false), watchers: AtomicUsize::new(0) })
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        // A poisoned lock means that the writer thread panicked, and the store has stopped; what is there can be read.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every watch; reads go on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for bucket in &self.read().buckets {
            bucket.changed.notify_waiters();
        }
    }

    pub(crate) fn list(
        &self,
        bucket: &str,
        prefix: &str,
        start_after: Option<&str>,
        limit: Option<usize>,
        at: Option<Revision>,
    ) -> Result<List, Compacted> {
        let base = self.list_base(bucket, prefix, start_after, at)?;
        let limit = limit.unwrap_or(usize::MAX);
        let before = |rest: &str| rest < prefix || start_after.is_some_and(|start| rest <= start);
        let from = base.tree.position(before);
        let to = base.tree.position(|rest| rest < prefix || rest.starts_with(prefix)).max(from);
        if base.then.is_empty() {
            let total = base.tree.distance(from, to);
            let entries: Vec<_> = base.tree.iter_from(from).take(total.min(limit)).cloned().collect();
            let remaining = total - entries.len();
            return Ok(List { entries, revision: base.revision, remaining, more: remaining > 0 });
        }
        Ok(list_merged(&base, from, to, limit))
    }

    fn list_base(
        &self,
        name: &str,
        prefix: &str,
        start_after: Option<&str>,
        at: Option<Revision>,
    ) -> Result<Base, Compacted> {
        let state = self.read();
        if let Some(at) = at {
            state.check_retained(name, at)?;
        }
        let revision = at.unwrap_or(state.revision).min(state.revision);
        let mut then = BTreeMap::new();
        let Some(bucket) = state.bucket(name) else {
            return Ok(Base { tree: Tree::default(), revision, then });
        };
        if at.is_some() {
            for event in bucket.window.after(revision) {
                let rest = event.entry.key.rest();
                if rest.starts_with(prefix) && start_after.is_none_or(|start| rest > start) && !then.contains_key(rest)
                {
                    // The first change after the revision replaced what was there at the revision.
                    then.insert(Box::from(rest), event.previous.clone());
                }
            }
        }
        Ok(Base { tree: bucket.tree.clone(), revision, then })
    }
}

/// Merges today's entries with those that have changed since the old list's revision.
fn list_merged(base: &Base, from: Position, to: Position, limit: usize) -> List {
    let today = base.tree.iter_from(from).take(base.tree.distance(from, to));
    let mut unchanged = today.filter(|entry| !base.then.contains_key(entry.key.rest())).peekable();
    let mut changed = base.then.values().flatten().peekable();
    let mut entries = Vec::new();
    let mut remaining = 0;
    loop {
        let take_changed = match (unchanged.peek(), changed.peek()) {
            (Some(left), Some(right)) => right.key.rest() < left.key.rest(),
            (Some(_), None) => false,
            (None, Some(_)) => true,
            (None, None) => break,
        };
        let next = if take_changed { changed.next() } else { unchanged.next() };
        match next {
            Some(entry) if entries.len() < limit => entries.push(Arc::clone(entry)),
            _ => remaining += 1,
        }
    }
    List { entries, revision: base.revision, remaining, more: remaining > 0 }
}
