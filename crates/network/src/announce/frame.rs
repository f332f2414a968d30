//! ARP (RFC 826, RFC 5227) and neighbour discovery (RFC 4861) on Ethernet, as far as announcing addresses needs them. Pure.
//!
//! Frames of ours carry a mark, so that nodes of one cluster know each other: in ARP behind the message, where Ethernet pads
//! anyway, and in neighbour discovery as an option of an experimental number (RFC 4727). Others ignore it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netlink::LinkAddress;

/// Ethernet's number of ARP.
pub(super) const ETHERNET_ARP: u16 = 0x0806;
/// Ethernet's number of IPv6.
pub(super) const ETHERNET_IPV6: u16 = 0x86dd;

const BROADCAST: LinkAddress = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ETHERNET_BYTES: usize = 14;
const ARP_BYTES: usize = 28;
const IPV6_BYTES: usize = 40;
/// What Ethernet's shortest frame holds without its checksum.
const FRAME_BYTES_MIN: usize = 60;
/// Ethernet and IPv4 addresses of six and four bytes.
const ARP_HEADER: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;
const OPTION_MARK: u8 = 253;
const FLAG_SOLICITED: u8 = 0x40;
const FLAG_OVERRIDE: u8 = 0x20;
/// The mark's name and version.
const MAGIC: [u8; 4] = *b"kly\x01";
const MARK_BYTES: usize = 18;
/// Options of one message that are looked at.
const OPTIONS_MAX: usize = 16;

/// Says that a frame is a Klynge node's, of which cluster and decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// A number of the cluster, 48 bits.
    pub cluster: u64,
    /// The decision by which the node speaks; later ones are larger.
    pub decision: u64,
}

/// Somebody asks who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The address.
    pub target: IpAddr,
    /// Who asks; none where somebody wants to take the address unless it is somebody's.
    pub asker: Option<IpAddr>,
    /// Where the answer goes.
    pub asker_link: LinkAddress,
}

/// Somebody says that it has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub address: IpAddr,
    /// Where it is.
    pub link: LinkAddress,
}

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Who sent the frame.
    pub from: LinkAddress,
    /// What it asks.
    pub question: Option<Question>,
    /// What it says.
    pub claim: Option<Claim>,
    /// Whose node it is.
    pub mark: Option<Mark>,
}

impl Mark {
    fn bytes(self) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
        let cluster = self.cluster.to_be_bytes();
        for (to, from) in bytes.iter_mut().zip(MAGIC.iter().chain(&cluster[2..]).chain(&self.decision.to_be_bytes())) {
            *to = *from;
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let rest = bytes.strip_prefix(&MAGIC)?;
        Some(Self { cluster: number(rest.get(..6)?), decision: number(rest.get(6..14)?) })
    }
}

/// Reads a frame that begins with its Ethernet header. None for what is neither, damaged, or came from afar.
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Heard> {
    let from = link(frame.get(6..12)?)?;
    // A group cannot send.
    if from[0] & 1 != 0 {
        return None;
    }
    let kind = u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?);
    let payload = frame.get(ETHERNET_BYTES..)?;
    match kind {
        ETHERNET_ARP => parse_arp(from, payload),
        ETHERNET_IPV6 => parse_ipv6(from, payload),
        _ => None,
    }
}

fn link(bytes: &[u8]) -> Option<LinkAddress> {
    bytes.try_into().ok()
}

fn parse_arp(from: LinkAddress, message: &[u8]) -> Option<Heard> {
    if message.get(..6)? != ARP_HEADER {
        return None;
    }
    let operation = u16::from_be_bytes(message.get(6..8)?.try_into().ok()?);
    let four = |at: usize| -> Option<Ipv4Addr> {
        let bytes: [u8; 4] = message.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(bytes))
    };
    let (sender_link, sender, target) = (link(message.get(8..14)?)?, four(14)?, four(24)?);
    let claim = (!sender.is_unspecified()).then_some(Claim { address: sender.into(), link: sender_link });
    let question = (operation == ARP_REQUEST && sender != target).then(|| Question {
        target: target.into(),
        asker: (!sender.is_unspecified()).then_some(sender.into()),
        asker_link: sender_link,
    });
    let mark = message.get(ARP_BYTES..).and_then(Mark::read);
    let says_something = question.is_some() || claim.is_some();
    (says_something && matches!(operation, ARP_REQUEST | ARP_REPLY)).then_some(Heard { from, question, claim, mark })
}

