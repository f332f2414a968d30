//! What the store's tests share: short forms, and a disk that can be made to fail.

use bytes::Bytes;
use klynge_store::embedded::disk::{Disk, File, RealDisk};
use klynge_store::embedded::{Embedded, Options, open};
use klynge_store::{
    Change, CommitError, Committed, Entry, Event, Expect, Key, Operation, Revision, Store, Template, Transaction,
    Watcher,
};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// `<text>#` with the revision after the mark, so that values show which commit wrote them.
pub(crate) fn template(text: &str) -> Template {
    Template { bytes: Bytes::from(format!("{text}#")), revision_at: Some(text.len() as u32 + 1) }
}

pub(crate) fn put(key: &str, text: &str, expect: Expect) -> Operation {
    Operation { key: Key::parse(key).unwrap(), expect, change: Change::Put(template(text)) }
}

pub(crate) fn delete(key: &str, expect: Expect) -> Operation {
    Operation { key: Key::parse(key).unwrap(), expect, change: Change::Delete(Some(template("gone"))) }
}

pub(crate) fn one(operation: Operation) -> Transaction {
    Transaction { operations: vec![operation], relaxed: false }
}

pub(crate) fn relaxed(operation: Operation) -> Transaction {
    Transaction { operations: vec![operation], relaxed: true }
}

pub(crate) async fn write(store: &Embedded, key: &str, text: &str) -> Result<Committed, CommitError> {
    store.commit(one(put(key, text, Expect::Any))).await
}

pub(crate) fn small(directory: &Path) -> Options {
    Options { reserve_bytes: 64 << 10, ..Options::new(directory.join("store")) }
}

pub(crate) fn reopen(directory: &Path) -> Arc<Embedded> {
    open(small(directory)).unwrap()
}

pub(crate) fn text(entry: &Entry) -> String {
    String::from_utf8(entry.value.to_vec()).unwrap()
}

/// Everything in the store, by key.
pub(crate) fn contents(store: &Embedded, buckets: &[&str]) -> BTreeMap<String, String> {
    let list = |bucket: &&str| store.list(bucket, "", None, None, None).unwrap().entries;
    buckets.iter().flat_map(list).map(|entry| (entry.key.as_str().to_owned(), text(&entry))).collect()
}

/// All events that are there for a watcher now.
pub(crate) fn drain(watcher: &mut Watcher) -> Vec<Arc<Event>> {
    let mut events = Vec::new();
    loop {
        let before = watcher.revision();
        let batch = watcher.try_next().unwrap();
        if batch.events.is_empty() && batch.revision == before {
            return events;
        }
        events.extend(batch.events);
    }
}

pub(crate) fn revisions(events: &[Arc<Event>]) -> Vec<Revision> {
    events.iter().map(|event| event.revision).collect()
}

/// A copy of the store's directory as it is on disk now: what a crash of the process leaves.
pub(crate) fn crash_copy(from: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir(copy.path().join("store")).unwrap();
    for entry in std::fs::read_dir(from.join("store")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "reserve" {
            std::fs::copy(entry.path(), copy.path().join("store").join(entry.file_name())).unwrap();
        }
    }
    copy
}

/// The log segments of a store, oldest first.
pub(crate) fn segments(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory.join("store")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with("log-"));
    paths.sort();
    paths
}

/// Where a text stands in a file.
pub(crate) fn find(bytes: &[u8], text: &str) -> usize {
    bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap()
}

/// What the failing disk does wrong. All files of one disk share it.
#[derive(Default)]
pub(crate) struct Faults {
    /// Bytes that may still be written to the log; negative is without limit, beyond it writes are short, then ENOSPC.
    pub(crate) space_bytes: AtomicI64,
    /// Writes give at most this many bytes; 0 is without limit.
    pub(crate) short_bytes: AtomicU64,
    /// Error code of the next syncs of log segments.
    pub(crate) sync_error: AtomicI64,
    /// Error code of the next writes to log segments.
    pub(crate) write_error: AtomicI64,
    /// Error code of the next truncations.
    pub(crate) truncate_error: AtomicI64,
    pub(crate) syncs: AtomicU64,
    pub(crate) reserve_held: AtomicBool,
}

impl Faults {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { space_bytes: AtomicI64::new(-1), ..Self::default() })
    }
}

pub(crate) struct FaultyDisk(pub(crate) Arc<Faults>);

struct FaultyFile {
    inner: Box<dyn File>,
    log: bool,
    reserve: bool,
    faults: Arc<Faults>,
}

impl FaultyDisk {
    fn wrap(&self, path: &Path, inner: Box<dyn File>) -> Box<dyn File> {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let (log, reserve) = (name.starts_with("log-"), name == "reserve");
        Box::new(FaultyFile { inner, log, reserve, faults: Arc::clone(&self.0) })
    }
}

fn fail(code: &AtomicI64) -> io::Result<()> {
    match code.load(Ordering::SeqCst) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code as i32)),
    }
}

impl Disk for FaultyDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_directory(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(path)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(self.wrap(path, RealDisk.create(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(self.wrap(path, RealDisk.open(path)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        // Giving up the reserve gives its space to the log, once.
        let held = path.ends_with("reserve") && self.0.reserve_held.swap(false, Ordering::SeqCst);
        if held && self.0.space_bytes.load(Ordering::SeqCst) >= 0 {
            self.0.space_bytes.fetch_add(64 << 10, Ordering::SeqCst);
        }
        RealDisk.remove(path)
    }
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_directory(path)
    }
}

impl File for FaultyFile {
    fn length(&self) -> io::Result<u64> {
        self.inner.length()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        if !self.log {
            return self.inner.write_at(offset, bytes);
        }
        let mut length = bytes.len();
        match self.faults.short_bytes.load(Ordering::SeqCst) {
            0 => {}
            short => length = length.min(short as usize),
        }
        let space = self.faults.space_bytes.load(Ordering::SeqCst);
        if space >= 0 {
            length = length.min(space as usize);
            if length == 0 {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            self.faults.space_bytes.fetch_sub(length as i64, Ordering::SeqCst);
        }
        // A failing write may leave half of its bytes behind.
        if fail(&self.faults.write_error).is_err() {
            self.inner.write_at(offset, &bytes[..bytes.len() / 2])?;
        }
        fail(&self.faults.write_error)?;
        self.inner.write_at(offset, &bytes[..length])
    }
    fn sync(&self) -> io::Result<()> {
        if self.log {
            self.faults.syncs.fetch_add(1, Ordering::SeqCst);
            fail(&self.faults.sync_error)?;
        }
        self.inner.sync()
    }
    fn truncate(&self, length: u64) -> io::Result<()> {
        fail(&self.faults.truncate_error)?;
        self.inner.truncate(length)
    }
    fn reserve(&self, length: u64) -> io::Result<()> {
        if self.reserve && self.faults.space_bytes.load(Ordering::SeqCst) >= 0 {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.inner.reserve(length)?;
        if self.reserve {
            self.faults.reserve_held.store(true, Ordering::SeqCst);
        }
        Ok(())
    }
}
