//! Joins TCP packets of one connection that came together into one long one for the TUN device: the kernel then handles them once.
//! Pure.

use super::packet::{
    FLAG_ACK, FLAG_PUSH, HEADER_BYTES, Header, IPV4_BYTES, IPV6_BYTES, KIND_TCP4, KIND_TCP6, NEEDS_CHECKSUM, TCP,
    TCP_BYTES, TCP_CHECKSUM, TCP_FLAGS, add, pseudo_sum, put, put_ipv4_checksum, put_u16, sum, u16_at, u32_at, version,
};

/// The longest packet.
const PACKET_BYTES_MAX: usize = 65_535;
/// Among so many of the last ones a packet's connection is looked for.
const LOOKED_AT: usize = 8;
/// After so many the others are to be written first.
const WAITING_MAX: usize = 64;

/// Packets that wait to be written, in their order.
#[derive(Debug, Default)]
pub struct Merger {
    waiting: Vec<Waiting>,
    spare: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Waiting {
    /// Space for the header of the TUN device, then the packet.
    bytes: Vec<u8>,
    /// How it goes on; None for what nothing can be added to.
    open: Option<Open>,
    count: usize,
    shape: Shape,
}

/// Where the parts of a TCP packet are.
#[derive(Clone, Copy, Debug, Default)]
struct Shape {
    start: usize,
    headers_bytes: usize,
    payload_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    segment_bytes: usize,
    next_sequence: u32,
}

impl Merger {
    /// Takes a packet.
    pub fn push(&mut self, packet: &[u8]) {
        let tcp = parse(packet);
        if let Some((shape, is_mergeable)) = &tcp
            && let Some(last) = self.same_connection(packet, shape)
        {
            if *is_mergeable && last.take(packet, shape) {
                return;
            }
            // What comes later stays behind this one.
            last.open = None;
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(&[0; HEADER_BYTES]);
        bytes.extend_from_slice(packet);
        let open = tcp.filter(|(_, is_mergeable)| *is_mergeable).map(|(shape, _)| Open {
            segment_bytes: shape.payload_bytes,
            next_sequence: sequence_after(packet, &shape),
        });
        // One that says "hand it over now" ends what it is part of.
        let open = open.filter(|_| !is_pushed(packet, tcp.map_or(0, |(shape, _)| shape.start)));
        let shape = tcp.map(|(shape, _)| shape).unwrap_or_default();
        self.waiting.push(Waiting { bytes, open, count: 1, shape });
    }

    /// Whether the others are to be written before more is taken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    /// Gives `write` all of them, each with the header that a TUN device wants.
    pub fn flush(&mut self, mut write: impl FnMut(&[u8])) {
        for mut waiting in self.waiting.drain(..) {
            if waiting.count > 1 {
                waiting.finish();
            }
            write(&waiting.bytes);
            if self.spare.len() < WAITING_MAX {
                self.spare.push(waiting.bytes);
            }
        }
    }

    fn same_connection(&mut self, packet: &[u8], shape: &Shape) -> Option<&mut Waiting> {
        let last = self.waiting.iter_mut().rev().take(LOOKED_AT);
        last.filter(|waiting| waiting.shape.headers_bytes > 0).find(|waiting| {
            let theirs = waiting.bytes.get(HEADER_BYTES..).unwrap_or_default();
            addresses(theirs) == addresses(packet)
                && theirs.get(waiting.shape.start..waiting.shape.start + 4) == packet.get(shape.start..shape.start + 4)
        })
    }
}

impl Waiting {
    /// Adds a packet where it goes on from what is there and says the same otherwise.
    fn take(&mut self, packet: &[u8], shape: &Shape) -> bool {
        let Some(open) = self.open else { return false };
        let theirs = self.bytes.get(HEADER_BYTES..).unwrap_or_default();
        let fits = shape.start == self.shape.start
            && shape.headers_bytes == self.shape.headers_bytes
            && shape.payload_bytes <= open.segment_bytes
            && theirs.len() + shape.payload_bytes <= PACKET_BYTES_MAX
            && u32_at(packet, shape.start + 4) == open.next_sequence
            && is_alike(theirs, packet, shape);
        if !fits {
            return false;
        }
        self.bytes.extend_from_slice(packet.get(shape.headers_bytes..).unwrap_or_default());
        self.count += 1;
        let is_pushed = is_pushed(packet, shape.start);
        if is_pushed {
            let at = HEADER_BYTES + shape.start + TCP_FLAGS;
            let flags = self.bytes.get(at).copied().unwrap_or_default() | FLAG_PUSH;
            put(&mut self.bytes, at, &[flags]);
        }
        let is_last = is_pushed || shape.payload_bytes < open.segment_bytes;
        self.open = (!is_last).then_some(Open { next_sequence: sequence_after(packet, shape), ..open });
        true
    }

