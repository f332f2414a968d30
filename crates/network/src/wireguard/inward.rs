//! The thread from the sockets to the TUN device: receives, decrypts, checks the sender's address, writes.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Packet, Tunn, TunnResult};
use rustix::event::{PollFd, PollFlags, poll};

use super::engine::{DATAGRAM_BYTES_MAX, Engine, SPACE_BYTES};
use super::merge::Merger;
use super::peers::{Peer, Table};
use super::system;

/// What is received from a socket before it is written.
const RECEIVED_AT_ONCE: usize = 16;

/// Works until the engine ends.
pub(super) fn run(engine: &Engine) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let mut inward = Inward::new();
    while engine.wait_for_work() {
        let mut ready = vec![PollFd::new(&engine.interrupt, PollFlags::IN)];
        ready.extend(engine.held.sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)));
        if poll(&mut ready, None).is_err() {
            continue;
        }
        let mut is_ready = ready.iter().map(|one| !one.revents().is_empty());
        if is_ready.next() == Some(true) {
            continue;
        }
        let table = engine.table();
        for (socket, _) in engine.held.sockets.iter().zip(is_ready).filter(|(_, is_ready)| *is_ready) {
            for _ in 0..RECEIVED_AT_ONCE {
                // Errors here tell of what was sent before, and are gone once told.
                let Ok(Some(received)) = system::receive(socket.as_fd(), &mut buffer) else { break };
                let bytes = buffer.get(..received.length).unwrap_or_default();
                for datagram in bytes.chunks(received.segment) {
                    inward.take(engine, &table, datagram, Some(received.from));
                }
            }
        }
        inward.flush(engine);
    }
}

/// What one thread needs to take datagrams in.
pub(super) struct Inward {
    space: Vec<u8>,
    merger: Merger,
}

/// What a datagram of a session was.
enum Outcome {
    /// A packet from this address.
    Packet(IpAddr),
    /// Something that its peer alone can have sent.
    Heard,
    Unknown,
    Nothing,
}

impl Inward {
    pub(super) fn new() -> Self {
        Self { space: vec![0; SPACE_BYTES], merger: Merger::default() }
    }

    /// Takes a datagram. Where it comes from is not known of one that another process has handed on.
    pub(super) fn take(&mut self, engine: &Engine, table: &Table, datagram: &[u8], from: Option<SocketAddr>) {
        let Ok(packet) = Tunn::parse_incoming_packet(datagram) else { return };
        match packet {
            Packet::HandshakeInit(init) => {
                let Some(from) = from.filter(|from| engine.admits(datagram, *from)) else { return };
                let Some(peer) = engine.initiator(&init).and_then(|key| table.by_key(&key)) else { return };
                engine.uses(peer);
                // Answered where it came from. That the peer is there now is believed once it has used the session: this may be an old
                // datagram that somebody sends again.
                if let TunnResult::WriteToNetwork(answer) =
                    peer.state().tunnel.decapsulate(None, datagram, &mut self.space)
                {
                    engine.send(answer, None, Some(from));
                }
                if peer.endpoint().is_none() {
                    peer.is_at(from);
                }
            }
            Packet::HandshakeResponse(response) => {
                let Some(from) = from.filter(|from| engine.admits(datagram, *from)) else { return };
                let Some(peer) = table.by_session(response.receiver_idx) else { return };
                let mut state = peer.state();
                if let TunnResult::WriteToNetwork(first) = state.tunnel.decapsulate(None, datagram, &mut self.space) {
                    peer.is_at(from);
                    engine.send(first, None, Some(from));
                    engine.send_queued(&mut state, &mut self.space, Some(from));
                }
            }
            Packet::PacketCookieReply(reply) => {
                let Some(peer) = table.by_session(reply.receiver_idx) else { return };
                peer.state().tunnel.decapsulate(None, datagram, &mut self.space);
            }
            Packet::PacketData(data) => match table.by_session(data.receiver_idx) {
                Some(peer) => self.open(engine, table, peer, datagram, from),
                None => from.into_iter().for_each(|from| engine.stray(datagram, from)),
            },
        }
    }

    fn open(&mut self, engine: &Engine, table: &Table, peer: &Arc<Peer>, datagram: &[u8], from: Option<SocketAddr>) {
        let mut state = peer.state();
        let mut length = 0;
        let outcome = match state.tunnel.decapsulate(None, datagram, &mut self.space) {
            TunnResult::WriteToTunnelV4(packet, source) => {
                length = packet.len();
                Outcome::Packet(IpAddr::V4(source))
            }
            TunnResult::WriteToTunnelV6(packet, source) => {
                length = packet.len();
                Outcome::Packet(IpAddr::V6(source))
            }
            TunnResult::Done => Outcome::Heard,
            TunnResult::Err(
                WireGuardError::NoCurrentSession | WireGuardError::WrongIndex | WireGuardError::InvalidAeadTag,
            ) => Outcome::Unknown,
            _ => Outcome::Nothing,
        };
        match outcome {
            // Only what the peer may send from.
            Outcome::Packet(source) if table.ranges.find(source).is_some_and(|owner| Arc::ptr_eq(owner, peer)) => {
                self.merger.push(self.space.get(..length).unwrap_or_default());
            }
            Outcome::Packet(_) | Outcome::Heard => {}
            Outcome::Unknown => {
                drop(state);
                from.into_iter().for_each(|from| engine.stray(datagram, from));
                return;
            }
            Outcome::Nothing => return,
        }
        if let Some(from) = from.filter(|from| peer.endpoint() != Some(*from)) {
            peer.is_at(from);
        }
        // As the one that was asked: its first packet says that the session can be used.
        engine.send_queued(&mut state, &mut self.space, peer.endpoint());
        drop(state);
        engine.uses(peer);
        if self.merger.is_full() {
            self.flush(engine);
        }
    }

    /// Writes what was taken.
    pub(super) fn flush(&mut self, engine: &Engine) {
        // What the device does not take is lost, as on any wire.
        self.merger.flush(|frame| drop((&engine.held.tun).write(frame)));
    }
}
