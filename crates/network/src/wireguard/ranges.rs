//! Which peer an address belongs to: the longest range that holds it. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::Prefix;

/// Ranges and what they stand for. A look-up costs one hash for each length of ranges of the family, which are one or two in a cluster.
#[derive(Debug)]
pub(super) struct Ranges<T> {
    /// By length, the longest first.
    four: Vec<(u8, HashMap<Prefix, T>)>,
    six: Vec<(u8, HashMap<Prefix, T>)>,
}

impl<T> Default for Ranges<T> {
    fn default() -> Self {
        Self { four: Vec::new(), six: Vec::new() }
    }
}

impl<T> FromIterator<(Prefix, T)> for Ranges<T> {
    /// Of equal ranges the last one counts.
    fn from_iter<I: IntoIterator<Item = (Prefix, T)>>(all: I) -> Self {
        let (mut four, mut six) = (BTreeMap::<u8, HashMap<_, _>>::new(), BTreeMap::<u8, HashMap<_, _>>::new());
        for (range, value) in all {
            let of_family = if range.network().is_ipv4() { &mut four } else { &mut six };
            of_family.entry(range.length()).or_default().insert(range, value);
        }
        Self { four: four.into_iter().rev().collect(), six: six.into_iter().rev().collect() }
    }
}

impl<T> Ranges<T> {
    /// What the longest range stands for that holds an address.
    pub(super) fn find(&self, address: IpAddr) -> Option<&T> {
        let of_family = if address.is_ipv4() { &self.four } else { &self.six };
        of_family.iter().find_map(|(length, ranges)| ranges.get(&Prefix::new(address, *length)))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_longest_range_counts() {
        let texts = ["10.42.1.0/24", "10.42.0.0/16", "10.42.1.7/32", "fd00:42:0:1::/64", "fd00:42::/56", "0.0.0.0/0"];
        let ranges: Ranges<&str> = texts.iter().map(|text| (text.parse().unwrap(), *text)).collect();
        for (address, wanted) in [
            ("10.42.1.7", Some("10.42.1.7/32")),
            ("10.42.1.8", Some("10.42.1.0/24")),
            ("10.42.2.8", Some("10.42.0.0/16")),
            ("192.0.2.1", Some("0.0.0.0/0")),
            ("fd00:42:0:1::9", Some("fd00:42:0:1::/64")),
            ("fd00:42:0:2::9", Some("fd00:42::/56")),
            ("fd00:43::1", None),
        ] {
            assert_eq!(ranges.find(address.parse().unwrap()).copied(), wanted, "{address}");
        }
        assert_eq!(Ranges::<()>::default().find("10.0.0.1".parse().unwrap()), None);
        let twice: Ranges<u8> =
            [("10.0.0.0/8".parse().unwrap(), 1), ("10.0.0.0/8".parse().unwrap(), 2)].into_iter().collect();
        assert_eq!(twice.find("10.1.1.1".parse().unwrap()), Some(&2));
    }
}
