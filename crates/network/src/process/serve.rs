//! The process itself, whatever it does: takes what it works on and its setup from the agent that starts it, and follows one agent after
//! the other.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::find;
use super::kind::{Held as _, Kind, Message as _};
use super::link::{self, Link};

/// How long whoever connects may take to greet.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);
/// Agents that wait to be greeted.
const BACKLOG: i32 = 16;

/// What a process was started with.
pub(crate) struct Started<K: Kind> {
    /// The agent that started it.
    first: BlockingStream,
    listener: std::os::unix::net::UnixListener,
    pub(crate) setup: K::Setup,
    pub(crate) held: K::Held,
}

/// Makes this process one of its own; the agent that started it is at the other end of the standard input.
pub(crate) fn start_up<K: Kind>(directory: &Path) -> io::Result<Started<K>> {
    // Of its own session: what ends the agent's terminal or process group does not end it.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(K::TITLE);
    let (first, setup, held) = receive_start::<K>()?;
    for file in K::groups(&setup) {
        if let Err(error) = fs::write(file, "0") {
            tracing::warn!(file = %file.display(), %error, "this process stays in its agent's control group");
        }
    }
    // As the shims: pods need it. Not everyone may lower it.
    let _ = fs::write("/proc/self/oom_score_adj", "-998");
    let listener = listen::<K>(directory)?;
    Ok(Started { first, listener, setup, held })
}

/// The agent's greeting with what it hands over, and how to serve.
fn receive_start<K: Kind>() -> io::Result<(BlockingStream, K::Setup, K::Held)> {
    let mut stream = BlockingStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // Nothing but the stream keeps the connection open.
    rustix::stdio::dup2_stdin(fs::File::open("/dev/null")?)?;
    stream.set_read_timeout(Some(GREETING_TIMEOUT))?;
    let (version, descriptors) = link::receive_greeting::<K>(&stream)?;
    let unfit = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    if version != K::VERSION {
        return Err(unfit("the agent speaks another version"));
    }
    let Some(setup) = link::receive_blocking::<K>(&mut stream)?.setup() else {
        return Err(unfit("the agent does not begin with the setup"));
    };
    let held = K::Held::take(descriptors)?;
    if !K::fits(&setup, &held) {
        return Err(unfit("the agent did not send as many sockets as the setup needs"));
    }
    Ok((stream, setup, held))
}

/// Listens for agents; the name moves from a process of before at once.
fn listen<K: Kind>(directory: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let directory = fs::File::open(directory)?;
    // Short, whatever the directory's path is.
    let name = |name: &str| find::below(&directory, name);
    let fresh = format!("{}.{}", K::SOCKET, std::process::id());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let _ = fs::remove_file(name(&fresh)); // of a process that had the same number
    rustix::net::bind(&socket, &SocketAddrUnix::new(name(&fresh))?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    fs::rename(name(&fresh), name(K::SOCKET))?;
    Ok(socket.into())
}

/// What reads strangers' packets needs no rights: everything is open.
pub(crate) fn give_up_rights() {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    if let Err(error) = set_no_new_privs(true).and_then(|()| set_capabilities(None, sets)) {
        tracing::warn!(%error, "this process keeps rights that it does not need");
    }
}

/// Follows agents with `follow` until the process is told to end (SIGTERM). Agents come one after the other: the newest one counts.
pub(crate) async fn attend<K: Kind>(
    started: Started<K>,
    mut follow: impl FnMut(Link<K>) -> JoinHandle<()>,
) -> io::Result<()> {
    let Started { first, listener, setup, held } = started;
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = UnixListener::from_std(listener)?;
    let setup = K::Message::of_setup(setup);
    first.set_nonblocking(true)?;
    let first = tokio::net::UnixStream::from_std(first)?;
    let mut followed = None;
    // It may have gone already; the next one connects.
    if let Ok(link) = Link::accept_greeted(first, &held, &setup).await {
        followed = Some(follow(link));
    }
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => match timeout(GREETING_TIMEOUT, Link::accept(stream, &held, &setup)).await {
                    Ok(Ok(link)) => {
                        if let Some(former) = followed.replace(follow(link)) {
                            former.abort();
                        }
                    }
                    Ok(Err(error)) => tracing::warn!(%error, "an agent is not followed"),
                    Err(_) => tracing::warn!("whoever connected does not greet"),
                },
                // Out of descriptors: waiting lets others close theirs.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            _ = terminate.recv() => break,
        }
    }
    if let Some(former) = followed {
        former.abort();
    }
    Ok(())
}
