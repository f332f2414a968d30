//! Sets of addresses and ports as disjoint, sorted ranges, which is how the kernel wants them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Prefix;
use crate::services::TransportProtocol;

/// Disjoint ranges of addresses with both ends included, sorted, and not adjacent.
pub(crate) type Ranges = Vec<(IpAddr, IpAddr)>;

/// Disjoint ranges of ports with both ends included, by protocol.
pub(crate) type PortRanges = Vec<(TransportProtocol, u16, u16)>;

const fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits() as u128,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(is_v4: bool, bits: u128) -> IpAddr {
    match u32::try_from(bits) {
        Ok(bits) if is_v4 => IpAddr::V4(Ipv4Addr::from_bits(bits)),
        _ => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

/// Sorts ranges, and joins those that overlap or touch.
fn join(mut ranges: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    ranges.sort_unstable();
    let mut joined: Vec<(u128, u128)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// A range without some parts of it.
fn without(range: (u128, u128), parts: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    let mut left = Vec::new();
    let mut from = Some(range.0);
    for (first, last) in join(parts) {
        let Some(start) = from else { break };
        if last < start || first > range.1 {
            continue;
        }
        if first > start {
            left.push((start, first - 1));
        }
        from = last.checked_add(1);
    }
    if let Some(start) = from.filter(|start| *start <= range.1) {
        left.push((start, range.1));
    }
    left
}

/// The addresses of all blocks, each without its exceptions.
pub(crate) fn blocks<'a>(all: impl IntoIterator<Item = (&'a Prefix, &'a [Prefix])>) -> Ranges {
    let ends = |prefix: &Prefix| (bits(prefix.network()), bits(prefix.last()));
    let mut of_family = [Vec::new(), Vec::new()];
    for (range, except) in all {
        let is_v4 = range.network().is_ipv4();
        let parts = except.iter().filter(|part| part.network().is_ipv4() == is_v4).map(ends).collect();
        of_family[usize::from(!is_v4)].extend(without(ends(range), parts));
    }
    let [four, six] = of_family.map(join);
    let of = |is_v4: bool| move |(first, last): (u128, u128)| (address(is_v4, first), address(is_v4, last));
    four.into_iter().map(of(true)).chain(six.into_iter().map(of(false))).collect()
}

/// Whether an address lies in one of the ranges.
pub(crate) fn contains(ranges: &Ranges, address: IpAddr) -> bool {
    ranges.iter().any(|(first, last)| first.is_ipv4() == address.is_ipv4() && *first <= address && address <= *last)
}

/// The ports of all ranges.
pub(crate) fn ports(all: impl IntoIterator<Item = (TransportProtocol, u16, u16)>) -> PortRanges {
    let mut of_protocol: std::collections::BTreeMap<TransportProtocol, Vec<(u128, u128)>> = Default::default();
    for (protocol, first, last) in all.into_iter().filter(|(_, first, last)| first <= last) {
        of_protocol.entry(protocol).or_default().push((u128::from(first), u128::from(last)));
    }
    let port = |bits: u128| u16::try_from(bits).unwrap_or(u16::MAX);
    let of =
        |(protocol, ranges)| join(ranges).into_iter().map(move |(first, last)| (protocol, port(first), port(last)));
    of_protocol.into_iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn blocks_lose_their_exceptions_and_are_joined() {
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        for (given, wanted) in [
            (&[("10.0.0.0/8", &[][..])][..], "10.0.0.0-10.255.255.255"),
            (&[("10.0.0.0/8", &["10.0.0.0/9"][..])], "10.128.0.0-10.255.255.255"),
            (&[("10.0.0.0/24", &["10.0.0.4/30", "10.0.0.255/32"])], "10.0.0.0-10.0.0.3 10.0.0.8-10.0.0.254"),
            (&[("10.0.0.0/24", &["10.0.0.0/24"])], ""),
            (&[("0.0.0.0/0", &["255.255.255.255/32", "0.0.0.0/32"])], "0.0.0.1-255.255.255.254"),
            // What one block excepts another may allow.
            (
                &[("10.0.0.0/24", &["10.0.0.4/30"]), ("10.0.0.5/32", &[])],
                "10.0.0.0-10.0.0.3 10.0.0.5-10.0.0.5 10.0.0.8-10.0.0.255",
            ),
            (&[("10.0.1.0/24", &[]), ("10.0.0.0/24", &[])], "10.0.0.0-10.0.1.255"),
            (
                &[("fd00::/64", &["fd00::1/128", "10.0.0.0/8"]), ("10.0.0.1/32", &[])],
                "10.0.0.1-10.0.0.1 fd00::-fd00:: fd00::2-fd00::ffff:ffff:ffff:ffff",
            ),
            (&[("::/0", &["8000::/1"])], "::-7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            (&[("::/0", &["::/1"])], "8000::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            let parsed: Vec<(Prefix, Vec<Prefix>)> = given
                .iter()
                .map(|(range, except)| (prefix(range), except.iter().map(|text| prefix(text)).collect()))
                .collect();
            let result = blocks(parsed.iter().map(|(range, except)| (range, except.as_slice())));
            let text: Vec<String> = result.iter().map(|(first, last)| format!("{first}-{last}")).collect();
            assert_eq!(text.join(" "), wanted, "{given:?}");
        }
    }

    #[test]
    fn ports_are_joined_by_protocol() {
        use TransportProtocol::{Tcp, Udp};
        let all = [(Tcp, 81, 90), (Tcp, 80, 80), (Udp, 80, 80), (Tcp, 85, 95), (Tcp, 9, 3), (Tcp, 0, u16::MAX)];
        assert_eq!(ports(all[..5].to_vec()), [(Tcp, 80, 95), (Udp, 80, 80)]);
        assert_eq!(ports(all), [(Tcp, 0, u16::MAX), (Udp, 80, 80)]);
    }
}
