//! Splits what a TUN device hands over at once into the packets that go over the wire, with their checksums: the kernel leaves both to
//! us, so that one read brings many packets. Pure.

use super::packet::{
    FLAG_CWR, FLAG_FIN, FLAG_PUSH, HEADER_BYTES, Header, IPV4_BYTES, IPV6_BYTES, KIND_ECN, KIND_NONE, KIND_TCP4,
    KIND_TCP6, KIND_UDP, NEEDS_CHECKSUM, TCP, TCP_BYTES, TCP_CHECKSUM, TCP_FLAGS, UDP, add, pseudo_sum, put,
    put_ipv4_checksum, put_u16, sum, u16_at, u32_at, version,
};

/// Packets that one read may become: the shortest segments that Linux makes of 64 KiB.
const PIECES_MAX: usize = 2048;
const UDP_BYTES: usize = 8;
const UDP_CHECKSUM: usize = 6;

/// Gives `emit` each packet of a frame that was read from a TUN device. False where the frame makes no sense; then nothing, or not all
/// of it, was emitted. `piece` is space to work in.
pub fn split(frame: &mut [u8], piece: &mut Vec<u8>, mut emit: impl FnMut(&[u8])) -> bool {
    let Some((head, packet)) = frame.split_first_chunk_mut::<HEADER_BYTES>() else { return false };
    let header = Header::read(head);
    if header.kind == KIND_NONE {
        if header.flags & NEEDS_CHECKSUM != 0 && !complete_checksum(packet, &header) {
            return false;
        }
        emit(packet);
        return true;
    }
    split_long(packet, &header, piece, emit).is_some()
}

/// The kernel has put the sum of the pseudo header where the checksum comes.
fn complete_checksum(packet: &mut [u8], header: &Header) -> bool {
    let (start, at) = (usize::from(header.checksum_start), usize::from(header.checksum_offset));
    let Some(covered) = packet.get_mut(start..).filter(|covered| covered.len() >= at + 2) else { return false };
    let checksum = match !sum(covered) {
        // In UDP zero stands for none.
        0 if at == UDP_CHECKSUM => 0xffff,
        checksum => checksum,
    };
    put_u16(covered, at, checksum);
    true
}

