//! Address pools as the ConfigMap `kube-system/klynge-load-balancer` says them: a key is a pool, its value a list of ranges.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::wish::Source;

/// The pool that is given from without being asked for.
pub(super) const DEFAULT_POOL: &str = "default";
/// The key that is no pool: what Services without loadBalancerClass get, `pool`, `node` or `none`.
const WITHOUT_CLASS: &str = "without-class";
const POOLS_MAX: usize = 64;
const RANGES_MAX: usize = 64;

/// Addresses of one family, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: IpAddr,
    pub(super) last: IpAddr,
}

impl Range {
    /// Reads `FIRST-LAST`, a prefix, or one address.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            let shown: String = text.chars().take(80).collect();
            format!("{shown:?} is no range such as 192.0.2.240-192.0.2.250, 192.0.2.240/28 or 2001:db8::/120")
        };
        let address = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| wrong());
        if let Some((first, last)) = text.split_once('-') {
            let range = Self { first: address(first)?, last: address(last)? };
            if range.first.is_ipv4() != range.last.is_ipv4() {
                return Err(format!("{text:?} has ends of two families"));
            }
            if range.first > range.last {
                return Err(format!("{text:?} ends before it begins"));
            }
            return Ok(range);
        }
        let Some((start, length)) = text.split_once('/') else {
            let one = address(text)?;
            return Ok(Self { first: one, last: one });
        };
        let (start, length) = (address(start)?, length.trim().parse::<u32>().map_err(|_| wrong())?);
        Self::of_prefix(start, length).ok_or_else(wrong)
    }

    /// The range of a prefix; bits behind it do not matter. None where it is longer than an address.
    pub(super) fn of_prefix(start: IpAddr, length: u32) -> Option<Self> {
        Some(match start {
            IpAddr::V4(start) => {
                let host = u32::MAX.checked_shr(length).unwrap_or(0);
                let first = start.to_bits() & !host;
                (length <= 32).then_some(Self {
                    first: Ipv4Addr::from_bits(first).into(),
                    last: Ipv4Addr::from_bits(first | host).into(),
                })?
            }
            IpAddr::V6(start) => {
                let host = u128::MAX.checked_shr(length).unwrap_or(0);
                let first = start.to_bits() & !host;
                (length <= 128).then_some(Self {
                    first: Ipv6Addr::from_bits(first).into(),
                    last: Ipv6Addr::from_bits(first | host).into(),
                })?
            }
        })
    }

    /// Families do not mix: every IPv4 address is less than every IPv6 address.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.first <= address && address <= self.last
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    fn text(&self) -> String {
        if self.first == self.last { self.first.to_string() } else { format!("{}-{}", self.first, self.last) }
    }
}

/// The address after this one.
fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => address.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(address) => address.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

/// Every pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pools(BTreeMap<String, Vec<Range>>);

/// What Services without loadBalancerClass get; none where they are left to others. Said apart from the pools, so that it holds
/// while those cannot be read.
///
/// # Errors
/// A sentence that names the key.
pub(super) fn without_class(data: &BTreeMap<String, String>) -> Result<Option<Source>, String> {
    match data.get(WITHOUT_CLASS).map(|text| text.trim()) {
        Some("pool") => Ok(Some(Source::Pools)),
        Some("node") => Ok(Some(Source::Nodes)),
        Some("none") => Ok(None),
        Some(other) => {
            let shown: String = other.chars().take(80).collect();
            Err(format!("{WITHOUT_CLASS}: {shown:?} is none of pool, node and none"))
        }
        None if data.is_empty() => Ok(Some(Source::Nodes)),
        None => Ok(Some(Source::Pools)),
    }
}

