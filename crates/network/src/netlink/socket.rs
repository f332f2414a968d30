//! A blocking netlink socket that lives in a chosen network namespace.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with, sockopt,
};

use super::error::{Error, Result};
use super::message::{Batch, HEADER_BYTES, attributes, text, u16_at, u32_at};
use super::namespace::NetworkNamespace;
use super::system;

/// A kernel answer later than this is a fault: the kernel answers synchronously.
const ANSWER_TIMEOUT_MS: u64 = 10_000;
/// Large enough for any message that the kernel puts into a dump.
const RECEIVE_BUFFER_BYTES: usize = 256 * 1024;
/// The receive queue of the socket: room for the acknowledgements of a large batch.
const RECEIVE_QUEUE_BYTES: i32 = 8 * 1024 * 1024;
/// A dump that changed while it was read is read again at most this often.
const DUMP_ATTEMPTS_MAX: usize = 10;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const FLAG_REQUEST: u16 = 0x1;
pub(crate) const FLAG_ACK: u16 = 0x4;
const FLAG_DUMP_INTERRUPTED: u16 = 0x10;
const FLAG_ERROR_CAPPED: u16 = 0x100;
const FLAG_DUMP: u16 = 0x300;
const ERROR_ATTRIBUTE_MESSAGE: u16 = 1;
const SOL_NETLINK: i32 = 270;
const NETLINK_CAP_ACK: i32 = 10;
const NETLINK_EXT_ACK: i32 = 11;

/// The netlink families that Klynge speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, neighbours.
    Route,
    /// nftables and conntrack.
    Netfilter,
    /// Families that have numbers of their own, such as WireGuard.
    Generic,
}

