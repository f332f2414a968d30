//! The embedded store as callers see it: opening, the [`Store`] interface, closing.

use crate::contract::{BackupError, List, Status, Store, StoreStopped};
use crate::embedded::batch;
use crate::embedded::format::{Format, unix_seconds, uuid_text};
use crate::embedded::lock;
use crate::embedded::log::{LogError, LogOptions};
use crate::embedded::options::{OpenError, Options};
use crate::embedded::queue::Queue;
use crate::embedded::record::{self, SnapshotHeader};
use crate::embedded::recover::{self, Recovered};
use crate::embedded::snapshot;
use crate::embedded::writer::{Beginning, Writer};
use crate::entry::{DecodedBudget, Entry};
use crate::state::Shared;
use crate::types::{CommitError, Committed, Compacted, Key, Revision, Transaction};
use crate::watch::{WatchError, Watcher};
use async_trait::async_trait;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// What the writer's threads count.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) log_bytes: AtomicU64,
    pub(crate) snapshot_revision: AtomicU64,
    pub(crate) space_low: AtomicBool,
}

/// The embedded engine. Dropping it closes it.
pub struct Embedded {
    options: Options,
    format: Format,
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    counters: Arc<Counters>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// Opens a store, creating it when the directory has none. Blocks while the log is read.
pub fn open(options: Options) -> Result<Arc<Embedded>, OpenError> {
    let directory = options.directory.clone();
    options.disk.create_directory(&directory).map_err(OpenError::io("create the directory", &directory))?;
    let lock = lock::lock(&directory)?;
    let budget = DecodedBudget::new(options.decoded_bytes_max);
    let held = Format::read(&*options.disk, &directory)?;
    let fresh = held.is_none();
    let format = match held {
        Some(format) => format,
        None => Format::new().map_err(OpenError::io("make an identity for", &directory))?,
    };
    let log_options = LogOptions {
        disk: Arc::clone(&options.disk),
        directory: directory.clone(),
        cluster: format.cluster,
        segment_bytes: options.segment_bytes,
        prepares: true,
    };
    let mut recovered = if fresh {
        recover::create(&log_options, &format, options.window)?
    } else {
        recover::recover(&log_options, options.window, &budget)?
    };
    skip_lost_revisions(&mut recovered)?;
    let counters = Arc::new(Counters::default());
    counters.snapshot_revision.store(recovered.snapshot_revision.0, Ordering::Relaxed);
    counters.log_bytes.store(recovered.log_bytes, Ordering::Relaxed);
    let shared = Shared::new(recovered.state, budget);
    let queue = Queue::new(options.queue_length_max);
    let writer = Writer::new(Beginning {
        options: options.clone(),
        cluster: format.cluster,
        shared: Arc::clone(&shared),
        queue: Arc::clone(&queue),
        counters: Arc::clone(&counters),
        log: recovered.log,
        log_bytes: recovered.log_bytes,
        lock,
    });
    let thread = thread::Builder::new()
        .name(String::from("store-writer"))
        .spawn(move || writer.run())
        .map_err(OpenError::io("start the writer of", &directory))?;
    Ok(Arc::new(Embedded { options, format, shared, queue, counters, writer: Mutex::new(Some(thread)) }))
}

/// After a crash of the machine, relaxed transactions that were shown may be lost. Their revisions are not given out
/// again, and a client that comes with one of them is told to list anew.
fn skip_lost_revisions(recovered: &mut Recovered) -> Result<(), OpenError> {
    let Some(gap) = recover::gap_after(recovered) else { return Ok(()) };
    let path = recovered.log.path();
    let mut frame = Vec::new();
    record::begin(&mut frame);
    record::put_resumed(&mut frame, gap);
    match recovered.log.append(&mut frame).and_then(|()| recovered.log.sync()) {
        Ok(()) => {}
        // Without the record the next start finds the same gap, or a longer one.
        Err(LogError::NoSpace) => {}
        Err(LogError::Broken(reason)) => return Err(OpenError::io("continue", path)(io::Error::other(reason))),
    }
    tracing::info!(from = %gap.last, to = %gap.resumed, "the last run did not end in order: revisions are skipped");
    recovered.state.resume(gap);
    Ok(())
}

impl Embedded {
    /// The random identity that the cluster was given when its store was created.
    #[must_use]
    pub fn cluster_id(&self) -> String {
        uuid_text(&self.format.cluster)
    }