impl Pools {
    /// Reads the ConfigMap's data; `others` are ranges of the cluster that no pool may touch, with what they are.
    ///
    /// # Errors
    /// A sentence that names the pool.
    pub(super) fn read(data: &BTreeMap<String, String>, others: &[(String, Range)]) -> Result<Self, String> {
        if data.len() > POOLS_MAX {
            return Err(format!("there are {} pools, {POOLS_MAX} are taken", data.len()));
        }
        let mut pools = BTreeMap::new();
        let mut known: Vec<(String, Range)> = others.to_vec();
        for (name, text) in data.iter().filter(|(name, _)| *name != WITHOUT_CLASS) {
            let separated = text.split(|one: char| one == ',' || one.is_whitespace());
            let mut ranges = Vec::new();
            // A dash may stand between blanks.
            for word in joined(separated) {
                let range = Range::parse(&word).map_err(|why| format!("pool {name:?}: {why}"))?;
                check(&range).map_err(|why| format!("pool {name:?}: {} {why}", range.text()))?;
                if let Some((other, _)) = known.iter().find(|(_, other)| other.overlaps(&range)) {
                    return Err(format!("pool {name:?}: {} overlaps {other}", range.text()));
                }
                known.push((format!("{} of pool {name:?}", range.text()), range));
                ranges.push(range);
            }
            if ranges.is_empty() {
                return Err(format!("pool {name:?} has no addresses: give ranges, or remove the key"));
            }
            if ranges.len() > RANGES_MAX {
                return Err(format!("pool {name:?} has {} ranges, {RANGES_MAX} are taken", ranges.len()));
            }
            pools.insert(name.clone(), ranges);
        }
        Ok(Self(pools))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn names(&self) -> String {
        self.0.keys().cloned().collect::<Vec<_>>().join(", ")
    }

    /// Whether there is a pool of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Whether the pool has addresses of a family.
    pub(super) fn has_family(&self, name: &str, v6: bool) -> bool {
        self.0.get(name).is_some_and(|ranges| ranges.iter().any(|range| range.first.is_ipv6() == v6))
    }

    /// The pool that an address is of.
    pub(super) fn of(&self, address: IpAddr) -> Option<&str> {
        let mut pools = self.0.iter();
        pools.find(|(_, ranges)| ranges.iter().any(|range| range.contains(address))).map(|(name, _)| name.as_str())
    }

    /// The first address of a pool that is acceptable. `acceptable` refuses finitely many.
    pub(super) fn first(&self, name: &str, v6: bool, acceptable: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let ranges = self.0.get(name)?.iter().filter(|range| range.first.is_ipv6() == v6);
        for range in ranges {
            let mut candidate = Some(range.first);
            while let Some(address) = candidate.filter(|address| *address <= range.last) {
                if acceptable(address) {
                    return Some(address);
                }
                candidate = next(address);
            }
        }
        None
    }
}

/// Puts `A - B` together again after it was split at blanks.
fn joined<'a>(words: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut open = false;
    for word in words.filter(|word| !word.is_empty()) {
        match found.last_mut() {
            Some(last) if open || word.starts_with('-') => last.push_str(word),
            _ => found.push(word.to_owned()),
        }
        open = word.ends_with('-');
    }
    found
}

/// Addresses that no host can have.
fn check(range: &Range) -> Result<(), &'static str> {
    let never = [
        ("0.0.0.0", 8, "is this network's own"),
        ("127.0.0.0", 8, "is loopback"),
        ("169.254.0.0", 16, "is link-local"),
        ("224.0.0.0", 3, "is multicast or reserved"),
        ("::", 127, "is unspecified or loopback"),
        ("::ffff:0.0.0.0", 96, "is IPv4 in IPv6's form"),
        ("fe80::", 10, "is link-local"),
        ("ff00::", 8, "is multicast"),
    ];
    for (start, length, why) in never {
        let range_of_it = start.parse().ok().and_then(|start| Range::of_prefix(start, length));
        if range_of_it.is_some_and(|other| other.overlaps(range)) {
            return Err(why);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn read(pools: &[(&str, &str)]) -> Result<Pools, String> {
        let data = pools.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Pools::read(&data, &[("the pods' range 10.42.0.0/16".into(), Range::parse("10.42.0.0/16").unwrap())])
    }

    #[test]
    fn pools_are_read_or_say_what_is_wrong() {
        let pools = read(&[
            ("default", "192.0.2.240-192.0.2.242, 198.51.100.8/31\n2001:db8::10 - 2001:db8::11"),
            ("one", " 203.0.113.9 "),
        ])
        .unwrap();
        let all = |name: &str, v6: bool| {
            let taken = std::cell::RefCell::new(Vec::new());
            while let Some(found) = pools.first(name, v6, |address| !taken.borrow().contains(&address)) {
                taken.borrow_mut().push(found);
            }
            taken.into_inner().iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(all("default", false), "192.0.2.240 192.0.2.241 192.0.2.242 198.51.100.8 198.51.100.9");
        assert_eq!(all("default", true), "2001:db8::10 2001:db8::11");
        assert_eq!(
            (all("one", false), all("one", true), all("none", false)),
            ("203.0.113.9".into(), String::new(), String::new())
        );
        assert_eq!(pools.of("203.0.113.9".parse().unwrap()), Some("one"));
        assert_eq!(pools.of("203.0.113.8".parse().unwrap()), None);
        assert!(read(&[]).unwrap().is_empty());
        for (text, word) in [
            ("", "no addresses"),
            ("192.0.2.1-", "no range"),
            ("192.0.2.0/33", "no range"),
            ("192.0.2.300", "no range"),
            ("192.0.2.9-192.0.2.1", "ends before"),
            ("192.0.2.9-2001:db8::1", "two families"),
            ("10.40.0.0/13", "overlaps the pods' range"),
            ("192.0.2.1, 192.0.2.0/24", "overlaps 192.0.2.1 of pool"),
            ("127.0.0.1", "loopback"),
            ("224.0.0.1-224.0.0.9", "multicast"),
            ("0.0.0.0/0", "own"),
            ("fe80::/64", "link-local"),
            ("::/0", "unspecified"),
        ] {
            let why = read(&[("p", text)]).unwrap_err();
            assert!(why.contains(word) && why.contains("\"p\""), "{text}: {why}");
        }
        let many = "192.0.2.1,".repeat(2);
        assert!(read(&[("p", &many)]).unwrap_err().contains("overlaps"));
    }

    #[test]
    fn the_end_of_all_addresses_is_an_end() {
        let last = Range::parse("ffff::/16").unwrap().last;
        assert_eq!(next(last), None);
        assert_eq!(Range::of_prefix("0.0.0.0".parse().unwrap(), 0).unwrap().text(), "0.0.0.0-255.255.255.255");
    }
}
