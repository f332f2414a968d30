//! Who has the directory open: the file LOCK, and patience with a holder that has been killed but is not gone yet.

use crate::embedded::options::OpenError;
use rustix::fs::{FlockOperation, flock};
use std::fs;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) const LOCK_NAME: &str = "LOCK";
/// How long a dying holder is waited for: its memory is given back and its last disk calls end before its lock goes.
const PATIENCE: Duration = Duration::from_secs(15);
const STEP: Duration = Duration::from_millis(2);
/// How often in a row a holder must be found alive: what the kernel tells of a dying process changes between two looks at it.
const LOOKS: u32 = 4;
/// PF_EXITING of a process's flags in /proc/ID/stat (proc(5)).
const EXITING: u64 = 4;
/// SIGKILL in the masks of /proc/ID/status.
const KILLED: u64 = 1 << 8;

/// The lock of a directory; gone with this value, or with the process.
#[derive(Debug)]
pub struct Lock(fs::File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone is not enough: a child that another thread has just forked holds a copy of the descriptor until it executes.
        let _ = flock(&self.0, FlockOperation::Unlock); // closing follows
    }
}

/// Locks the directory for this process until the returned value is dropped. The kernel drops the lock with the process.
/// A former holder that is dying is waited for until all that it had open, sockets included, is closed.
///
/// # Errors
/// [`OpenError::Locked`] where another process has it, [`OpenError::Io`] where the file cannot be made.
pub fn lock(directory: &Path) -> Result<Lock, OpenError> {
    let path = directory.join(LOCK_NAME);
    let mut file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(OpenError::io("open", &path))?;
    let deadline = Instant::now() + PATIENCE;
    let mut alive = 0;
    loop {
        let locked = match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => true,
            Err(rustix::io::Errno::WOULDBLOCK) => false,
            Err(error) => return Err(OpenError::io("lock", &path)(error.into())),
        };
        let holder = holder(&mut file);
        let dying = holder.is_some_and(is_dying);
        alive = if dying { 0 } else { alive + 1 };
        match (locked, dying && Instant::now() < deadline) {
            (_, true) => std::thread::sleep(STEP),
            (true, false) => break,
            // It may have ended just after it was found to hold the lock.
            (false, false) if alive < LOOKS => std::thread::sleep(STEP),
            (false, false) => {
                let holder =
                    holder.map_or_else(|| String::from("another process"), |process| format!("process {process}"));
                return Err(OpenError::Locked { directory: directory.into(), holder });
            }
        }
    }
    // The number makes messages better and patience possible; on a full disk the lock must work without it.
    let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(Lock(file))
}

/// The process that has a directory locked, and is not about to end; its number is 0 where it is not known.
#[must_use]
pub fn locked_by(directory: &Path) -> Option<u32> {
    let mut file = fs::File::open(directory.join(LOCK_NAME)).ok()?;
    if flock(&file, FlockOperation::NonBlockingLockShared) != Err(rustix::io::Errno::WOULDBLOCK) {
        return None; // and what was locked just now is given back with the file
    }
    let holder = holder(&mut file);
    if holder.is_some_and(is_dying) { None } else { holder.or(Some(0)) }
}

/// The process that wrote its number last.
fn holder(file: &mut fs::File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Whether a process has been killed or is ending, and may still have files open.
#[must_use]
pub fn is_dying(process: u32) -> bool {
    let read = |name: &str| fs::read_to_string(format!("/proc/{process}/{name}")).ok();
    let (Some(stat), Some(status)) = (read("stat"), read("status")) else { return false };
    // The name in brackets may hold anything, so fields are counted from the last bracket: state is the first.
    let Some((_, fields)) = stat.rsplit_once(')') else { return false };
    let mut fields = fields.split_ascii_whitespace();
    let ended = matches!(fields.next(), Some("Z" | "X"));
    let flags = fields.nth(5).and_then(|flags| flags.parse::<u64>().ok()).unwrap_or(0);
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    let killed = (mask("SigPnd:") | mask("ShdPnd:")) & KILLED != 0;
    // The first thread can be over before the others, which hold the files with it.
    let threads = fs::read_dir(format!("/proc/{process}/task")).map_or(0, |threads| threads.take(2).count());
    if ended { threads > 1 } else { killed || flags & EXITING != 0 }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_living_holder_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(locked_by(directory.path()), None);
        let held = lock(directory.path()).unwrap();
        assert_eq!(locked_by(directory.path()), Some(std::process::id()));
        let begun = Instant::now();
        assert!(matches!(lock(directory.path()), Err(OpenError::Locked { .. })));
        assert!(begun.elapsed() < PATIENCE / 2);
        assert!(!is_dying(std::process::id()));
        drop(held);
        assert_eq!(locked_by(directory.path()), None);
    }

    #[test]
    fn a_copy_in_a_child_does_not_keep_it() {
        let directory = tempfile::tempdir().unwrap();
        let held = lock(directory.path()).unwrap();
        let copy = held.0.try_clone().unwrap();
        drop(held);
        drop(lock(directory.path()).unwrap());
        drop(copy);
    }

    #[test]
    fn an_ended_process_is_not_dying() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(!is_dying(child.id()));
        child.kill().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while is_dying(child.id()) {
            assert!(Instant::now() < deadline, "a killed process ends");
            std::thread::sleep(STEP);
        }
        child.wait().unwrap();
        assert!(!is_dying(child.id()));
    }
}