    /// Makes one packet of several.
    fn finish(&mut self) {
        let Shape { start, headers_bytes, payload_bytes } = self.shape;
        let Some((head, packet)) = self.bytes.split_first_chunk_mut::<HEADER_BYTES>() else { return };
        let length = packet.len();
        let is_ipv4 = version(packet) == 4;
        if is_ipv4 {
            put_u16(packet, 2, u16::try_from(length).unwrap_or(u16::MAX));
            put_ipv4_checksum(packet);
        } else {
            put_u16(packet, 4, u16::try_from(length - IPV6_BYTES).unwrap_or(u16::MAX));
        }
        // The kernel adds the rest where it is needed.
        let pseudo = pseudo_sum(packet, TCP, length - start);
        put_u16(packet, start + TCP_CHECKSUM, pseudo);
        let number = |value: usize| u16::try_from(value).unwrap_or_default();
        let header = Header {
            flags: NEEDS_CHECKSUM,
            kind: if is_ipv4 { KIND_TCP4 } else { KIND_TCP6 },
            headers_bytes: number(headers_bytes),
            segment_bytes: number(payload_bytes),
            checksum_start: number(start),
            checksum_offset: number(TCP_CHECKSUM),
        };
        *head = header.bytes();
    }
}

fn addresses(packet: &[u8]) -> Option<&[u8]> {
    match version(packet) {
        4 => packet.get(12..20),
        6 => packet.get(8..40),
        _ => None,
    }
}

fn is_pushed(packet: &[u8], start: usize) -> bool {
    packet.get(start + TCP_FLAGS).is_some_and(|flags| flags & FLAG_PUSH != 0)
}

fn sequence_after(packet: &[u8], shape: &Shape) -> u32 {
    u32_at(packet, shape.start + 4).wrapping_add(u32::try_from(shape.payload_bytes).unwrap_or_default())
}

/// Whether two packets of a connection differ in nothing but what follows from their places in it.
fn is_alike(one: &[u8], other: &[u8], shape: &Shape) -> bool {
    let same = |from: usize, to: usize| one.get(from..to) == other.get(from..to);
    let network = if shape.start == IPV4_BYTES { same(0, 2) && same(6, 10) } else { same(0, 4) && same(6, 8) };
    let at = shape.start;
    let flags = |packet: &[u8]| packet.get(at + TCP_FLAGS).map(|flags| flags & !FLAG_PUSH);
    network
        && same(at + 8, at + TCP_FLAGS)
        && flags(one) == flags(other)
        && same(at + 14, at + TCP_CHECKSUM)
        && same(at + 18, shape.headers_bytes)
}

/// The shape of a TCP packet, and whether others may be joined with it: data, nothing special, and a right checksum, which is lost with it.
fn parse(packet: &[u8]) -> Option<(Shape, bool)> {
    let (start, length, is_whole) = match version(packet) {
        4 if packet.first() == Some(&0x45) && packet.get(9) == Some(&TCP) => {
            (IPV4_BYTES, usize::from(u16_at(packet, 2)), u16_at(packet, 6) & 0x3fff == 0)
        }
        6 if packet.get(6) == Some(&TCP) => (IPV6_BYTES, usize::from(u16_at(packet, 4)) + IPV6_BYTES, true),
        _ => return None,
    };
    let transport_bytes = usize::from(packet.get(start + 12)? >> 4) * 4;
    let headers_bytes = start + transport_bytes;
    if !is_whole || length != packet.len() || transport_bytes < TCP_BYTES || headers_bytes > length {
        return None;
    }
    let shape = Shape { start, headers_bytes, payload_bytes: length - headers_bytes };
    let flags = packet.get(start + TCP_FLAGS).copied().unwrap_or_default();
    let is_data = shape.payload_bytes > 0 && flags & !FLAG_PUSH == FLAG_ACK;
    let is_right = || {
        let covered = packet.get(start..).unwrap_or_default();
        add([pseudo_sum(packet, TCP, covered.len()), sum(covered)]) == 0xffff
            && (start == IPV6_BYTES || sum(packet.get(..IPV4_BYTES).unwrap_or_default()) == 0xffff)
    };
    Some((shape, is_data && is_right()))
}

#[cfg(test)]
mod tests {
    use super::super::segment::split;
    use super::*;

    struct Of {
        is_ipv4: bool,
        port: u16,
        sequence: u32,
        flags: u8,
        payload: usize,
    }

    const PLAIN: Of = Of { is_ipv4: true, port: 8080, sequence: 1000, flags: FLAG_ACK, payload: 100 };

