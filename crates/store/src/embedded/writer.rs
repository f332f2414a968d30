//! The writer: the one thread that gives out revisions, appends to the log, makes it durable and publishes.

use crate::contract::StoreStopped;
use crate::embedded::batch::{Admit, Batch, Outcome};
use crate::embedded::engine::Counters;
use crate::embedded::format::unix_seconds;
use crate::embedded::lock::Lock;
use crate::embedded::log::{Log, LogError, segment_name, segment_number};
use crate::embedded::options::Options;
use crate::embedded::queue::{Queue, Request};
use crate::embedded::record::{self, HEADER_BYTES, SnapshotHeader};
use crate::embedded::snapshot::{self, snapshot_name, snapshot_revision};
use crate::state::{Image, Shared};
use crate::types::{CommitError, Revision};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Most transactions in one group commit.
const BATCH_TRANSACTIONS_MAX: usize = 1024;
/// Transactions published under one hold of the state's lock.
const PUBLISH_TRANSACTIONS_MAX: usize = 64;
/// How many revisions may be shown before they are durable; that many may be skipped after a crash.
const CEILING_STEP: u64 = 10_000;
/// How often the reserve is tried to be taken back on a full disk.
const RESERVE_RETRY: Duration = Duration::from_secs(1);
/// How long a failed snapshot waits for its next try.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(30);
const RESERVE_NAME: &str = "reserve";

/// Space held back for deletes.
struct Reserve {
    held: bool,
    spent_bytes: u64,
    next_try: Instant,
}

/// A snapshot being written by its own thread.
struct SnapshotJob {
    thread: JoinHandle<bool>,
    cancelled: Arc<AtomicBool>,
    log_bytes_before: u64,
}

pub(crate) struct Writer {
    options: Options,
    cluster: [u8; 16],
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    counters: Arc<Counters>,
    log: Log,
    /// The last revision in the log.
    revision: Revision,
    /// Relaxed transactions up to here may be shown before they are durable.
    ceiling: Revision,
    frame: Vec<u8>,
    unsynced_since: Option<Instant>,
    reserve: Reserve,
    snapshot: Option<SnapshotJob>,
    snapshot_not_before: Instant,
    /// Size of the state when a snapshot failed last: one of half that size need not wait for its next try.
    snapshot_failed_bytes: u64,
    log_bytes: u64,
    /// When which revision was reached, for the window's age limit.
    ages: VecDeque<(Instant, Revision)>,
    /// Held for as long as the writer lives.
    _lock: Lock,
}

/// What a writer begins with.
pub(crate) struct Beginning {
    pub(crate) options: Options,
    pub(crate) cluster: [u8; 16],
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) log: Log,
    pub(crate) log_bytes: u64,
    pub(crate) lock: Lock,
}

/// A group commit that has been checked and encoded.
struct Built {
    outcomes: Vec<Outcome>,
    revision: Revision,
    ceiling: Option<Revision>,
}

/// The writer panicked, which is a bug: nobody may wait for it.
struct StopOnDrop(Arc<Queue>, Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop(StoreStopped { reason: String::from("the writer ended unexpectedly"), closed: false });
        self.1.close();
    }
}

impl Writer {
    pub(crate) fn new(beginning: Beginning) -> Self {
        let Beginning { options, cluster, shared, queue, counters, log, log_bytes, lock } = beginning;
        let revision = shared.read().revision();
        let now = Instant::now();
        let mut writer = Self {
            options,
            cluster,
            shared,
            queue,
            counters,
            log,
            revision,
            // The first relaxed transaction writes a new ceiling, which also marks the log as in use again.
            ceiling: revision,
            frame: Vec::new(),
            unsynced_since: None,
            reserve: Reserve { held: false, spent_bytes: 0, next_try: now },
            snapshot: None,
            snapshot_not_before: now,
            snapshot_failed_bytes: 0,
            log_bytes,
            ages: VecDeque::new(),
            _lock: lock,
        };
        writer.take_reserve(now);
        writer
    }

