//! One command at a time changes a cluster; one at a time chooses addresses.

use crate::cli::Failure;
use crate::commands::lock::wait_for;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a command waits for another.
const PATIENCE: Duration = Duration::from_secs(120);

/// Not the name of a cluster's lock: that of a cluster `all` is `all.lock`.
const SHARED: &str = ".shared.lock";

/// A held lock; ends with the process at the latest.
pub(super) struct Lock {
    _file: File,
    path: PathBuf,
}

impl Lock {
    /// The lock of one cluster.
    pub(super) fn of_cluster(base: &Path, name: &str) -> Result<Self, Failure> {
        Self::take(base, base.join(format!("{name}.lock")))
    }

    /// Whether the lock's file is there, held or not: it goes only with its cluster.
    pub(super) fn is_there(base: &Path, name: &str) -> bool {
        base.join(format!("{name}.lock")).exists()
    }

    /// The lock of what all clusters share.
    pub(super) fn of_all(base: &Path) -> Result<Self, Failure> {
        Self::take(base, base.join(SHARED))
    }

    fn take(base: &Path, path: PathBuf) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::Failed(format!("cannot lock {}: {error}", path.display()));
        let deadline = Instant::now() + PATIENCE;
        loop {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(base).map_err(failed)?;
            let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let file = match opened {
                // The one before us has just removed the directory.
                Err(error) if error.kind() == io::ErrorKind::NotFound && Instant::now() < deadline => continue,
                other => other.map_err(failed)?,
            };
            wait_for(&file, &path, deadline, || {
                format!(
                    "another `klynge dev` command has held {} for {} s; wait for its end, or end it",
                    path.display(),
                    PATIENCE.as_secs()
                )
            })?;
            // Whoever held it may have removed the file: then this lock guards nothing.
            let ours = file.metadata().map_err(failed)?.ino();
            if fs::metadata(&path).is_ok_and(|found| found.ino() == ours) {
                return Ok(Lock { _file: file, path });
            }
        }
    }

    /// Removes the file, and the directory where it is then empty.
    pub(super) fn remove(self, base: &Path) {
        let shared = base.join(SHARED);
        // Whoever holds it removes it in its turn.
        if let Ok(file) = OpenOptions::new().write(true).open(&shared)
            && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            let _ = fs::remove_file(&shared); // a left-over is harmless
        }
        let _ = fs::remove_file(&self.path); // a left-over is harmless
        let _ = fs::remove_dir(base); // refused while other clusters are there
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_lock_excludes_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("base");
        let held = Lock::of_cluster(&base, "a").unwrap();
        let other = OpenOptions::new().write(true).open(base.join("a.lock")).unwrap();
        assert_eq!(flock(&other, FlockOperation::NonBlockingLockExclusive), Err(rustix::io::Errno::AGAIN));
        drop(Lock::of_all(&base).unwrap());
        let waiting = {
            let base = base.clone();
            std::thread::spawn(move || Lock::of_cluster(&base, "a").map(|lock| lock.remove(&base)).is_ok())
        };
        held.remove(&base);
        drop(other);
        assert!(waiting.join().unwrap());
        assert!(!base.exists());
    }
}