    fn packet(of: &Of) -> Vec<u8> {
        let start = if of.is_ipv4 { IPV4_BYTES } else { IPV6_BYTES };
        let mut packet = vec![0; start + TCP_BYTES];
        packet.extend((0..of.payload).map(|index| u8::try_from(index % 251).unwrap_or_default()));
        let length = packet.len();
        if of.is_ipv4 {
            packet[0] = 0x45;
            packet[8..10].copy_from_slice(&[64, TCP]);
            packet[12..20].copy_from_slice(&[10, 42, 1, 2, 10, 42, 2, 3]);
            put_u16(&mut packet, 2, u16::try_from(length).unwrap_or_default());
            put_ipv4_checksum(&mut packet);
        } else {
            packet[0] = 0x60;
            packet[6..8].copy_from_slice(&[TCP, 64]);
            packet[39] = 9;
            put_u16(&mut packet, 4, u16::try_from(length - start).unwrap_or_default());
        }
        put_u16(&mut packet, start, of.port);
        put(&mut packet, start + 4, &of.sequence.to_be_bytes());
        put(&mut packet, start + 12, &[0x50, of.flags, 1, 0]);
        let checksum = !add([pseudo_sum(&packet, TCP, length - start), sum(&packet[start..])]);
        put_u16(&mut packet, start + TCP_CHECKSUM, checksum);
        packet
    }

    fn merged(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut merger = Merger::default();
        packets.iter().for_each(|packet| merger.push(packet));
        let mut all = Vec::new();
        merger.flush(|frame| all.push(frame.to_vec()));
        all
    }

    /// What comes out of the frames when they are split again.
    fn split_again(mut frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for frame in &mut frames {
            assert!(split(frame, &mut Vec::new(), |packet| all.push(packet.to_vec())));
        }
        all
    }

    /// Packets without their identifiers, which are nobody's matter where a packet is whole.
    fn plain(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut all = packets.to_vec();
        for packet in all.iter_mut().filter(|packet| version(packet) == 4) {
            put_u16(packet, 4, 0);
            put_ipv4_checksum(packet);
        }
        all
    }

    #[test]
    fn what_belongs_together_becomes_one_and_comes_apart_again() {
        for is_ipv4 in [true, false] {
            let at = |sequence, payload, flags| packet(&Of { is_ipv4, sequence, payload, flags, ..PLAIN });
            let packets = [
                at(1000, 100, FLAG_ACK),
                at(1100, 100, FLAG_ACK),
                at(1200, 30, FLAG_ACK | FLAG_PUSH),
                at(1230, 100, FLAG_ACK),
            ];
            let frames = merged(&packets);
            assert_eq!(frames.len(), 2);
            assert_eq!(plain(&split_again(frames)), plain(&packets));
        }
    }

    #[test]
    fn what_differs_stays_apart_and_in_order() {
        let next = |change: fn(&mut Of)| {
            let mut of = Of { sequence: 1100, ..PLAIN };
            change(&mut of);
            packet(&of)
        };
        let first = packet(&PLAIN);
        let mut wrong = next(|_| {});
        wrong[50] ^= 1;
        let mut other_window = next(|_| {});
        other_window[35] = 7;
        for (second, wanted) in [
            (next(|_| {}), 1),
            (next(|of| of.sequence = 1101), 2),
            (next(|of| of.payload = 101), 2),
            (next(|of| of.payload = 0), 2),
            (next(|of| of.flags = FLAG_ACK | 1), 2),
            (next(|of| of.port = 8081), 2),
            (next(|of| of.is_ipv4 = false), 2),
            (wrong, 2),
            (other_window, 2),
        ] {
            let packets = [first.clone(), second];
            let frames = merged(&packets);
            assert_eq!(frames.len(), wanted, "{packets:?}");
            assert_eq!(plain(&split_again(frames)), plain(&packets));
        }
        // An acknowledgement in between, and another connection.
        let packets = [
            first.clone(),
            packet(&Of { port: 9, ..PLAIN }),
            next(|of| of.payload = 0),
            next(|_| {}),
            packet(&Of { port: 9, sequence: 1100, ..PLAIN }),
        ];
        let frames = merged(&packets);
        assert_eq!(frames.len(), 4);
        for odd in [&[][..], &[0x45], &[0x60; 39], &[1; 60]] {
            assert_eq!(merged(&[odd.to_vec()]), [[&[0; HEADER_BYTES][..], odd].concat()]);
        }
    }

    #[test]
    fn nothing_grows_past_a_packet() {
        let packets: Vec<Vec<u8>> =
            (0..80).map(|number| packet(&Of { sequence: 1000 + 1400 * number, payload: 1400, ..PLAIN })).collect();
        let frames = merged(&packets);
        assert_eq!(frames.len(), 2);
        assert!(frames.iter().all(|frame| frame.len() <= PACKET_BYTES_MAX + HEADER_BYTES));
        assert_eq!(plain(&split_again(frames)), plain(&packets));
    }
}
