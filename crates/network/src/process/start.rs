//! Starts a process on descriptors that are open.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Pid;
use tokio::process::Command;

use super::find;
use super::kind::{Held as _, Kind, Message as _};
use super::link;
use super::supervise::Options;

/// How long a new process may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens what a process works on. Where another cluster's process has it though no agent of it can be running (they share one claim on
/// the host's network), that process is ended.
pub(super) fn open<K: Kind, E: From<io::Error>>(
    open: impl Fn() -> Result<K::Held, E>,
    is_taken: impl Fn(&E) -> bool,
) -> Result<K::Held, E> {
    match open() {
        Err(error) if is_taken(&error) => {
            for pid in find::all::<K>(None) {
                tracing::warn!(pid = pid.as_raw_nonzero(), "a process of {} that no agent has is ended", K::CALLED);
                find::kill::<K>(pid)?;
            }
            open()
        }
        other => other,
    }
}

/// Starts a process and waits until it answers.
pub(super) async fn start<K: Kind>(options: &Options<K::Setup>, held: &K::Held) -> io::Result<(UnixStream, Pid)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(&options.program);
    command.arg0(std::ffi::OsStr::new(K::TITLE.to_str().map_err(io::Error::other)?));
    command.arg(K::WORD).arg(&options.directory).env_clear().current_dir("/");
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs))).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    // The command holds our copy of the other end.
    drop(command);
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("it ended at once"))?;
    let setup = options.setup.clone();
    let copy = held.try_clone()?;
    let greeted = tokio::task::spawn_blocking(move || greet::<K>(ours, &copy, &setup)).await;
    match greeted.map_err(io::Error::other).flatten() {
        Ok(stream) => {
            // Nobody else takes it off the kernel's hands when it ends.
            tokio::spawn(async move { child.wait().await });
            Ok((stream, pid))
        }
        Err(error) => {
            let _ = child.start_kill();
            let ended = child.wait().await.map_or_else(|_| String::new(), |status| format!(" ({status})"));
            let log = options.directory.join(K::LOG);
            Err(io::Error::new(error.kind(), format!("{error}{ended}; its log is {}", display(&log))))
        }
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

fn greet<K: Kind>(mut stream: UnixStream, held: &K::Held, setup: &K::Setup) -> io::Result<UnixStream> {
    use std::io::Write as _;
    stream.set_read_timeout(Some(START_TIMEOUT))?;
    stream.set_write_timeout(Some(START_TIMEOUT))?;
    link::send_greeting::<K>(&stream, &held.descriptors())?;
    let mut bytes = Vec::new();
    if !K::Message::of_setup(setup.clone()).append_to(&mut bytes) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "its setup is too long"));
    }
    stream.write_all(&bytes)?;
    let (version, _) = link::receive_greeting::<K>(&stream)?;
    let unfit = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    if version != K::VERSION {
        return Err(unfit("it speaks another version"));
    }
    match link::receive_blocking::<K>(&mut stream)?.setup() {
        Some(theirs) if theirs == *setup => Ok(stream),
        _ => Err(unfit("it is set up otherwise")),
    }
}