fn parse_ipv6(from: LinkAddress, packet: &[u8]) -> Option<Heard> {
    let header = packet.get(..IPV6_BYTES)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let message = packet.get(IPV6_BYTES..IPV6_BYTES.checked_add(length)?)?;
    let six = |bytes: &[u8]| -> Option<Ipv6Addr> {
        let bytes: [u8; 16] = bytes.try_into().ok()?;
        Some(Ipv6Addr::from(bytes))
    };
    let (source, destination) = (six(&header[8..24])?, six(&header[24..40])?);
    // A hop limit of 255 says that no router passed it on.
    let is_local = header[0] >> 4 == 6 && header[6] == ICMPV6 && header[7] == 255;
    if !is_local || message.len() < 24 || message[1] != 0 || checksum(source, destination, message) != 0 {
        return None;
    }
    let target = six(&message[8..24])?;
    if target.is_multicast() {
        return None;
    }
    let (mut named, mut mark) = (None, None);
    let wanted = if message[0] == SOLICITATION { OPTION_SOURCE } else { OPTION_TARGET };
    let mut options = &message[24..];
    for _ in 0..OPTIONS_MAX {
        let [kind, units, ..] = *options else { break };
        let length = usize::from(units) * 8;
        if length == 0 || length > options.len() {
            return None;
        }
        match kind {
            OPTION_MARK => mark = Mark::read(&options[2..length]),
            kind if kind == wanted => named = link(&options[2..8]),
            _ => {}
        }
        options = &options[length..];
    }
    let at = named.unwrap_or(from);
    let (question, claim) = match message[0] {
        SOLICITATION => {
            let asker = (!source.is_unspecified()).then_some(IpAddr::V6(source));
            (Some(Question { target: target.into(), asker, asker_link: at }), None)
        }
        ADVERTISEMENT => (None, Some(Claim { address: target.into(), link: at })),
        _ => return None,
    };
    Some(Heard { from, question, claim, mark })
}

/// The checksum of an ICMPv6 message; 0 for one that carries its right checksum.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut sum = u32::from(ICMPV6) + (length >> 16) + (length & 0xffff);
    for word in source.segments().into_iter().chain(destination.segments()) {
        sum += u32::from(word);
    }
    for pair in message.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// Asks whether anybody has an address, without saying that we might (RFC 5227, RFC 4862).
pub(super) fn probe(own: LinkAddress, address: IpAddr, mark: Mark) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => {
            let ends = (own, Ipv4Addr::UNSPECIFIED, [0; 6], address);
            arp(own, BROADCAST, ARP_REQUEST, ends, mark)
        }
        IpAddr::V6(address) => {
            let group = solicited_node(address);
            let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
            message.extend(address.octets());
            ndp(own, (group_link(group), group), Ipv6Addr::UNSPECIFIED, message, mark)
        }
    }
}

/// Tells all neighbours that an address is here; ARP in both of its forms, since hosts differ in which they heed.
pub(super) fn announcement(own: LinkAddress, address: IpAddr, mark: Mark) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(address) => {
            let one = |operation| arp(own, BROADCAST, operation, (own, address, own, address), mark);
            vec![one(ARP_REQUEST), one(ARP_REPLY)]
        }
        IpAddr::V6(address) => {
            vec![advertisement(own, (group_link(ALL_NODES), ALL_NODES), address, FLAG_OVERRIDE, mark)]
        }
    }
}

/// Answers a question. None where asker and address are of different families.
pub(super) fn answer(own: LinkAddress, question: &Question, mark: Mark) -> Option<Vec<u8>> {
    let to = question.asker_link;
    match (question.target, question.asker) {
        (IpAddr::V4(target), None) => Some(arp(own, to, ARP_REPLY, (own, target, to, Ipv4Addr::UNSPECIFIED), mark)),
        (IpAddr::V4(target), Some(IpAddr::V4(asker))) => Some(arp(own, to, ARP_REPLY, (own, target, to, asker), mark)),
        (IpAddr::V6(target), None) => {
            Some(advertisement(own, (group_link(ALL_NODES), ALL_NODES), target, FLAG_OVERRIDE, mark))
        }
        (IpAddr::V6(target), Some(IpAddr::V6(asker))) => {
            Some(advertisement(own, (to, asker), target, FLAG_OVERRIDE | FLAG_SOLICITED, mark))
        }
        _ => None,
    }
}

/// The group that questions for an address are sent to.
pub(super) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | high & 0xff, low)
}

