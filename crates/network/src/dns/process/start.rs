//! Starts a process of cluster DNS on sockets that are open, and opens these.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Pid;
use tokio::process::Command;

use super::super::error::Error;
use super::super::server::{Sockets, open};
use super::find;
use super::link;
use super::protocol::{Message, Setup, VERSION};
use super::{WORD, supervise::Options};

/// How long a new process may take until it answers questions.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens the sockets. Where another cluster's process has an address though no agent of it can be running (they share one claim on
/// the host's network), that process is ended.
pub(super) fn open_sockets(setup: &Setup) -> Result<Vec<Sockets>, Error> {
    let all = || setup.listen.iter().map(|address| open(*address, None)).collect::<Result<Vec<_>, _>>();
    match all() {
        Err(Error::Listen { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => {
            for pid in find::all(None) {
                tracing::warn!(pid = pid.as_raw_nonzero(), "a process of cluster DNS that no agent has is ended");
                find::kill(pid).map_err(Error::Process)?;
            }
            all()
        }
        other => other,
    }
}

/// Starts a process and waits until it answers.
pub(super) async fn start(options: &Options, sockets: &[Sockets]) -> io::Result<(UnixStream, Pid)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(&options.program);
    command.arg0("klynge-dns").arg(WORD).arg(&options.directory).env_clear().current_dir("/");
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs))).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    // The command holds our copy of the other end.
    drop(command);
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("it ended at once"))?;
    let setup = options.setup.clone();
    let copies = sockets.iter().map(Sockets::try_clone).collect::<io::Result<Vec<_>>>()?;
    let greeted = tokio::task::spawn_blocking(move || greet(ours, &copies, &setup)).await;
    match greeted.map_err(io::Error::other).flatten() {
        Ok(stream) => {
            // Nobody else takes it off the kernel's hands when it ends.
            tokio::spawn(async move { child.wait().await });
            Ok((stream, pid))
        }
        Err(error) => {
            let _ = child.start_kill();
            let ended = child.wait().await.map_or_else(|_| String::new(), |status| format!(" ({status})"));
            let log = options.directory.join(super::LOG);
            Err(io::Error::new(error.kind(), format!("{error}{ended}; its log is {}", display(&log))))
        }
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

fn greet(mut stream: UnixStream, sockets: &[Sockets], setup: &Setup) -> io::Result<UnixStream> {
    use std::io::Write as _;
    stream.set_read_timeout(Some(START_TIMEOUT))?;
    stream.set_write_timeout(Some(START_TIMEOUT))?;
    link::send_greeting(&stream, &link::descriptors(sockets))?;
    let mut bytes = Vec::new();
    if !Message::Setup(setup.clone()).append_to(&mut bytes) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "its setup is too long"));
    }
    stream.write_all(&bytes)?;
    let (version, _) = link::receive_greeting(&stream)?;
    let unfit = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    if version != VERSION {
        return Err(unfit("it speaks another version"));
    }
    match link::receive_blocking(&mut stream)? {
        Message::Setup(theirs) if theirs == *setup => Ok(stream),
        _ => Err(unfit("it is set up otherwise")),
    }
}