/// A netlink socket. Every call is synchronous and ends within a bounded time.
#[derive(Debug)]
pub struct Socket {
    descriptor: OwnedFd,
    send_buffer_bytes: usize,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the calling thread's namespace.
    pub fn open(protocol: Protocol) -> Result<Self> {
        let family = match protocol {
            Protocol::Route => None,
            Protocol::Netfilter => Some(netlink::NETFILTER),
            Protocol::Generic => Some(netlink::GENERIC),
        };
        let fail = |source: rustix::io::Errno| Error::system("open a netlink socket", source);
        let descriptor =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, family).map_err(fail)?;
        bind(&descriptor, &SocketAddrNetlink::new(0, 0)).map_err(fail)?;
        sockopt::set_socket_timeout(
            &descriptor,
            sockopt::Timeout::Recv,
            Some(Duration::from_millis(ANSWER_TIMEOUT_MS)),
        )
        .map_err(fail)?;
        // These only make answers better (texts, short echoes, more room); an old kernel works without them.
        for (level, option, value) in [
            (SOL_NETLINK, NETLINK_EXT_ACK, 1),
            (SOL_NETLINK, NETLINK_CAP_ACK, 1),
            (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_QUEUE_BYTES),
        ] {
            if let Err(error) = system::set_option(descriptor.as_fd(), level, option, value) {
                tracing::debug!(option, %error, "netlink socket option is not available");
            }
        }
        Ok(Self { descriptor, send_buffer_bytes: 0, buffer: vec![0; RECEIVE_BUFFER_BYTES] })
    }

    /// Opens a socket inside `namespace`; it stays there whatever thread uses it.
    pub fn open_in(namespace: &NetworkNamespace, protocol: Protocol) -> Result<Self> {
        namespace.run(|| Self::open(protocol))?
    }

    /// Sends a batch whose every message asks for an acknowledgement, waits for all of them, and returns one outcome per message.
    pub fn request_each(&mut self, batch: &Batch) -> Result<Vec<Result<()>>> {
        if batch.message_count() == 0 {
            return Ok(Vec::new());
        }
        self.send(batch)?;
        let mut outcomes: Vec<Option<Result<()>>> = (0..batch.message_count()).map(|_| None).collect();
        let mut missing = outcomes.len();
        while missing > 0 {
            self.receive(batch, |answer| {
                let index = usize::try_from(answer.sequence).unwrap_or(0).wrapping_sub(1);
                if let (Some(slot), NLMSG_ERROR) = (outcomes.get_mut(index), answer.kind)
                    && slot.is_none()
                {
                    *slot = Some(answer.outcome(batch));
                    missing -= 1;
                }
                Ok(())
            })?;
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// Like [`Socket::request_each`], and fails with the first failure. The messages after it were still carried out (rtnetlink has no transactions).
    pub fn request_all(&mut self, batch: &Batch) -> Result<()> {
        self.request_each(batch)?.into_iter().collect()
    }

    /// Sends an nftables transaction, of which only the last message asks for an acknowledgement, and waits for its outcome.
    pub(crate) fn transact(&mut self, batch: &Batch, last_sequence: u32) -> Result<()> {
        self.send(batch)?;
        let mut outcome = None;
        while outcome.is_none() {
            let mut first_error = None;
            self.receive(batch, |answer| {
                if answer.kind == NLMSG_ERROR {
                    match answer.outcome(batch) {
                        Err(error) => {
                            first_error.get_or_insert(error);
                        }
                        Ok(()) if answer.sequence == last_sequence => outcome = Some(Ok(())),
                        Ok(()) => {}
                    }
                }
                Ok(())
            })?;
            if let Some(error) = first_error {
                // The kernel reports every failed message of the aborted batch in turn; later ones are drained.
                self.drain();
                outcome = Some(Err(error));
            }
        }
        outcome.unwrap_or(Ok(()))
    }

    /// Asks for one object and hands it to `each` as (message type, payload).
    pub(crate) fn get(
        &mut self,
        kind: u16,
        operation: &str,
        fill: impl Fn(&mut Batch),
        each: impl FnMut(u16, &[u8]),
    ) -> Result<()> {
        self.ask(kind, FLAG_ACK, operation, fill, each)
    }

    /// Sends one dump request and hands every part of the answer to `each` as (message type, payload).
    pub fn dump(
        &mut self,
        kind: u16,
        operation: &str,
        fill: impl Fn(&mut Batch),
        each: impl FnMut(u16, &[u8]),
    ) -> Result<()> {
        self.ask(kind, FLAG_DUMP, operation, fill, each)
    }

    /// Sends a request whose answer ends with "done" (a dump) or an acknowledgement.
    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        operation: &str,
        fill: impl Fn(&mut Batch),
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<()> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut batch = Batch::new();
            batch.begin(kind, FLAG_REQUEST | flags, operation);
            fill(&mut batch);
            batch.end();
            self.send(&batch)?;
            let mut collected: Vec<(u16, Vec<u8>)> = Vec::new();
            let mut interrupted = false;
            let mut done = false;
            while !done {
                self.receive(&batch, |answer| {
                    interrupted |= answer.flags & FLAG_DUMP_INTERRUPTED != 0;
                    match answer.kind {
                        NLMSG_DONE => done = true,
                        NLMSG_ERROR => {
                            done = true;
                            answer.outcome(&batch)?;
                        }
                        kind => collected.push((kind, answer.payload.to_vec())),
                    }
                    Ok(())
                })?;
            }
            // Objects changed while the kernel walked over them: the answer may lack some, so it is asked again.
            if interrupted && attempts < DUMP_ATTEMPTS_MAX {
                continue;
            }
            for (kind, payload) in &collected {
                each(*kind, payload);
            }
            return Ok(());
        }
    }

    pub(crate) fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    pub(super) fn send(&mut self, batch: &Batch) -> Result<()> {
        let bytes = batch.finished()?;
        // A netlink message must fit the send buffer as a whole.
        if bytes.len() + 4096 > self.send_buffer_bytes {
            let wanted = (bytes.len() + 4096).max(256 * 1024);
            let value = i32::try_from(wanted).map_err(|_| Error::TooLarge { what: "batch over 2 GiB" })?;
            system::set_option(self.descriptor.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, value)
                .map_err(|source| Error::system("enlarge the netlink send buffer", source))?;
            self.send_buffer_bytes = wanted;
        }
        sendto(&self.descriptor, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))
            .map_err(|source| Error::system(batch.operation(1), source))?;
        Ok(())
    }

    /// Receives one datagram and hands its messages to `each`.
    fn receive(&mut self, batch: &Batch, mut each: impl FnMut(Answer<'_>) -> Result<()>) -> Result<()> {
        let length = loop {
            match recv(&self.descriptor, &mut self.buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => break length,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    return Err(Error::TimedOut { operation: batch.operation(1), timeout_ms: ANSWER_TIMEOUT_MS });
                }
                Err(source) => return Err(Error::system(batch.operation(1), source)),
            }
        };
        let mut rest = self.buffer.get(..length).unwrap_or_default();
        while rest.len() >= HEADER_BYTES {
            let malformed = || Error::Malformed { operation: batch.operation(1), reason: "message length" };
            let message_length = u32_at(rest, 0).and_then(|value| usize::try_from(value).ok()).ok_or_else(malformed)?;
            let payload = rest.get(HEADER_BYTES..message_length).ok_or_else(malformed)?;
            each(Answer {
                kind: u16_at(rest, 4).unwrap_or(0),
                flags: u16_at(rest, 6).unwrap_or(0),
                sequence: u32_at(rest, 8).unwrap_or(0),
                payload,
            })?;
            rest = rest.get(message_length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }

    fn drain(&mut self) {
        // Bounded by the receive queue: the kernel adds nothing more for a batch that it has answered.
        while recv(&self.descriptor, &mut self.buffer[..], RecvFlags::DONTWAIT).is_ok() {}
    }
}

struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl Answer<'_> {
    /// Decodes NLMSG_ERROR: a negative error number, the echoed header, and perhaps the kernel's words.
    fn outcome(&self, batch: &Batch) -> Result<()> {
        let malformed = || Error::Malformed { operation: batch.operation(self.sequence), reason: "error message" };
        let number = u32_at(self.payload, 0).ok_or_else(malformed)?.cast_signed();
        if number == 0 {
            return Ok(());
        }
        let echoed_bytes = if self.flags & FLAG_ERROR_CAPPED != 0 {
            HEADER_BYTES
        } else {
            u32_at(self.payload, 4).and_then(|value| usize::try_from(value).ok()).unwrap_or(HEADER_BYTES)
        };
        let extended = self.payload.get(4 + echoed_bytes.next_multiple_of(4)..).unwrap_or_default();
        let message = attributes(extended).find_kind(ERROR_ATTRIBUTE_MESSAGE).map(text).unwrap_or_default();
        Err(Error::Refused {
            operation: batch.operation(self.sequence),
            message,
            source: io::Error::from_raw_os_error(number.wrapping_neg()),
        })
    }
}
