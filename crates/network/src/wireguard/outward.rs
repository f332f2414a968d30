//! The thread from the TUN device to the sockets: reads, finds the peer, encrypts, sends.

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::engine::{DATAGRAM_BYTES_MAX, Engine, OVERHEAD_BYTES, SPACE_BYTES, has_session};
use super::packet::{HEADER_BYTES, destination};
use super::peers::Table;
use super::segment::split;

/// Frames that are read before what they became is sent.
const FRAMES_AT_ONCE: usize = 32;
/// Datagrams that are sent at once: what all kernels take.
const SEGMENTS_MAX: usize = 64;
/// The longest bundle: what fits a datagram of IPv4.
const BUNDLE_BYTES_MAX: usize = 65_000;
const OUTBOX_BYTES: usize = 1 << 20;
/// Packets are filled up to a multiple of this, so that their length tells less.
const FILLED_TO: usize = 16;
/// But not past what the device takes: the longest packet so far, and what every device takes.
const ALWAYS_FITS_BYTES: usize = 1200;
/// Where the device was removed, its agent makes it again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Works until the engine ends.
pub(super) fn run(engine: &Engine) {
    let mut frame = vec![0; HEADER_BYTES + DATAGRAM_BYTES_MAX];
    let mut outward =
        Outward { piece: Vec::new(), filled: Vec::new(), outbox: Outbox::new(), longest: ALWAYS_FITS_BYTES };
    while engine.wait_for_work() {
        let mut ready = [PollFd::new(&engine.held.tun, PollFlags::IN), PollFd::new(&engine.interrupt, PollFlags::IN)];
        if poll(&mut ready, None).is_err() {
            continue;
        }
        if !ready[1].revents().is_empty() {
            continue;
        }
        let table = engine.table();
        for _ in 0..FRAMES_AT_ONCE {
            match (&engine.held.tun).read(&mut frame) {
                Ok(length) => outward.take(engine, &table, frame.get_mut(..length).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    std::thread::sleep(AGAIN_AFTER);
                    break;
                }
            }
        }
        outward.outbox.flush(engine);
    }
}

struct Outward {
    piece: Vec<u8>,
    filled: Vec<u8>,
    outbox: Outbox,
    /// The longest packet that came.
    longest: usize,
}

impl Outward {
    /// Encrypts what a frame holds for the peer that it goes to.
    fn take(&mut self, engine: &Engine, table: &Table, frame: &mut [u8]) {
        let Some(to) = frame.get(HEADER_BYTES..).and_then(destination) else { return };
        let Some(peer) = table.ranges.find(to).map(Arc::clone) else { return };
        let Some(endpoint) = peer.endpoint() else { return };
        engine.uses(&peer);
        let Self { piece, filled, outbox, longest } = self;
        let mut state = peer.state();
        let has_session = has_session(&state.tunnel);
        split(frame, piece, |packet| {
            *longest = packet.len().max(*longest);
            let length = packet.len().next_multiple_of(FILLED_TO).min(*longest);
            let packet = if length == packet.len() {
                packet
            } else {
                filled.clear();
                filled.extend_from_slice(packet);
                filled.resize(length, 0);
                &filled[..]
            };
            outbox.add(engine, endpoint, |space| engine.encrypt(&mut state, packet, space, has_session));
        });
    }
}

/// Datagrams that wait to be sent, those to one place together.
struct Outbox {
    bytes: Vec<u8>,
    used: usize,
    bundles: Vec<Bundle>,
}

struct Bundle {
    to: SocketAddr,
    begin: usize,
    end: usize,
    segment: usize,
    count: usize,
    is_open: bool,
}

impl Outbox {
    fn new() -> Self {
        Self { bytes: vec![0; OUTBOX_BYTES], used: 0, bundles: Vec::new() }
    }

    /// Adds the datagram that `write` writes, if it does.
    fn add(&mut self, engine: &Engine, to: SocketAddr, write: impl FnOnce(&mut [u8]) -> Option<usize>) {
        if self.bytes.len() - self.used < SPACE_BYTES + OVERHEAD_BYTES {
            self.flush(engine);
        }
        let begin = self.used;
        let Some(length) = self.bytes.get_mut(begin..).and_then(write) else { return };
        self.used += length;
        if let Some(last) = self.bundles.last_mut().filter(|last| last.takes(to, length)) {
            last.end += length;
            last.count += 1;
            last.is_open = length == last.segment && last.count < SEGMENTS_MAX;
            return;
        }
        self.bundles.push(Bundle { to, begin, end: begin + length, segment: length, count: 1, is_open: true });
    }

    fn flush(&mut self, engine: &Engine) {
        for bundle in self.bundles.drain(..) {
            let segment = u16::try_from(bundle.segment).ok().filter(|_| bundle.count > 1);
            engine.send(self.bytes.get(bundle.begin..bundle.end).unwrap_or_default(), segment, Some(bundle.to));
        }
        self.used = 0;
    }
}

impl Bundle {
    fn takes(&self, to: SocketAddr, length: usize) -> bool {
        self.is_open && self.to == to && length <= self.segment && self.end - self.begin + length <= BUNDLE_BYTES_MAX
    }
}