    pub(crate) fn run(mut self) {
        let _stop = StopOnDrop(Arc::clone(&self.queue), Arc::clone(&self.shared));
        loop {
            let taken = self.queue.take(self.timeout());
            if let Err(reason) = self.commit_all(taken.requests).and_then(|()| self.maintain()) {
                tracing::error!(%reason, "the store stops: a write could not be made durable");
                self.queue.stop(StoreStopped { reason, closed: false });
                self.end_snapshot();
                return;
            }
            if taken.closing {
                self.close();
                return;
            }
        }
    }

    /// Until when there may be nothing to do.
    fn timeout(&self) -> Option<Duration> {
        let sync = self.unsynced_since.map(|since| self.options.relaxed_sync_after.saturating_sub(since.elapsed()));
        let upkeep = (!self.ages.is_empty() || self.snapshot.is_some()).then(|| self.age_step());
        sync.into_iter().chain(upkeep).min()
    }

    fn age_step(&self) -> Duration {
        (self.options.window.age_max / 60).max(Duration::from_millis(10))
    }

    fn commit_all(&mut self, requests: Vec<Request>) -> Result<(), String> {
        // Requests that wait at the same time have no order between them. The relaxed ones go first, so that they can be
        // acknowledged before the sync that the others wait for.
        let (mut ordered, durable): (Vec<_>, Vec<_>) =
            requests.into_iter().partition(|request| request.transaction.relaxed);
        ordered.extend(durable);
        let mut group = Vec::new();
        let mut group_bytes = 0;
        for request in ordered {
            let full = group_bytes + request.size_bytes > self.options.batch_bytes_max;
            if !group.is_empty() && (full || group.len() >= BATCH_TRANSACTIONS_MAX) {
                self.commit(std::mem::take(&mut group))?;
                group_bytes = 0;
            }
            group_bytes += request.size_bytes;
            group.push(request);
        }
        if group.is_empty() { Ok(()) } else { self.commit(group) }
    }

    fn commit(&mut self, requests: Vec<Request>) -> Result<(), String> {
        let result = self.try_commit(requests);
        if let Err((reason, unanswered)) = result {
            // The reason is known before anybody is told that there is no answer.
            self.queue.stop(StoreStopped { reason: reason.clone(), closed: false });
            drop(unanswered);
            return Err(reason);
        }
        Ok(())
    }

    fn try_commit(&mut self, requests: Vec<Request>) -> Result<(), (String, Vec<Request>)> {
        let built = match self.build_and_append(&requests) {
            Ok(built) => built,
            Err(reason) => return Err((reason, requests)),
        };
        self.revision = built.revision;
        let mut waiting: Vec<_> = requests.into_iter().zip(built.outcomes).collect();
        let changes = |(_, outcome): &(Request, Outcome)| !outcome.changes.is_empty();
        let any_changes = waiting.iter().any(changes);
        let must_sync =
            built.ceiling.is_some() || waiting.iter().any(|item| changes(item) && !item.0.transaction.relaxed);
        if !must_sync {
            if any_changes {
                self.unsynced_since.get_or_insert_with(Instant::now);
            }
            self.publish(waiting);
            return Ok(());
        }
        if built.ceiling.is_none() {
            let relaxed = waiting.iter().take_while(|(request, _)| request.transaction.relaxed).count();
            let durable = waiting.split_off(relaxed);
            self.publish(waiting);
            waiting = durable;
        }
        if let Err(reason) = self.sync() {
            return Err((reason, waiting.into_iter().map(|(request, _)| request).collect()));
        }
        self.ceiling = built.ceiling.unwrap_or(self.ceiling);
        self.publish(waiting);
        Ok(())
    }

