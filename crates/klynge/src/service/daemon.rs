//! Without systemd: the server as a process of its own session, with its log and its process id in the data directory.

use crate::cli::Failure;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What is read of a log for a message.
const TAIL_BYTES: u64 = 16 << 10;

/// Where a daemon's log is.
pub(crate) fn log_path(data_dir: &Path) -> PathBuf {
    data_dir.join("server.log")
}

fn id_path(data_dir: &Path) -> PathBuf {
    data_dir.join("server.pid")
}

/// Starts `klynge ARGUMENTS` with $NOTIFY_SOCKET set.
pub(crate) fn start(data_dir: &Path, arguments: &[String], notify: &Path) -> Result<Child, Failure> {
    let failed = |what: &str, error: io::Error| Failure::Failed(format!("cannot {what}: {error}"));
    let binary = std::env::current_exe().map_err(|error| failed("find this binary", error))?;
    let log = OpenOptions::new().create(true).append(true).open(log_path(data_dir));
    let log = log.map_err(|error| failed("open the log", error))?;
    let errors = log.try_clone().map_err(|error| failed("open the log", error))?;
    let mut command = Command::new(binary);
    command.args(arguments).current_dir("/").env("NOTIFY_SOCKET", notify).env_remove("KUBECONFIG");
    command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
    let child = command.spawn().map_err(|error| failed("start the server", error))?;
    fs::write(id_path(data_dir), child.id().to_string()).map_err(|error| failed("write the process id", error))?;
    Ok(child)
}

/// The process id of a daemon that is alive and serves this data directory, however its binary is called.
pub(crate) fn running(data_dir: &Path) -> Option<rustix::process::Pid> {
    let id: i32 = fs::read_to_string(id_path(data_dir)).ok()?.trim().parse().ok()?;
    let command = fs::read(format!("/proc/{id}/cmdline")).ok()?;
    let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
    // Whoever stops it may name the directory by another path.
    let directory = fs::canonicalize(data_dir).ok()?;
    let same = |word: &[u8]| fs::canonicalize(OsStr::from_bytes(word)).is_ok_and(|path| path == directory);
    // One that was killed is as good as gone: whoever comes next waits for its locks.
    if u32::try_from(id).is_ok_and(store::embedded::is_dying) {
        return None;
    }
    let ours = words.get(1).is_some_and(|word| matches!(*word, b"server" | b"agent"))
        && words.windows(2).any(|pair| pair[0] == b"--data-dir" && same(pair[1]));
    if ours { rustix::process::Pid::from_raw(id) } else { None }
}

/// Asks a running daemon to stop and waits for its end; true where there was one.
pub(crate) fn stop(data_dir: &Path, timeout: Duration) -> Result<bool, Failure> {
    let Some(process) = running(data_dir) else { return Ok(false) };
    rustix::process::kill_process(process, rustix::process::Signal::TERM)
        .map_err(|error| Failure::Failed(format!("cannot stop the server: {error}")))?;
    let deadline = Instant::now() + timeout;
    while running(data_dir).is_some() {
        if Instant::now() > deadline {
            return Err(Failure::TimedOut(format!("the server (process {process:?}) does not stop; see its log")));
        }
        std::thread::sleep(Duration::from_millis(20)); // the process is not our child: there is nothing to wait on
    }
    let _ = fs::remove_file(id_path(data_dir)); // stale ids are recognised, a missing file is as good
    Ok(true)
}

/// How long the log is now: what comes after is of the next start.
pub(crate) fn log_end(data_dir: &Path) -> u64 {
    fs::metadata(log_path(data_dir)).map_or(0, |found| found.len())
}

/// The last lines of the log after `from`, for an error message.
pub(crate) fn last_words(data_dir: &Path, from: u64) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = fs::File::open(log_path(data_dir)) {
        let length = file.metadata().map_or(0, |found| found.len());
        let begin = from.max(length.saturating_sub(TAIL_BYTES));
        let _ = file.seek(SeekFrom::Start(begin)); // what can be read is shown
        let _ = file.take(TAIL_BYTES).read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    if lines.is_empty() {
        return format!("(none; its log is {})", log_path(data_dir).display());
    }
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// The words that a running daemon was started with.
pub(crate) fn words(data_dir: &Path) -> Option<Vec<String>> {
    let process = running(data_dir)?;
    let command = fs::read(format!("/proc/{}/cmdline", process.as_raw_nonzero())).ok()?;
    let words = command.split(|byte| *byte == 0).skip(1).map(|word| String::from_utf8_lossy(word).into_owned());
    Some(words.filter(|word| !word.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn last_words_are_of_this_start_alone() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(log_end(directory.path()), 0);
        fs::write(log_path(directory.path()), "an old error\n").unwrap();
        let end = log_end(directory.path());
        assert!(last_words(directory.path(), end).starts_with("(none"));
        fs::write(log_path(directory.path()), "an old error\na new one\n").unwrap();
        assert_eq!(last_words(directory.path(), end), "a new one");
    }
}