fn split_long(packet: &[u8], header: &Header, piece: &mut Vec<u8>, mut emit: impl FnMut(&[u8])) -> Option<()> {
    let ip_version = version(packet);
    let start = usize::from(header.checksum_start);
    let protocol = match (header.kind & !KIND_ECN, ip_version) {
        (KIND_TCP4, 4) | (KIND_TCP6, 6) => TCP,
        (KIND_UDP, 4 | 6) => UDP,
        _ => return None,
    };
    let (ip_bytes, checksum_at) = match ip_version {
        4 => (usize::from(packet.first()? & 0xf) * 4, if protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM }),
        _ => (IPV6_BYTES, if protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM }),
    };
    if start < ip_bytes || ip_bytes < IPV4_BYTES {
        return None;
    }
    let transport_bytes = if protocol == TCP { usize::from(packet.get(start + 12)? >> 4) * 4 } else { UDP_BYTES };
    if protocol == TCP && transport_bytes < TCP_BYTES {
        return None;
    }
    let headers_bytes = start + transport_bytes;
    let (headers, payload) = packet.split_at_checked(headers_bytes)?;
    let segment_bytes = usize::from(header.segment_bytes);
    if segment_bytes == 0 || payload.len().div_ceil(segment_bytes) > PIECES_MAX {
        return None;
    }
    let (identifier, sequence) = (u16_at(packet, 4), u32_at(packet, start + 4));
    let flags = *packet.get(start + TCP_FLAGS).unwrap_or(&0);
    let count = payload.len().div_ceil(segment_bytes);
    for (number, chunk) in payload.chunks(segment_bytes).enumerate() {
        piece.clear();
        piece.extend_from_slice(headers);
        piece.extend_from_slice(chunk);
        let length = piece.len();
        if ip_version == 4 {
            put_u16(piece, 2, u16::try_from(length).ok()?);
            put_u16(piece, 4, identifier.wrapping_add(u16::try_from(number).ok()?));
            put_ipv4_checksum(piece);
        } else {
            put_u16(piece, 4, u16::try_from(length - IPV6_BYTES).ok()?);
        }
        if protocol == TCP {
            let offset = u32::try_from(number * segment_bytes).ok()?;
            put(piece, start + 4, &sequence.wrapping_add(offset).to_be_bytes());
            let mut own = flags;
            if number + 1 < count {
                own &= !(FLAG_FIN | FLAG_PUSH);
            }
            if number > 0 {
                own &= !FLAG_CWR;
            }
            put(piece, start + TCP_FLAGS, &[own]);
        } else {
            put_u16(piece, start + 4, u16::try_from(length - start).ok()?);
        }
        put_u16(piece, start + checksum_at, 0);
        let pseudo = pseudo_sum(piece, protocol, length - start);
        let checksum = match !add([pseudo, sum(piece.get(start..)?)]) {
            0 if protocol == UDP => 0xffff,
            checksum => checksum,
        };
        put_u16(piece, start + checksum_at, checksum);
        emit(piece);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::packet::FLAG_ACK;
    use super::*;

    /// A TCP packet of either family with this much of payload.
    fn tcp(is_ipv4: bool, payload: usize, flags: u8) -> Vec<u8> {
        let start = if is_ipv4 { IPV4_BYTES } else { IPV6_BYTES };
        let mut packet = vec![0; start + TCP_BYTES];
        packet.extend((0..payload).map(|index| u8::try_from(index % 251).unwrap_or_default()));
        let length = packet.len();
        if is_ipv4 {
            packet[0] = 0x45;
            packet[6] = 0x40;
            packet[8..10].copy_from_slice(&[64, TCP]);
            packet[12..20].copy_from_slice(&[10, 42, 1, 2, 10, 42, 2, 3]);
            put_u16(&mut packet, 2, u16::try_from(length).unwrap_or_default());
            put_u16(&mut packet, 4, 0xfffe);
        } else {
            packet[0] = 0x60;
            packet[6..8].copy_from_slice(&[TCP, 64]);
            packet[8] = 0xfd;
            packet[24] = 0xfd;
            packet[39] = 9;
            put_u16(&mut packet, 4, u16::try_from(length - start).unwrap_or_default());
        }
        put(&mut packet, start, &[0x1f, 0x90, 0xa0, 0x01, 0xff, 0xff, 0xff, 0x00, 0, 0, 0, 1, 0x50, flags, 1, 0]);
        packet
    }

    fn frame(header: Header, packet: &[u8]) -> Vec<u8> {
        [&header.bytes()[..], packet].concat()
    }

    fn pieces(frame: &mut [u8]) -> Option<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        split(frame, &mut Vec::new(), |packet| all.push(packet.to_vec())).then_some(all)
    }

    fn is_right(packet: &[u8], start: usize) -> bool {
        add([pseudo_sum(packet, TCP, packet.len() - start), sum(&packet[start..])]) == 0xffff
    }

    #[test]
    fn a_long_segment_becomes_packets_that_join_again() {
        for is_ipv4 in [true, false] {
            let start = if is_ipv4 { IPV4_BYTES } else { IPV6_BYTES };
            let packet = tcp(is_ipv4, 3000, FLAG_ACK | FLAG_PUSH | FLAG_CWR);
            let header = Header {
                flags: NEEDS_CHECKSUM,
                kind: if is_ipv4 { KIND_TCP4 } else { KIND_TCP6 },
                headers_bytes: 0, // not relied upon
                segment_bytes: 1360,
                checksum_start: u16::try_from(start).unwrap_or_default(),
                checksum_offset: 16,
            };
            let all = pieces(&mut frame(header, &packet)).unwrap_or_default();
            let lengths: Vec<usize> = all.iter().map(|piece| piece.len() - start - TCP_BYTES).collect();
            assert_eq!(lengths, [1360, 1360, 280]);
            let mut payload = Vec::new();
            for (number, piece) in all.iter().enumerate() {
                assert!(is_right(piece, start), "checksum of {number}");
                let sequence = 0xffff_ff00_u32.wrapping_add(1360 * u32::try_from(number).unwrap_or_default());
                assert_eq!(u32_at(piece, start + 4), sequence);
                let flags = piece[start + TCP_FLAGS];
                assert_eq!((flags & FLAG_PUSH != 0, flags & FLAG_CWR != 0), (number == 2, number == 0));
                if is_ipv4 {
                    assert_eq!(sum(&piece[..IPV4_BYTES]), 0xffff);
                    assert_eq!(usize::from(u16_at(piece, 2)), piece.len());
                    assert_eq!(u16_at(piece, 4), 0xfffe_u16.wrapping_add(u16::try_from(number).unwrap_or_default()));
                } else {
                    assert_eq!(usize::from(u16_at(piece, 4)), piece.len() - IPV6_BYTES);
                }
                payload.extend_from_slice(&piece[start + TCP_BYTES..]);
            }
            assert_eq!(payload, packet[start + TCP_BYTES..]);
        }
    }

    #[test]
    fn a_checksum_is_completed() {
        let mut packet = tcp(true, 10, FLAG_ACK);
        let pseudo = pseudo_sum(&packet, TCP, packet.len() - IPV4_BYTES);
        put_u16(&mut packet, IPV4_BYTES + TCP_CHECKSUM, pseudo);
        let header = Header { flags: NEEDS_CHECKSUM, checksum_start: 20, checksum_offset: 16, ..Header::default() };
        let all = pieces(&mut frame(header, &packet)).unwrap_or_default();
        assert!(all.len() == 1 && is_right(&all[0], IPV4_BYTES));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let packet = tcp(true, 100, FLAG_ACK);
        let good =
            Header { kind: KIND_TCP4, segment_bytes: 50, checksum_start: 20, checksum_offset: 16, ..Header::default() };
        assert!(pieces(&mut frame(good, &packet)).is_some());
        for bad in [
            Header { segment_bytes: 0, ..good },
            Header { kind: KIND_TCP6, ..good },
            Header { kind: 9, ..good },
            Header { checksum_start: 4, ..good },
            Header { checksum_start: 125, ..good },
            Header { checksum_start: u16::MAX, ..good },
        ] {
            assert_eq!(pieces(&mut frame(bad, &packet)), None, "{bad:?}");
        }
        let needy = Header { flags: NEEDS_CHECKSUM, checksum_start: 130, checksum_offset: 16, ..Header::default() };
        assert_eq!(pieces(&mut frame(needy, &packet)), None);
        assert_eq!(pieces(&mut [0; 9]), None);
        let many = tcp(true, 60_000, FLAG_ACK);
        assert_eq!(pieces(&mut frame(Header { segment_bytes: 1, ..good }, &many)), None);
    }
}
