//! A queue in which the kernel keeps packets until this program lets them go (nfnetlink_queue). Packets themselves are never copied.

use super::error::{Error, Result};
use super::message::{Batch, HEADER_BYTES, attributes, u16_at, u32_at};
use super::namespace::NetworkNamespace;
use super::socket::{FLAG_ACK, Protocol, Socket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv};
use std::time::Duration;

const SUBSYSTEM_QUEUE: u16 = 3 << 8;
const MSG_PACKET: u16 = SUBSYSTEM_QUEUE;
const MSG_CONFIGURE: u16 = SUBSYSTEM_QUEUE | 2;
const MSG_VERDICTS: u16 = SUBSYSTEM_QUEUE | 3;
const REQUEST: u16 = 1;

const CONFIGURE_COMMAND: u16 = 1;
const CONFIGURE_PARAMETERS: u16 = 2;
const CONFIGURE_LENGTH: u16 = 3;
const CONFIGURE_MASK: u16 = 4;
const CONFIGURE_FLAGS: u16 = 5;
const COMMAND_BIND: u8 = 1;
const COPY_NOTHING: u8 = 1;
/// What the queue has no room for passes at once; large packets are kept as they are.
const FLAGS: u32 = 1 | 4;

const PACKET_HEADER: u16 = 1;
const VERDICT_HEADER: u16 = 2;
const ACCEPT: u32 = 1;

/// A queue that this program owns. When the program ends, what waits is dropped and all that follows passes.
#[derive(Debug)]
pub struct PacketQueue {
    socket: Socket,
    number: u16,
    buffer: Vec<u8>,
}

impl PacketQueue {
    /// Takes a queue's number in a namespace; at most so many packets wait, the rest passes.
    ///
    /// # Errors
    /// Where another program has the number, or the kernel has no such queues.
    pub fn open_in(namespace: &NetworkNamespace, number: u16, packets_max: u32) -> Result<Self> {
        let mut socket = Socket::open_in(namespace, Protocol::Netfilter)?;
        let mut configure = Batch::new();
        configure.begin(MSG_CONFIGURE, REQUEST | FLAG_ACK, format!("take the packet queue {number}"));
        header(&mut configure, number);
        configure.attribute(CONFIGURE_COMMAND, &[COMMAND_BIND, 0, 0, 0]);
        configure.end();
        configure.begin(MSG_CONFIGURE, REQUEST | FLAG_ACK, format!("set the packet queue {number} up"));
        header(&mut configure, number);
        configure.attribute(CONFIGURE_PARAMETERS, &[0, 0, 0, 0, COPY_NOTHING]);
        configure.attribute_be32(CONFIGURE_LENGTH, packets_max);
        configure.attribute_be32(CONFIGURE_MASK, FLAGS);
        configure.attribute_be32(CONFIGURE_FLAGS, FLAGS);
        configure.end();
        socket.request_all(&configure)?;
        Ok(Self { socket, number, buffer: vec![0; 256 * 1024] })
    }

    /// Waits for packets for so long at most (none: until one comes); the numbers of those that came, rising.
    pub fn arrivals(&mut self, wait: Option<Duration>) -> Result<Vec<u32>> {
        let failed = |source| Error::system("wait for packets in a queue", source);
        let wait = wait.map(|wait| Timespec::try_from(wait).unwrap_or_default());
        match poll(&mut [PollFd::from_borrowed_fd(self.socket.descriptor(), PollFlags::IN)], wait.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Ok(_) => {}
            Err(error) => return Err(failed(error)),
        }
        let length = match recv(self.socket.descriptor(), &mut self.buffer[..], RecvFlags::DONTWAIT) {
            Ok((length, _)) => length,
            // Messages were lost: their packets have passed.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::NOBUFS) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(packets(self.buffer.get(..length).unwrap_or_default()))
    }

    /// Lets all packets go whose number is at most this one.
    pub fn release(&mut self, up_to: u32) -> Result<()> {
        let mut verdicts = Batch::new();
        verdicts.begin(MSG_VERDICTS, REQUEST, format!("let packets of queue {} go", self.number));
        header(&mut verdicts, self.number);
        let mut value = [0; 8];
        value[..4].copy_from_slice(&ACCEPT.to_be_bytes());
        value[4..].copy_from_slice(&up_to.to_be_bytes());
        verdicts.attribute(VERDICT_HEADER, &value);
        verdicts.end();
        self.socket.send(&verdicts)
    }
}

/// struct nfgenmsg: no family, version 0, the queue.
fn header(batch: &mut Batch, number: u16) {
    let [high, low] = number.to_be_bytes();
    batch.raw(&[0, 0, high, low]);
}

/// The numbers of the packets that messages tell of; whatever else they say is not for us.
fn packets(mut rest: &[u8]) -> Vec<u32> {
    let mut found = Vec::new();
    while let Some(length) = u32_at(rest, 0).and_then(|length| usize::try_from(length).ok()) {
        let Some(message) = rest.get(..length).filter(|message| message.len() >= HEADER_BYTES) else { break };
        if u16_at(message, 4) == Some(MSG_PACKET)
            && let Some(body) = message.get(HEADER_BYTES + 4..)
            && let Some(header) = attributes(body).find_kind(PACKET_HEADER)
            && let Some(Ok(number)) = header.get(..4).map(<[u8; 4]>::try_from)
        {
            found.push(u32::from_be_bytes(number));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_told_from_other_messages_and_broken_ones() {
        let mut batch = Batch::new();
        for (kind, number) in [(MSG_PACKET, 7_u32), (2, 8), (MSG_PACKET, 9)] {
            batch.begin(kind, 0, "a message");
            batch.raw(&[7, 0, 0, 1]);
            batch.attribute(PACKET_HEADER, &[&number.to_be_bytes()[..], &[8, 0, 4]].concat());
            batch.end();
        }
        let bytes = batch.finished().unwrap_or_default().to_vec();
        assert_eq!(packets(&bytes), [7, 9]);
        for end in 0..bytes.len() {
            assert!(packets(&bytes[..end]).len() < 3);
        }
        assert_eq!(packets(&[0; 64]), Vec::<u32>::new());
    }
}
