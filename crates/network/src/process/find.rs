//! Finds processes beside the agent, and ends them.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::kind::{Held as _, Kind, Message as _};
use super::link;

/// How long a process may take to greet; one that takes longer hangs.
const GREETING_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one that was killed may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// A name in a directory, short enough for a socket's address whatever the directory's path is.
pub(super) fn below(directory: &File, name: &str) -> String {
    format!("/proc/self/fd/{}/{name}", directory.as_raw_fd())
}

/// A process that answers.
pub(super) struct Found<K: Kind> {
    pub(super) stream: UnixStream,
    pub(super) pid: Pid,
    pub(super) held: K::Held,
    /// How it is set up; none where it speaks another version.
    pub(super) setup: Option<K::Setup>,
}

/// What is at the socket in a directory.
pub(super) enum Look<K: Kind> {
    /// A process that answers.
    Found(Found<K>),
    /// One that does not.
    Hangs(Option<Pid>),
    /// None.
    Nothing,
}

/// Looks for the process of this directory; blocks for some seconds at most.
pub(super) fn look<K: Kind>(directory: &Path) -> Look<K> {
    let stream = match connect::<K>(directory) {
        Ok(stream) => stream,
        // Too many wait to be greeted.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Look::Hangs(None),
        Err(_) => return Look::Nothing,
    };
    let pid = rustix::net::sockopt::socket_peercred(&stream).ok().map(|peer| peer.pid);
    let Some(pid) = pid.filter(|pid| is_process::<K>(*pid)) else { return Look::Nothing };
    match greet::<K>(stream) {
        Ok((stream, held, setup)) => Look::Found(Found { stream, pid, held, setup }),
        Err(error) => {
            tracing::warn!(pid = pid.as_raw_nonzero(), %error, "the process of {} does not answer", K::CALLED);
            Look::Hangs(Some(pid))
        }
    }
}

fn connect<K: Kind>(directory: &Path) -> io::Result<UnixStream> {
    let directory = File::open(directory)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(below(&directory, K::SOCKET))?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn greet<K: Kind>(mut stream: UnixStream) -> io::Result<(UnixStream, K::Held, Option<K::Setup>)> {
    stream.set_read_timeout(Some(GREETING_TIMEOUT))?;
    stream.set_write_timeout(Some(GREETING_TIMEOUT))?;
    link::send_greeting::<K>(&stream, &[])?;
    let (version, descriptors) = link::receive_greeting::<K>(&stream)?;
    let held = K::Held::take(descriptors)?;
    if version != K::VERSION {
        return Ok((stream, held, None));
    }
    match link::receive_blocking::<K>(&mut stream)?.setup() {
        Some(setup) => Ok((stream, held, Some(setup))),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "it does not begin with its setup")),
    }
}

/// Whether a process runs this very file, however it is called by now.
pub(super) fn runs(pid: Pid, program: &Path) -> bool {
    let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    let theirs = fs::metadata(format!("/proc/{}/exe", pid.as_raw_nonzero()));
    theirs.and_then(|theirs| Ok(same(theirs, fs::metadata(program)?))).unwrap_or(false)
}

/// Whether a process is root's and of this kind. Whoever else carries the word is left alone.
fn is_process<K: Kind>(pid: Pid) -> bool {
    let directory = format!("/proc/{}", pid.as_raw_nonzero());
    let is_roots = fs::metadata(&directory).is_ok_and(|found| found.uid() == 0);
    let words = fs::read(format!("{directory}/cmdline")).unwrap_or_default();
    is_roots && words.split(|byte| *byte == 0).nth(1) == Some(K::WORD.as_bytes())
}

/// All processes of a kind in this thread's network namespace, or those of one directory alone.
pub(super) fn all<K: Kind>(of: Option<&Path>) -> Vec<Pid> {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let here = namespace("thread-self");
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    let is_of = |pid: Pid| {
        let Some(of) = of else { return true };
        let words = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        let word = words.split(|byte| *byte == 0).nth(2).unwrap_or_default();
        let theirs = Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(word));
        let same = |a: &Path, b: &Path| Some(fs::canonicalize(a).ok()? == fs::canonicalize(b).ok()?);
        theirs == of || same(theirs, of).unwrap_or(false)
    };
    let here = |pid: &Pid| namespace(&pid.as_raw_nonzero().to_string()) == here;
    pids.filter(|pid| is_process::<K>(*pid)).filter(here).filter(|pid| is_of(*pid)).collect()
}

/// Ends the process of a directory, if there is one; it is gone afterwards. Its agent must have ended.
///
/// # Errors
/// It stays.
pub(crate) fn end<K: Kind>(directory: &Path) -> io::Result<()> {
    all::<K>(Some(directory)).into_iter().try_for_each(|pid| end_gently::<K>(pid, Duration::from_millis(500)))
}

/// Tells a process to end, and kills it where it takes longer than `patience`.
pub(super) fn end_gently<K: Kind>(pid: Pid, patience: Duration) -> io::Result<()> {
    let Some(process) = open::<K>(pid)? else { return Ok(()) };
    // It may have gone in this moment.
    let _ = pidfd_send_signal(&process, Signal::TERM);
    if is_gone(&process, patience)? {
        return Ok(());
    }
    kill_opened(&process)
}

/// Kills a process; it is gone afterwards.
pub(super) fn kill<K: Kind>(pid: Pid) -> io::Result<()> {
    open::<K>(pid)?.map_or(Ok(()), |process| kill_opened(&process))
}

/// A hold on a process, which no other process can take the number of. None where it is gone.
fn open<K: Kind>(pid: Pid) -> io::Result<Option<OwnedFd>> {
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // Looked at once it is held: another process may have got the number before.
    Ok(is_process::<K>(pid).then_some(process))
}

fn kill_opened(process: &OwnedFd) -> io::Result<()> {
    let _ = pidfd_send_signal(process, Signal::KILL);
    if is_gone(process, KILL_TIMEOUT)? { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
}

fn is_gone(process: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
