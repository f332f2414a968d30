//! What a store is opened with, and why it may refuse.

use crate::embedded::disk::{Disk, RealDisk};
use crate::window::WindowLimits;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How to open a store. [`Options::new`] gives the defaults.
#[derive(Clone)]
pub struct Options {
    /// The store's own directory; created when it is not there.
    pub directory: PathBuf,
    /// The retained history.
    pub window: WindowLimits,
    /// A log segment is closed when it is this long.
    pub segment_bytes: u64,
    /// A snapshot is written after this much log, or as much as the state is large, whichever is more.
    pub snapshot_threshold_bytes: u64,
    /// Space held back so that deletes work on a full disk; 0 holds nothing back.
    pub reserve_bytes: u64,
    /// Largest single value.
    pub value_bytes_max: usize,
    /// Largest transaction.
    pub transaction_bytes_max: usize,
    /// Transactions that may wait for the writer; further ones wait before they are queued.
    pub queue_length_max: usize,
    /// Most bytes of log written by one group commit.
    pub batch_bytes_max: usize,
    /// Estimated bytes of decoded objects and other encodings kept with entries.
    pub decoded_bytes_max: usize,
    /// A relaxed transaction is durable after this time at the latest.
    pub relaxed_sync_after: Duration,
    /// The disk; tests put a failing one here.
    pub disk: Arc<dyn Disk>,
}

impl Options {
    /// The defaults for a directory.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            window: WindowLimits::default(),
            segment_bytes: 32 << 20,
            snapshot_threshold_bytes: 64 << 20,
            reserve_bytes: 16 << 20,
            value_bytes_max: 3 << 20,
            transaction_bytes_max: 16 << 20,
            queue_length_max: 4096,
            batch_bytes_max: 4 << 20,
            decoded_bytes_max: 64 << 20,
            relaxed_sync_after: Duration::from_secs(5),
            disk: Arc::new(RealDisk),
        }
    }
}

/// Why a store cannot be opened. Nothing on disk has been changed, except that a torn tail may have been cut.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error(
        "the store {} is in use by {holder}: stop that server, or give this one another data directory",
        directory.display()
    )]
    Locked {
        /// The store's directory.
        directory: PathBuf,
        /// The process, as far as it is known.
        holder: String,
    },
    /// A newer version of the program has written it.
    #[error(
        "the store {} has format {found}, and this version of klynge reads up to {supported}: \
         use the version that wrote it, or a newer one",
        directory.display()
    )]
    NewerFormat {
        /// The store's directory.
        directory: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that this version reads.
        supported: u32,
    },
    /// What is on disk is not what was written.
    #[error(
        "{} is damaged at byte {offset}: {what}. Nothing has been changed. Check the disk, then restore a backup into \
         an empty data directory",
        file.display()
    )]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where the damage begins.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The operating system refused.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn corrupt(file: impl Into<PathBuf>, offset: u64, what: impl Into<String>) -> Self {
        Self::Corrupt { file: file.into(), offset, what: what.into() }
    }

    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }
}
