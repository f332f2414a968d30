//! Restoring a backup into an empty directory, with revisions that go on above every one ever shown.

use crate::embedded::disk::{Disk, RealDisk};
use crate::embedded::format::{Format, unix_seconds, uuid_text};
use crate::embedded::lock::{self, LOCK_NAME};
use crate::embedded::log::{Log, LogOptions};
use crate::embedded::options::OpenError;
use crate::embedded::record::SnapshotHeader;
use crate::embedded::snapshot::{self, snapshot_name};
use crate::entry::DecodedBudget;
use crate::types::Revision;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What was restored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Restored {
    /// The revision that the store goes on from.
    pub revision: Revision,
    /// The revision at which the backup was taken.
    pub backup_revision: Revision,
    /// How many entries came back.
    pub entries: usize,
    /// The cluster that the backup belongs to.
    pub cluster_id: String,
}

/// Why a backup cannot be restored. The backup is untouched.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup cannot be read or is damaged, or the directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is something in the directory.
    #[error("{} is not empty: move it away first, a restore never overwrites a store", directory.display())]
    NotEmpty {
        /// The directory.
        directory: PathBuf,
    },
}

/// Makes a store in an empty directory out of a backup. Its revision is the backup's or `continue_from`, whichever is
/// higher: give at least the last revision that clients have seen, or one far above it, and none goes backwards.
pub fn restore(backup: &Path, directory: &Path, continue_from: Revision) -> Result<Restored, RestoreError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    disk.create_directory(directory).map_err(OpenError::io("create the directory", directory))?;
    let _lock = lock::lock(directory)?;
    let names = disk.list(directory).map_err(OpenError::io("list", directory))?;
    if names.iter().any(|name| name != LOCK_NAME) {
        return Err(RestoreError::NotEmpty { directory: directory.into() });
    }
    let mut entries = Vec::new();
    let read = snapshot::read(&*disk, backup, &DecodedBudget::new(0), |entry| entries.push(entry))?;
    let revision = read.revision.max(continue_from);
    let format = Format { cluster: read.cluster, created_unix_seconds: unix_seconds() };
    let options = LogOptions {
        disk: Arc::clone(&disk),
        directory: directory.into(),
        cluster: read.cluster,
        segment_bytes: 0,
        prepares: false,
    };
    let header = SnapshotHeader {
        cluster: read.cluster,
        revision,
        segment: 1,
        entries: entries.len() as u64,
        written_unix_seconds: unix_seconds(),
    };
    // FORMAT comes last: a restore that was interrupted is no store, and says so when it is opened.
    let write = || -> io::Result<()> {
        let (name, never) = (snapshot_name(revision), AtomicBool::new(false));
        snapshot::write(&*disk, directory, &name, &header, entries.iter(), &never)?;
        Log::create(&options, (0, 0), revision, revision)?;
        format.write(&*disk, directory)
    };
    write().map_err(OpenError::io("restore into", directory))?;
    Ok(Restored {
        revision,
        backup_revision: read.revision,
        entries: entries.len(),
        cluster_id: uuid_text(&read.cluster),
    })
}
