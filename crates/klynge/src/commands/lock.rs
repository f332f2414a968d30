//! One command at a time changes the files of a directory; the others wait.
//!
//! The directory itself is locked: it is there, it stays when files in it are replaced, and nothing has to be removed afterwards.

use crate::cli::Failure;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a command waits for another.
const PATIENCE: Duration = Duration::from_secs(30);

/// A locked directory, until it is dropped or the process ends.
pub(crate) struct Lock(File);

impl Lock {
    /// Locks a directory.
    pub(crate) fn of(directory: &Path) -> Result<Self, Failure> {
        Self::take(directory, Self::open(directory)?)
    }

    /// Locks the directory of a file, unless it is the one that is held already. One that is not there is made by whoever
    /// makes the file; the nearest above it stands for it.
    pub(crate) fn around(file: &Path, held: Option<&Lock>) -> Result<Option<Self>, Failure> {
        let path = file.ancestors().skip(1).find(|path| path.is_dir()).unwrap_or(Path::new("."));
        let directory = Self::open(path)?;
        let place = |file: &File| file.metadata().map(|it| (it.dev(), it.ino())).ok();
        if held.is_some_and(|held| place(&held.0) == place(&directory)) {
            return Ok(None);
        }
        Self::take(path, directory).map(Some)
    }

    fn open(path: &Path) -> Result<File, Failure> {
        File::open(path).map_err(|error| Failure::Failed(format!("cannot lock {}: {error}", path.display())))
    }

    fn take(path: &Path, directory: File) -> Result<Self, Failure> {
        wait_for(&directory, path, Instant::now() + PATIENCE, || {
            format!(
                "another klynge command has been changing files in {} for {} s; wait for its end, or end it",
                path.display(),
                PATIENCE.as_secs()
            )
        })?;
        Ok(Lock(directory))
    }
}

/// Locks an open file or directory as soon as nobody else has it; past the deadline it fails with the words of `busy`.
pub(crate) fn wait_for(
    file: &File,
    path: &Path,
    deadline: Instant,
    busy: impl FnOnce() -> String,
) -> Result<(), Failure> {
    while let Err(error) = flock(file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::AGAIN && error != rustix::io::Errno::INTR {
            return Err(Failure::Failed(format!("cannot lock {}: {}", path.display(), io::Error::from(error))));
        }
        if Instant::now() > deadline {
            return Err(Failure::TimedOut(busy()));
        }
        std::thread::sleep(Duration::from_millis(20)); // the kernel tells of no deadline for a lock
    }
    Ok(())
}