fn group_link(group: Ipv6Addr) -> LinkAddress {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

fn ethernet(to: LinkAddress, own: LinkAddress, kind: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(128);
    frame.extend(to);
    frame.extend(own);
    frame.extend(kind.to_be_bytes());
    frame
}

type ArpEnds = (LinkAddress, Ipv4Addr, LinkAddress, Ipv4Addr);

fn arp(own: LinkAddress, to: LinkAddress, operation: u16, ends: ArpEnds, mark: Mark) -> Vec<u8> {
    let mut frame = ethernet(to, own, ETHERNET_ARP);
    frame.extend(ARP_HEADER);
    frame.extend(operation.to_be_bytes());
    frame.extend(ends.0);
    frame.extend(ends.1.octets());
    frame.extend(ends.2);
    frame.extend(ends.3.octets());
    frame.extend(mark.bytes());
    frame.resize(frame.len().max(FRAME_BYTES_MIN), 0);
    frame
}

fn advertisement(own: LinkAddress, to: (LinkAddress, Ipv6Addr), target: Ipv6Addr, flags: u8, mark: Mark) -> Vec<u8> {
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    message.extend([OPTION_TARGET, 1]);
    message.extend(own);
    ndp(own, to, target, message, mark)
}

fn ndp(own: LinkAddress, to: (LinkAddress, Ipv6Addr), source: Ipv6Addr, mut message: Vec<u8>, mark: Mark) -> Vec<u8> {
    message.extend([OPTION_MARK, 3]);
    message.extend(mark.bytes());
    message.extend([0; 4]);
    let sum = checksum(source, to.1, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet(to.0, own, ETHERNET_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(u16::try_from(message.len()).unwrap_or(0).to_be_bytes());
    frame.extend([ICMPV6, 255]);
    frame.extend(source.octets());
    frame.extend(to.1.octets());
    frame.extend(message);
    frame
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const OWN: LinkAddress = [2, 0, 0, 0, 0, 1];
    const ASKER: LinkAddress = [2, 0, 0, 0, 0, 9];
    const MARK: Mark = Mark { cluster: 0x0123_4567_89ab, decision: 1_764_350_000_123 };

    #[test]
    fn what_is_written_is_read() {
        for (address, asker) in [("192.0.2.240", "192.0.2.9"), ("2001:db8::f0", "fe80::9")] {
            let address: IpAddr = address.parse().unwrap();
            let probe = parse(&probe(OWN, address, MARK)).unwrap();
            assert_eq!(probe.question, Some(Question { target: address, asker: None, asker_link: OWN }));
            assert_eq!((probe.from, probe.claim, probe.mark), (OWN, None, Some(MARK)));
            for frame in announcement(OWN, address, MARK) {
                assert!(frame.len() >= FRAME_BYTES_MIN);
                let heard = parse(&frame).unwrap();
                assert_eq!((heard.question, heard.claim), (None, Some(Claim { address, link: OWN })));
                assert_eq!(heard.mark, Some(MARK));
            }
            for asker in [None, Some(asker.parse().unwrap())] {
                let question = Question { target: address, asker, asker_link: ASKER };
                let frame = answer(OWN, &question, MARK).unwrap();
                assert_eq!(parse(&frame).unwrap().claim, Some(Claim { address, link: OWN }));
                assert!(asker.is_none() || frame[..6] == ASKER);
            }
        }
        let mixed =
            Question { target: "192.0.2.1".parse().unwrap(), asker: Some("::1".parse().unwrap()), asker_link: ASKER };
        assert_eq!(answer(OWN, &mixed, MARK), None);
    }

    #[test]
    fn frames_of_others_are_read() {
        // A request as Linux sends it: 192.0.2.9 asks for 192.0.2.240.
        let mut frame = vec![0xff; 6];
        frame.extend(ASKER);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(ASKER);
        frame.extend([192, 0, 2, 9, 0, 0, 0, 0, 0, 0, 192, 0, 2, 240]);
        let heard = parse(&frame).unwrap();
        let asker: IpAddr = "192.0.2.9".parse().unwrap();
        let question = Question { target: "192.0.2.240".parse().unwrap(), asker: Some(asker), asker_link: ASKER };
        assert_eq!(heard.question, Some(question));
        assert_eq!(heard.claim.unwrap().address, asker);
        assert_eq!(heard.mark, None);
    }

    proptest::proptest! {
        #[test]
        fn options_of_all_sorts_are_read_or_passed_over(kind in 134..138_u8, rest: Vec<u8>) {
            let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
            message.extend(Ipv6Addr::LOCALHOST.octets());
            message.extend(rest);
            let heard = parse(&ndp(OWN, (ASKER, ALL_NODES), Ipv6Addr::UNSPECIFIED, message, MARK));
            assert!(heard.is_none_or(|heard| heard.question.is_some() || heard.claim.is_some()));
        }

        #[test]
        fn anything_is_read_or_passed_over(kind in 0..3_usize, rest: Vec<u8>) {
            let starts = [
                &[0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0][..],
                &[0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255],
                &[],
            ];
            let frame = [starts[kind], &rest].concat();
            if let Some(heard) = parse(&frame) {
                assert!(heard.question.is_some() || heard.claim.is_some());
            }
        }
    }

    #[test]
    fn damaged_frames_say_nothing() {
        let frames = [
            probe(OWN, "192.0.2.240".parse().unwrap(), MARK),
            announcement(OWN, "2001:db8::f0".parse().unwrap(), MARK).remove(0),
        ];
        for frame in frames {
            for length in 0..42 {
                assert_eq!(parse(&frame[..length.min(frame.len())]), None, "{length}");
            }
            for position in 0..frame.len() {
                let mut damaged = frame.clone();
                damaged[position] ^= 0xff;
                let _ = parse(&damaged); // must not panic
            }
        }
        let six = announcement(OWN, "2001:db8::f0".parse().unwrap(), MARK).remove(0);
        let spoil = |position: usize, value: u8| {
            let mut frame = six.clone();
            frame[position] = value;
            parse(&frame)
        };
        assert!(spoil(21, 254).is_none(), "came over a router");
        assert!(spoil(56, 1).is_none(), "checksum");
        assert!(spoil(6, 3).is_none(), "a group as sender");
    }
}