    /// Brings a group into the log; on a full disk, what of it can be brought there out of the reserve.
    fn build_and_append(&mut self, requests: &[Request]) -> Result<Built, String> {
        let admit = self.admit();
        let built = self.build(requests, admit);
        match self.append() {
            Ok(()) => return Ok(built),
            Err(LogError::Broken(reason)) => return Err(reason),
            Err(LogError::NoSpace) => {}
        }
        // A snapshot under way would take the space that is now given to deletes.
        self.end_snapshot();
        self.release_reserve();
        let admit = self.admit();
        let built = self.build(requests, admit);
        match self.append() {
            Ok(()) => Ok(built),
            Err(LogError::Broken(reason)) => Err(reason),
            Err(LogError::NoSpace) => {
                let refuse = |outcome: Outcome| {
                    if outcome.changes.is_empty() {
                        return outcome;
                    }
                    let directory = self.options.directory.display().to_string();
                    Outcome { answer: Err(CommitError::NoSpace { directory }), changes: Vec::new() }
                };
                let outcomes = built.outcomes.into_iter().map(refuse).collect();
                Ok(Built { outcomes, revision: self.revision, ceiling: None })
            }
        }
    }

    fn build(&mut self, requests: &[Request], admit: Admit) -> Built {
        record::begin(&mut self.frame);
        let top = Revision(self.revision.0 + requests.len() as u64);
        let relaxed = requests.first().is_some_and(|request| request.transaction.relaxed);
        let ceiling = (relaxed && top > self.ceiling).then_some(Revision(top.0 + CEILING_STEP));
        if let Some(ceiling) = ceiling {
            record::put_ceiling(&mut self.frame, ceiling);
        }
        let mut batch = Batch::new(&self.shared, &self.options, admit, self.revision);
        let outcomes: Vec<_> =
            requests.iter().map(|request| batch.add(&request.transaction, &mut self.frame)).collect();
        let revision = batch.revision;
        if revision == self.revision {
            // Nothing changes, so nothing is written, the ceiling neither.
            record::begin(&mut self.frame);
            return Built { outcomes, revision, ceiling: None };
        }
        Built { outcomes, revision, ceiling }
    }

