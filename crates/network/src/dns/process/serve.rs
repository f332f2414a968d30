//! The process itself: takes its sockets and its setup from the agent that starts it, serves, and follows one agent after the other.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::super::error::Error;
use super::super::server::{self, Dns, Sockets};
use super::SOCKET;
use super::link::{self, Link};
use super::protocol::{Message, Setup, VERSION};
use crate::services::ServiceKey;

/// How long whoever connects may take to greet.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);
/// After so many messages in a row questions get their turn.
const MESSAGES_IN_A_ROW: usize = 64;
/// Agents that wait to be greeted.
const BACKLOG: i32 = 16;

/// Serves cluster DNS until it is told to end (SIGTERM); the agent that started it is at the other end of the standard input.
///
/// # Errors
/// It was not started by an agent of its version, or cannot use what it was given.
pub fn serve(directory: &Path) -> Result<(), Error> {
    // Of its own session: what ends the agent's terminal or process group does not end it.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"klynge-dns");
    let (first, setup, sockets) = receive_start().map_err(Error::Process)?;
    for file in &setup.groups {
        if let Err(error) = fs::write(file, "0") {
            tracing::warn!(file = %file.display(), %error, "cluster DNS stays in its agent's control group");
        }
    }
    // As the shims: without it pods have no names. Not everyone may lower it.
    let _ = fs::write("/proc/self/oom_score_adj", "-998");
    let listener = listen(directory).map_err(Error::Process)?;
    give_up_rights();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    runtime.map_err(Error::Process)?.block_on(attend(listener, first, setup, sockets))
}

/// The agent's greeting with the sockets, and how to serve on them.
fn receive_start() -> io::Result<(BlockingStream, Setup, Vec<Sockets>)> {
    let mut stream = BlockingStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // Nothing but the stream keeps the connection open.
    rustix::stdio::dup2_stdin(fs::File::open("/dev/null")?)?;
    stream.set_read_timeout(Some(GREETING_TIMEOUT))?;
    let (version, descriptors) = link::receive_greeting(&stream)?;
    let unfit = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    if version != VERSION {
        return Err(unfit("the agent speaks another version"));
    }
    let Message::Setup(setup) = link::receive_blocking(&mut stream)? else {
        return Err(unfit("the agent does not begin with the setup"));
    };
    let sockets = link::sockets(descriptors)?;
    if sockets.len() != setup.listen.len() {
        return Err(unfit("the agent sent not as many sockets as addresses"));
    }
    Ok((stream, setup, sockets))
}

/// Listens for agents; the name moves from a process of before at once.
fn listen(directory: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let directory = fs::File::open(directory)?;
    // Short, whatever the directory's path is.
    let name = |name: &str| super::find::below(&directory, name);
    let fresh = format!("{SOCKET}.{}", std::process::id());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let _ = fs::remove_file(name(&fresh)); // of a process that had the same number
    rustix::net::bind(&socket, &SocketAddrUnix::new(name(&fresh))?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    fs::rename(name(&fresh), name(SOCKET))?;
    Ok(socket.into())
}

/// What reads strangers' packets needs no rights: everything is open.
fn give_up_rights() {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    if let Err(error) = set_no_new_privs(true).and_then(|()| set_capabilities(None, sets)) {
        tracing::warn!(%error, "cluster DNS keeps rights that it does not need");
    }
}

async fn attend(
    listener: std::os::unix::net::UnixListener,
    first: BlockingStream,
    setup: Setup,
    sockets: Vec<Sockets>,
) -> Result<(), Error> {
    let mut options = server::Options::new(setup.listen.clone(), setup.domain.clone());
    options.reverse_ranges.clone_from(&setup.reverse_ranges);
    options.resolv_conf.clone_from(&setup.resolv_conf);
    let own = sockets.iter().map(Sockets::try_clone).collect::<io::Result<Vec<_>>>().map_err(Error::Socket)?;
    let dns = Arc::new(Dns::prepare(options, own)?);
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Process)?;
    let listener = UnixListener::from_std(listener).map_err(Error::Process)?;
    let setup = Message::Setup(setup);
    // It may have gone already; the next one connects.
    let first = tokio::net::UnixStream::from_std({
        first.set_nonblocking(true).map_err(Error::Process)?;
        first
    });
    let mut followed = None;
    if let Ok(link) = Link::accept_greeted(first.map_err(Error::Process)?, &sockets, &setup).await {
        followed = Some(tokio::spawn(follow(link, Arc::clone(&dns))));
    }
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => match timeout(GREETING_TIMEOUT, Link::accept(stream, &sockets, &setup)).await {
                    Ok(Ok(link)) => {
                        // Agents come one after the other: the newest one counts.
                        if let Some(former) = followed.replace(tokio::spawn(follow(link, Arc::clone(&dns)))) {
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
    drop(listener);
    dns.drain().await;
    Ok(())
}

/// Does what an agent says until it goes; what it said last stays.
async fn follow(mut link: Link, dns: Arc<server::Handle>) {
    let mut rest: Option<HashSet<ServiceKey>> = None;
    let mut in_a_row = 0;
    loop {
        let message = match link.receive().await {
            Ok(Some(message)) => message,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "the agent is not understood");
                return;
            }
        };
        match message {
            Message::Set(key, service) => {
                if let Some(rest) = &mut rest {
                    rest.remove(&key);
                }
                dns.update(&key, Some(service));
            }
            Message::Remove(key) => dns.update(&key, None),
            Message::Begin => rest = Some(dns.keys().into_iter().collect()),
            Message::Commit => rest.take().into_iter().flatten().for_each(|key| dns.update(&key, None)),
            Message::Outside(outside) => {
                if let Err(error) = dns.set_outside(&outside) {
                    tracing::warn!(%error, "a stub domain cannot be used");
                }
            }
            Message::Sync(number) => {
                // Answered only where questions can be, too: both need the zone. The first one says that what is known when a
                // process starts has been told: from here on an answer is right.
                dns.touch();
                if let Err(error) = dns.begin() {
                    tracing::error!(%error, "cluster DNS cannot begin; its agent starts another process");
                    return;
                }
                if link.send_messages([&Message::Synced(number)]).await.is_err() {
                    return;
                }
            }
            Message::Setup(_) | Message::Synced(_) => {
                tracing::warn!("the agent sends what only this process may send");
                return;
            }
        }
        in_a_row += 1;
        if in_a_row % MESSAGES_IN_A_ROW == 0 {
            tokio::task::yield_now().await;
        }
    }
}
