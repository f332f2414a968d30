//! One connection to a shim: requests and their answers, and exits that come unasked. Dropping it harms nothing.

use std::{
    collections::HashMap,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot},
};

use crate::{
    error::{Context, Error, Result},
    shim,
    wire::{self, MESSAGE_BYTES, Message},
};

/// How long the shim may take for anything but starting a process.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// An answer, with the processes of a `STATUS` and the descriptor of a `STDIN` or a terminal.
pub(crate) struct Reply {
    pub(crate) message: Message,
    pub(crate) processes: Vec<Message>,
    pub(crate) descriptor: Option<OwnedFd>,
}

#[derive(Default)]
struct Waiting {
    last_request: u64,
    replies: HashMap<u64, (Vec<Message>, oneshot::Sender<Reply>)>,
    execs: HashMap<u64, oneshot::Sender<Message>>,
    lost: bool,
}

/// A connection whose answers are read by a task of its own.
pub(crate) struct Connection {
    socket: Arc<AsyncFd<OwnedFd>>,
    waiting: Arc<Mutex<Waiting>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// Connects to the shim of the pod in this directory. Unsolicited messages go to `notices`; its closing says the shim is gone.
    pub(crate) async fn open(
        pod_directory: &Path,
        notices: mpsc::UnboundedSender<Message>,
    ) -> Result<(Connection, i32)> {
        let directory = std::fs::File::open(pod_directory).context("opening", pod_directory)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(|error| Error::io("making a socket", error))?;
        // A larger queue, so that the answers about 128 processes fit whatever the reader's pace; best effort.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 1 << 20);
        rustix::net::connect(&socket, &shim::address_in(&directory, "shim.sock")?)
            .map_err(|error| Error::ShimLost(io::Error::from(error).to_string()))?;
        let socket = Arc::new(crate::watch::watch(socket).map_err(|error| Error::io("watching a socket", error))?);
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let reader = tokio::spawn(read_all(socket.clone(), waiting.clone(), notices));
        let connection = Connection { socket, waiting, reader };
        let hello = Message { kind: wire::HELLO, a: u64::from(wire::PROTOCOL_VERSION), ..Message::default() };
        let reply = connection.ask("greeting the shim", hello, &[]).await?;
        if reply.message.a != u64::from(wire::PROTOCOL_VERSION) {
            return Err(Error::Unsupported(format!(
                "the pod's shim speaks protocol version {}, this agent version {}; finish the upgrade or delete the pod",
                reply.message.a,
                wire::PROTOCOL_VERSION
            )));
        }
        Ok((connection, reply.message.b as i32))
    }

    /// Asks and waits for the answer; a status other than 0 becomes an error.
    pub(crate) async fn ask(
        &self,
        operation: &'static str,
        message: Message,
        with: &[BorrowedFd<'_>],
    ) -> Result<Reply> {
        let reply = tokio::time::timeout(REPLY_TIMEOUT, self.exchange(message, with))
            .await
            .map_err(|_| Error::ShimLost(format!("no answer within {} s ({operation})", REPLY_TIMEOUT.as_secs())))??;
        match reply.message.status {
            0 => Ok(reply),
            errno => Err(Error::Refused { operation, source: io::Error::from_raw_os_error(errno) }),
        }
    }

    /// Asks and waits for the answer as it is.
    pub(crate) async fn exchange(&self, mut message: Message, with: &[BorrowedFd<'_>]) -> Result<Reply> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = lock(&self.waiting);
            if waiting.lost {
                return Err(Error::ShimLost("its connection is closed".to_owned()));
            }
            waiting.last_request += 1;
            message.request = waiting.last_request;
            waiting.replies.insert(message.request, (Vec::new(), sender));
        }
        let bytes = message.encode();
        let sent =
            self.socket.async_io(tokio::io::Interest::WRITABLE, |socket| send(socket.as_fd(), &bytes, with)).await;
        if let Err(error) = sent {
            lock(&self.waiting).replies.remove(&message.request);
            return Err(Error::ShimLost(error.to_string()));
        }
        receiver.await.map_err(|_| Error::ShimLost("its connection was closed".to_owned()))
    }

    /// Waits for the end of an exec; to be asked for before it is started.
    pub(crate) fn expect_exit(&self, token: u64) -> oneshot::Receiver<Message> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = lock(&self.waiting);
        if !waiting.lost {
            waiting.execs.insert(token, sender);
        }
        receiver
    }

    /// True once the shim has closed the connection.
    pub(crate) fn lost(&self) -> bool {
        lock(&self.waiting).lost
    }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], with: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(wire::DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !with.is_empty() && !control.push(SendAncillaryMessage::ScmRights(with)) {
        return Err(io::Error::other("too many descriptors"));
    }
    rustix::net::sendmsg(socket, &[io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<(Message, Option<OwnedFd>)>> {
    let mut bytes = [0u8; MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        rustix::net::recvmsg(socket, &mut [io::IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(list) = message {
            descriptor = list.last();
        }
    }
    Ok((received.bytes == MESSAGE_BYTES).then(|| (Message::decode(&bytes), descriptor)))
}

async fn read_all(
    socket: Arc<AsyncFd<OwnedFd>>,
    waiting: Arc<Mutex<Waiting>>,
    notices: mpsc::UnboundedSender<Message>,
) {
    while let Ok(Some((message, descriptor))) =
        socket.async_io(tokio::io::Interest::READABLE, |socket| receive(socket.as_fd())).await
    {
        match message.kind {
            wire::PROCESS => {
                if let Some((processes, _)) = lock(&waiting).replies.get_mut(&message.request) {
                    processes.push(message);
                }
            }
            wire::EXITED => {
                let exec = lock(&waiting).execs.remove(&message.token);
                if let Some(exec) = exec {
                    let _ = exec.send(message);
                } else if notices.send(message).is_err() {
                    break;
                }
            }
            wire::LOG_GREW => {
                let _ = notices.send(message);
            }
            _ => {
                if let Some((processes, sender)) = lock(&waiting).replies.remove(&message.request) {
                    let _ = sender.send(Reply { message, processes, descriptor });
                }
            }
        }
    }
    let mut waiting = lock(&waiting);
    waiting.lost = true;
    waiting.replies.clear();
    waiting.execs.clear();
}
