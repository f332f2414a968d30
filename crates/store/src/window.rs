//! The retained events of one bucket: what watches resume from, and what old lists are computed from.

use crate::types::{Event, Revision};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How much history is retained. What falls out is answered with `Compacted` or `Lost` (HTTP 410).
#[derive(Copy, Clone, Debug)]
pub struct WindowLimits {
    /// Events per bucket.
    pub events_max: usize,
    /// Bytes per bucket: the values of each event and of what it replaced.
    pub bytes_max: usize,
    /// Bytes over all buckets; above it the largest bucket gives way.
    pub total_bytes_max: usize,
    /// Older events go.
    pub age_max: Duration,
}

impl Default for WindowLimits {
    fn default() -> Self {
        Self { events_max: 100_000, bytes_max: 64 << 20, total_bytes_max: 256 << 20, age_max: Duration::from_secs(600) }
    }
}

/// What an event costs beside its values: the event, two entries, their keys.
const EVENT_OVERHEAD_BYTES: usize = 320;

fn cost_bytes(event: &Event) -> usize {
    let previous = event.previous.as_ref().map_or(0, |previous| previous.value.len());
    EVENT_OVERHEAD_BYTES + event.entry.value.len() + previous
}

/// Every event of the bucket above `floor`, in order.
#[derive(Default)]
pub(crate) struct Window {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    floor: Revision,
}

impl Window {
    pub(crate) fn new(floor: Revision) -> Self {
        Self { floor, ..Self::default() }
    }

    pub(crate) fn floor(&self) -> Revision {
        self.floor
    }

    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends an event and evicts what is above the limits. Evicted events go to `garbage`, to be dropped outside the
    /// lock.
    pub(crate) fn push(&mut self, event: Arc<Event>, limits: &WindowLimits, garbage: &mut Vec<Arc<Event>>) {
        self.bytes += cost_bytes(&event);
        self.events.push_back(event);
        // The newest event stays whatever its size, or no watcher could ever see it.
        while self.events.len() > 1 && (self.events.len() > limits.events_max || self.bytes > limits.bytes_max) {
            self.evict_first(garbage);
        }
    }

    /// Removes the oldest event. The floor rises to its revision: later events of the same transaction are then of no
    /// use either, and go when they are the oldest.
    pub(crate) fn evict_first(&mut self, garbage: &mut Vec<Arc<Event>>) -> bool {
        let Some(event) = self.events.pop_front() else { return false };
        self.bytes -= cost_bytes(&event);
        self.floor = self.floor.max(event.revision);
        garbage.push(event);
        true
    }

    /// Forgets every event at or below a revision.
    pub(crate) fn trim(&mut self, floor: Revision, garbage: &mut Vec<Arc<Event>>) {
        while self.events.front().is_some_and(|event| event.revision <= floor) {
            self.evict_first(garbage);
        }
    }

    /// The events above a revision, oldest first. Complete only when `after >= floor`.
    pub(crate) fn after(&self, after: Revision) -> impl DoubleEndedIterator<Item = &Arc<Event>> + ExactSizeIterator {
        self.events.range(self.events.partition_point(|event| event.revision <= after)..)
    }
}
