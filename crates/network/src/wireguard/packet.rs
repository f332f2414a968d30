//! Packets as a TUN device has them: the header before each (struct virtio_net_hdr), addresses, checksums. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How long the header before a packet is.
pub(super) const HEADER_BYTES: usize = 10;
/// Flags and kinds of the header.
pub(super) const NEEDS_CHECKSUM: u8 = 1;
pub(super) const KIND_NONE: u8 = 0;
pub(super) const KIND_TCP4: u8 = 1;
pub(super) const KIND_TCP6: u8 = 4;
pub(super) const KIND_UDP: u8 = 5;
/// A flag beside the kind: TCP with ECN.
pub(super) const KIND_ECN: u8 = 0x80;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const IPV4_BYTES: usize = 20;
pub(super) const IPV6_BYTES: usize = 40;
pub(super) const TCP_BYTES: usize = 20;
/// Where the checksum lies in a TCP header.
pub(super) const TCP_CHECKSUM: usize = 16;
pub(super) const TCP_FLAGS: usize = 13;
pub(super) const FLAG_FIN: u8 = 0x01;
pub(super) const FLAG_PUSH: u8 = 0x08;
pub(super) const FLAG_ACK: u8 = 0x10;
pub(super) const FLAG_CWR: u8 = 0x80;

/// What a TUN device says before a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) flags: u8,
    pub(super) kind: u8,
    pub(super) headers_bytes: u16,
    pub(super) segment_bytes: u16,
    pub(super) checksum_start: u16,
    pub(super) checksum_offset: u16,
}

impl Header {
    pub(super) fn read(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [flags, kind, rest @ ..] = bytes;
        let number = |index: usize| {
            let at = |index: usize| rest.get(index).copied().unwrap_or_default();
            u16::from_ne_bytes([at(index), at(index + 1)])
        };
        Self {
            flags: *flags,
            kind: *kind,
            headers_bytes: number(0),
            segment_bytes: number(2),
            checksum_start: number(4),
            checksum_offset: number(6),
        }
    }

    pub(super) fn bytes(self) -> [u8; HEADER_BYTES] {
        let [a, b] = self.headers_bytes.to_ne_bytes();
        let [c, d] = self.segment_bytes.to_ne_bytes();
        let [e, f] = self.checksum_start.to_ne_bytes();
        let [g, h] = self.checksum_offset.to_ne_bytes();
        [self.flags, self.kind, a, b, c, d, e, f, g, h]
    }
}

/// The number at a place of a packet; 0 past its end.
pub(super) fn u16_at(packet: &[u8], at: usize) -> u16 {
    packet.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_be_bytes)
}

pub(super) fn u32_at(packet: &[u8], at: usize) -> u32 {
    packet.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// Writes a number at a place of a packet; nothing past its end.
pub(super) fn put(packet: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = packet.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

pub(super) fn put_u16(packet: &mut [u8], at: usize, number: u16) {
    put(packet, at, &number.to_be_bytes());
}

/// IP version 4 or 6; else 0.
pub(super) fn version(packet: &[u8]) -> u8 {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= IPV4_BYTES => 4,
        Some(6) if packet.len() >= IPV6_BYTES => 6,
        _ => 0,
    }
}

/// Where a packet goes.
pub(super) fn destination(packet: &[u8]) -> Option<IpAddr> {
    match version(packet) {
        4 => Some(IpAddr::V4(Ipv4Addr::from_bits(u32_at(packet, 16)))),
        6 => packet.get(24..40)?.try_into().ok().map(|bytes: [u8; 16]| IpAddr::V6(Ipv6Addr::from(bytes))),
        _ => None,
    }
}

/// The sum of the Internet checksum (RFC 1071) over bytes, not inverted.
pub(super) fn sum(bytes: &[u8]) -> u16 {
    // The order of bytes does not matter until the end.
    let chunks = bytes.chunks_exact(4);
    let mut last = [0; 4];
    let rest = chunks.remainder();
    put(&mut last, 0, rest);
    let words = chunks.filter_map(|chunk| chunk.try_into().ok()).map(u32::from_ne_bytes);
    let total = words.map(u64::from).sum::<u64>() + u64::from(u32::from_ne_bytes(last));
    u16::from_be(fold(total))
}

fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).unwrap_or(u16::MAX)
}

/// Adds sums.
pub(super) fn add(sums: impl IntoIterator<Item = u16>) -> u16 {
    fold(sums.into_iter().map(u64::from).sum())
}

/// The sum over the addresses, the protocol and the length of what follows the IP header.
pub(super) fn pseudo_sum(packet: &[u8], protocol: u8, length: usize) -> u16 {
    let addresses = if version(packet) == 4 { packet.get(12..20) } else { packet.get(8..40) };
    let length = u32::try_from(length).unwrap_or_default();
    add([
        sum(addresses.unwrap_or_default()),
        u16::from(protocol),
        u16::try_from(length & 0xffff).unwrap_or_default(),
        u16::try_from(length >> 16).unwrap_or_default(),
    ])
}

/// Writes the checksum of an IPv4 header.
pub(super) fn put_ipv4_checksum(packet: &mut [u8]) {
    let length = packet.first().map_or(0, |byte| usize::from(byte & 0xf) * 4);
    put_u16(packet, 10, 0);
    let checksum = !sum(packet.get(..length).unwrap_or_default());
    put_u16(packet, 10, checksum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_rfc_1071() {
        // Its own example, section 3.
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(sum(&[]), 0);
        assert_eq!(sum(&[0x12]), 0x1200, "an odd byte is the first of its word");
        assert_eq!(add([0xffff, 1]), 1);
        let long: Vec<u8> = (0..1001_u32).map(|number| u8::try_from(number % 251).unwrap_or_default()).collect();
        let slow = long.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |byte| u32::from(*byte)));
        let mut slow: u32 = slow.sum();
        while slow > 0xffff {
            slow = (slow & 0xffff) + (slow >> 16);
        }
        assert_eq!(u32::from(sum(&long)), slow);
    }

    #[test]
    fn headers_come_back() {
        let header = Header {
            flags: 1,
            kind: 4,
            headers_bytes: 60,
            segment_bytes: 1360,
            checksum_start: 40,
            checksum_offset: 16,
        };
        assert_eq!(Header::read(&header.bytes()), header);
        assert_eq!(Header::default().bytes(), [0; HEADER_BYTES]);
    }
}