    fn append(&mut self) -> Result<(), LogError> {
        if self.frame.len() <= HEADER_BYTES {
            return Ok(());
        }
        self.log.append(&mut self.frame)?;
        let length = self.frame.len() as u64;
        self.log_bytes += length;
        if !self.reserve.held {
            self.reserve.spent_bytes += length;
        }
        // One large transaction must not keep its memory for ever.
        if self.frame.capacity() > 2 * self.options.batch_bytes_max {
            self.frame = Vec::new();
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), String> {
        if !self.log.is_synced() {
            self.counters.syncs.fetch_add(1, Ordering::Relaxed);
            self.log.sync().map_err(|error| match error {
                LogError::Broken(reason) => reason,
                LogError::NoSpace => String::from("making the log durable failed for lack of space"),
            })?;
        }
        self.unsynced_since = None;
        Ok(())
    }

    fn publish(&self, waiting: Vec<(Request, Outcome)>) {
        let mut garbage = Vec::new();
        let mut wake = Vec::new();
        for group in waiting.chunks(PUBLISH_TRANSACTIONS_MAX) {
            let mut state = self.shared.write();
            for (_, outcome) in group {
                if let (Ok(committed), false) = (&outcome.answer, outcome.changes.is_empty()) {
                    state.publish(committed.revision, &outcome.changes, &mut garbage, &mut wake);
                    self.counters.commits.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        for (request, outcome) in waiting {
            // A caller that is gone needs no answer.
            let _ = request.reply.send(outcome.answer);
        }
        for changed in wake {
            changed.notify_waiters();
        }
        drop(garbage);
    }

    /// What can be done beside the writes: late syncs, new segments, snapshots, the window's age.
    fn maintain(&mut self) -> Result<(), String> {
        let now = Instant::now();
        if self.unsynced_since.is_some_and(|since| now - since >= self.options.relaxed_sync_after) {
            self.sync()?;
        }
        self.age_windows(now);
        self.finish_snapshot(now);
        let state_bytes = self.shared.read().value_bytes();
        let threshold = self.options.snapshot_threshold_bytes.max(state_bytes);
        let due = if self.reserve.held {
            self.log_bytes > threshold
        } else {
            // On a full disk the log's own space is worth an early snapshot, if that leaves the deletes their part.
            let left_bytes = self.options.reserve_bytes.saturating_sub(self.reserve.spent_bytes);
            self.log_bytes > 2 * state_bytes + (1 << 20) && state_bytes < left_bytes / 4
        };
        let may = now >= self.snapshot_not_before || state_bytes * 2 < self.snapshot_failed_bytes;
        if due && may && self.snapshot.is_none() {
            self.begin_snapshot(now, state_bytes)
        } else if self.log.is_full() {
            self.sync()?;
            self.roll().map(drop)
        } else {
            Ok(())
        }
    }

    /// Begins a segment; `false` without space for it.
    fn roll(&mut self) -> Result<bool, String> {
        match self.log.roll(self.revision, self.ceiling) {
            Ok(()) => Ok(true),
            Err(LogError::NoSpace) => {
                self.release_reserve();
                Ok(false)
            }
            Err(LogError::Broken(reason)) => Err(reason),
        }
    }

    fn age_windows(&mut self, now: Instant) {
        let newest = self.ages.back();
        let moved = newest.is_none_or(|(at, revision)| now - *at >= self.age_step() && *revision < self.revision);
        if moved && self.shared.read().has_events() {
            self.ages.push_back((now, self.revision));
        }
        let mut floor = None;
        while self.ages.front().is_some_and(|(at, _)| now - *at >= self.options.window.age_max) {
            floor = self.ages.pop_front().map(|(_, revision)| revision);
        }
        if let Some(floor) = floor {
            let mut garbage = Vec::new();
            self.shared.write().trim(floor, &mut garbage);
            drop(garbage);
        }
    }

    fn admit(&mut self) -> Admit {
        let now = Instant::now();
        if !self.reserve.held && now >= self.reserve.next_try {
            self.take_reserve(now);
        }
        if self.reserve.held {
            Admit::Everything
        } else if self.reserve.spent_bytes * 2 <= self.options.reserve_bytes {
            Admit::Shrinking
        } else {
            Admit::Deletes
        }
    }

    fn take_reserve(&mut self, now: Instant) {
        let path = self.options.directory.join(RESERVE_NAME);
        let bytes = self.options.reserve_bytes;
        let attempt = || if bytes == 0 { Ok(()) } else { self.options.disk.create(&path)?.reserve(bytes) };
        match attempt() {
            Ok(()) => {
                self.reserve = Reserve { held: true, spent_bytes: 0, next_try: now };
            }
            Err(error) if crate::embedded::disk::is_no_space(&error) => {
                let _ = self.options.disk.remove(&path);
                self.reserve.next_try = now + RESERVE_RETRY;
            }
            Err(error) => {
                // A file system that cannot reserve still stores; only the promise for a full disk is gone.
                tracing::debug!(%error, "no space can be held back");
                self.reserve = Reserve { held: true, spent_bytes: 0, next_try: now };
            }
        }
        self.counters.space_low.store(!self.reserve.held, Ordering::Relaxed);
        self.log.set_prepares(self.reserve.held);
    }

    fn release_reserve(&mut self) {
        if !self.reserve.held {
            return;
        }
        tracing::warn!(directory = %self.options.directory.display(), "the disk is full: only deletes are accepted");
        let _ = self.options.disk.remove(&self.options.directory.join(RESERVE_NAME));
        self.reserve = Reserve { held: false, spent_bytes: 0, next_try: Instant::now() + RESERVE_RETRY };
        self.counters.space_low.store(true, Ordering::Relaxed);
        self.log.set_prepares(false);
    }

    fn begin_snapshot(&mut self, now: Instant, state_bytes: u64) -> Result<(), String> {
        self.sync()?;
        self.snapshot_not_before = now + SNAPSHOT_RETRY;
        self.snapshot_failed_bytes = state_bytes;
        if !self.roll()? {
            return Ok(());
        }
        let image = self.shared.read().image();
        let job = Job {
            options: self.options.clone(),
            cluster: self.cluster,
            segment: self.log.number(),
            counters: Arc::clone(&self.counters),
            cancelled: Arc::default(),
        };
        let cancelled = Arc::clone(&job.cancelled);
        let name = String::from("store-snapshot");
        match thread::Builder::new().name(name).spawn(move || job.run(&image)) {
            Ok(thread) => {
                self.snapshot = Some(SnapshotJob { thread, cancelled, log_bytes_before: self.log_bytes });
                self.log_bytes = 0;
                self.counters.log_bytes.store(0, Ordering::Relaxed);
            }
            Err(error) => tracing::warn!(%error, "no thread for a snapshot; it is tried again"),
        }
        Ok(())
    }

    fn finish_snapshot(&mut self, now: Instant) {
        self.counters.log_bytes.store(self.log_bytes, Ordering::Relaxed);
        if let Some(job) = self.snapshot.take_if(|job| job.thread.is_finished()) {
            self.join_snapshot(job, now);
        }
    }

    /// Gives up a snapshot under way: it is nothing until it is finished, and the log is still there.
    fn end_snapshot(&mut self) {
        if let Some(job) = self.snapshot.take() {
            job.cancelled.store(true, Ordering::Relaxed);
            self.join_snapshot(job, Instant::now());
        }
    }

    fn join_snapshot(&mut self, job: SnapshotJob, now: Instant) {
        if job.thread.join().unwrap_or(false) {
            self.snapshot_not_before = now;
            self.snapshot_failed_bytes = 0;
        } else {
            self.log_bytes += job.log_bytes_before;
            self.snapshot_not_before = now + SNAPSHOT_RETRY;
        }
    }

    fn close(&mut self) {
        self.end_snapshot();
        record::begin(&mut self.frame);
        record::put_closed(&mut self.frame);
        let closed = self.log.append(&mut self.frame).and_then(|()| self.log.sync());
        if let Err(error) = closed {
            // Everything acknowledged is durable or relaxed; the next start treats this as a crash.
            tracing::warn!(?error, "the log could not be closed in order");
        }
        self.queue.stop(StoreStopped { reason: String::from("it was closed"), closed: true });
    }
}

/// What a snapshot's thread needs.
struct Job {
    options: Options,
    cluster: [u8; 16],
    segment: u64,
    counters: Arc<Counters>,
    cancelled: Arc<AtomicBool>,
}

impl Job {
    fn run(&self, image: &Image) -> bool {
        let (disk, directory) = (&*self.options.disk, &*self.options.directory);
        let header = SnapshotHeader {
            cluster: self.cluster,
            revision: image.revision,
            segment: self.segment,
            entries: image.entries as u64,
            written_unix_seconds: unix_seconds(),
        };
        let name = snapshot_name(image.revision);
        let entries = snapshot::entries_of(image);
        if let Err(error) = snapshot::write(disk, directory, &name, &header, entries, &self.cancelled) {
            tracing::warn!(%error, "a snapshot could not be written; the log is kept and it is tried again");
            return false;
        }
        self.counters.snapshot_revision.store(image.revision.0, Ordering::Relaxed);
        let removed = disk.list(directory).and_then(|names| {
            let old_segment = |name: &str| segment_number(name).is_some_and(|number| number < self.segment);
            let old_snapshot = |name: &str| snapshot_revision(name).is_some_and(|revision| revision < image.revision);
            // Oldest first: what is left after a crash in between is still an unbroken run of segments.
            for name in
                names.iter().filter(|name| old_snapshot(name)).chain(names.iter().filter(|name| old_segment(name)))
            {
                disk.remove(&directory.join(name))?;
            }
            disk.sync_directory(directory)
        });
        if let Err(error) = removed {
            tracing::warn!(%error, before = segment_name(self.segment), "old parts of the log could not be removed");
        }
        true
    }
}