    /// When the store was created, in seconds since 1970.
    #[must_use]
    pub fn created_unix_seconds(&self) -> u64 {
        self.format.created_unix_seconds
    }

    /// Finishes what is queued, ends every watch, and gives the directory free. Reads go on.
    pub async fn close(&self) {
        self.queue.close();
        self.queue.wait_stopped().await;
        self.shared.close();
        let writer = self.take_writer();
        // The writer has only its last drops to do; joining makes sure that the lock is gone.
        let _ = tokio::task::spawn_blocking(move || writer.map(JoinHandle::join)).await;
    }

    fn take_writer(&self) -> Option<JoinHandle<()>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(writer) = self.take_writer() {
            let _ = writer.join();
        }
        self.shared.close();
    }
}

#[async_trait]
impl Store for Embedded {
    async fn commit(&self, transaction: Transaction) -> Result<Committed, CommitError> {
        let size_bytes = batch::check(&transaction, &self.options)?;
        self.queue.submit(transaction, size_bytes).await
    }

    fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.shared.read().get(key).cloned()
    }

    fn list(
        &self,
        bucket: &str,
        prefix: &str,
        start_after: Option<&str>,
        limit: Option<usize>,
        at: Option<Revision>,
    ) -> Result<List, Compacted> {
        self.shared.list(bucket, prefix, start_after, limit, at)
    }

    fn watch(&self, bucket: &str, prefix: &str, after: Revision) -> Result<Watcher, WatchError> {
        Watcher::new(&self.shared, bucket, prefix, after)
    }

    fn revision(&self) -> Revision {
        self.shared.read().revision()
    }

    async fn compact(&self, before: Revision) {
        let mut garbage = Vec::new();
        self.shared.write().compact(before, &mut garbage);
        drop(garbage);
    }

    fn oldest(&self) -> Revision {
        self.shared.read().oldest()
    }

    async fn backup(&self, to: &Path) -> Result<Revision, BackupError> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |source| BackupError { path, source }
        };
        let image = self.shared.read().image();
        let header = SnapshotHeader {
            cluster: self.format.cluster,
            revision: image.revision,
            segment: 0,
            entries: image.entries as u64,
            written_unix_seconds: unix_seconds(),
        };
        let disk = Arc::clone(&self.options.disk);
        let target = to.to_path_buf();
        let write = move || {
            let name = target.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| io::Error::other("the path names no file"))?;
            let directory = match target.parent() {
                Some(parent) if parent != Path::new("") => parent,
                _ => Path::new("."),
            };
            if disk.open(&target).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file is there already"));
            }
            let entries = snapshot::entries_of(&image);
            snapshot::write(&*disk, directory, name, &header, entries, &AtomicBool::new(false))?;
            Ok(image.revision)
        };
        let result = tokio::task::spawn_blocking(write).await;
        result.map_err(io::Error::other).and_then(|written| written).map_err(failed(to))
    }

    fn status(&self) -> Status {
        let (revision, oldest, sizes) = {
            let state = self.shared.read();
            (state.revision(), state.oldest(), state.sizes())
        };
        let relaxed = Ordering::Relaxed;
        Status {
            revision,
            oldest,
            entries: sizes.entries,
            value_bytes: sizes.value_bytes,
            window_events: sizes.window_events,
            window_bytes: sizes.window_bytes,
            decoded_bytes: self.shared.budget.held_bytes(),
            watchers: self.shared.watchers.load(relaxed),
            log_bytes: self.counters.log_bytes.load(relaxed),
            snapshot_revision: Revision(self.counters.snapshot_revision.load(relaxed)),
            commits: self.counters.commits.load(relaxed),
            syncs: self.counters.syncs.load(relaxed),
            space_low: self.counters.space_low.load(relaxed),
            stopped: self.queue.reason().map(|stopped| stopped.reason),
        }
    }

    async fn stopped(&self) -> StoreStopped {
        self.queue.wait_stopped().await
    }
}
