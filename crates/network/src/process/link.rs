//! A connection between the agent and a process beside it: the greeting with its descriptors, then frames.

use std::io::{self, Read as _};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as BlockingStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;

use super::frame::{GREETING_BYTES, LENGTH_BYTES, frame_length, greeted, greeting};
use super::kind::{DESCRIPTORS_MAX, Held as _, Kind, Message as _};

/// What a reader keeps of a buffer that once had to be larger.
const BUFFER_BYTES_KEPT: usize = 16 << 10;
/// What is read at once: what a frame still lacks, within these.
const READ_BYTES_MIN: usize = 8 << 10;
const READ_BYTES_MAX: usize = 256 << 10;
/// After so many messages in a row something else gets its turn.
const MESSAGES_IN_A_ROW: u32 = 64;
/// Who does not read what it is sent for so long is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

fn malformed(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Sends the greeting and, with it, these descriptors.
pub(crate) fn send_greeting<K: Kind>(stream: impl AsFd, held: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !held.is_empty() && !control.push(SendAncillaryMessage::ScmRights(held)) {
        return Err(malformed("there are too many descriptors to hand over"));
    }
    let sent = sendmsg(stream, &[io::IoSlice::new(&greeting::<K>())], &mut control, SendFlags::NOSIGNAL)?;
    if sent == GREETING_BYTES { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives a greeting: the other's version, and the descriptors that came with it.
pub(crate) fn receive_greeting<K: Kind>(stream: impl AsFd) -> io::Result<(u32, Vec<OwnedFd>)> {
    let mut bytes = [0; GREETING_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    // A greeting is written at once and so short that it arrives whole.
    let received = recvmsg(stream, &mut [io::IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut held = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(list) = message {
            held.extend(list);
        }
    }
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if received.bytes != GREETING_BYTES || received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(malformed("the greeting is cut off"));
    }
    let version = greeted::<K>(&bytes).ok_or_else(|| malformed(format!("this is no process of {}", K::CALLED)))?;
    Ok((version, held))
}

/// Receives a frame on a blocking stream; its read timeout holds for each part.
pub(crate) fn receive_blocking<K: Kind>(stream: &mut BlockingStream) -> io::Result<K::Message> {
    let mut length = [0; LENGTH_BYTES];
    stream.read_exact(&mut length)?;
    let length = frame_length(&length).map_err(malformed)?.unwrap_or_default();
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    K::Message::read(&bytes).map_err(malformed)
}

/// A connection after its greetings.
pub(crate) struct Link<K> {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// Where in the buffer the next frame begins.
    at: usize,
    in_a_row: u32,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Link<K> {
    /// From a stream whose greetings were exchanged; within a tokio runtime.
    pub(crate) fn new(stream: BlockingStream) -> io::Result<Self> {
        stream.set_read_timeout(None)?;
        stream.set_nonblocking(true)?;
        Ok(Self::over(UnixStream::from_std(stream)?))
    }

    fn over(stream: UnixStream) -> Self {
        Self { stream, buffer: Vec::new(), at: 0, in_a_row: 0, kind: PhantomData }
    }

    /// Greets whoever has connected, gives it what is held, and says how the process is set up.
    pub(crate) async fn accept(stream: UnixStream, held: &K::Held, setup: &K::Message) -> io::Result<Self> {
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == 0) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let (version, _) = stream.async_io(Interest::READABLE, || receive_greeting::<K>(&stream)).await?;
        let link = Self::accept_greeted(stream, held, setup).await?;
        if version != K::VERSION {
            return Err(malformed(format!("the agent speaks version {version}, not {}", K::VERSION)));
        }
        Ok(link)
    }

    /// The same with one that has greeted.
    pub(crate) async fn accept_greeted(stream: UnixStream, held: &K::Held, setup: &K::Message) -> io::Result<Self> {
        stream.async_io(Interest::WRITABLE, || send_greeting::<K>(&stream, &held.descriptors())).await?;
        let mut link = Self::over(stream);
        link.send_messages([setup]).await?;
        Ok(link)
    }

    /// Sends messages, none of which is too long.
    pub(crate) async fn send_messages(&mut self, messages: impl IntoIterator<Item = &K::Message>) -> io::Result<()> {
        let mut bytes = Vec::new();
        for message in messages {
            message.append_to(&mut bytes);
        }
        self.send(&bytes).await
    }

    /// Sends frames.
    pub(crate) async fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        tokio::time::timeout(SEND_TIMEOUT, self.stream.write_all(frames)).await?
    }

    /// What the agent says next; none at its end, or where it is not understood. Now and then something else gets its turn.
    pub(crate) async fn next(&mut self) -> Option<K::Message> {
        self.in_a_row += 1;
        if self.in_a_row.is_multiple_of(MESSAGES_IN_A_ROW) {
            tokio::task::yield_now().await;
        }
        self.receive().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the agent is not understood");
            None
        })
    }

    /// The next message; none at the end. Nothing is lost where the caller stops waiting.
    pub(crate) async fn receive(&mut self) -> io::Result<Option<K::Message>> {
        loop {
            let rest = self.buffer.get(self.at..).unwrap_or_default();
            let end = frame_length(rest).map_err(malformed)?.map(|length| LENGTH_BYTES + length);
            if let Some(end) = end
                && let Some(frame) = rest.get(LENGTH_BYTES..end)
            {
                let message = K::Message::read(frame).map_err(malformed)?;
                self.at += end;
                return Ok(Some(message));
            }
            let missing = end.unwrap_or(LENGTH_BYTES).saturating_sub(rest.len());
            self.buffer.drain(..self.at);
            self.at = 0;
            if self.buffer.is_empty() && self.buffer.capacity() > BUFFER_BYTES_KEPT {
                self.buffer = Vec::new();
            }
            self.stream.readable().await?;
            self.buffer.reserve(missing.clamp(READ_BYTES_MIN, READ_BYTES_MAX));
            match self.stream.try_read_buf(&mut self.buffer) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}
