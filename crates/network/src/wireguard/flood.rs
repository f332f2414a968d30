//! How many handshakes are looked at: each costs the work of two curve multiplications. Pure; time comes as a parameter.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// From so many in a second on, who asks has to show that it is where it says (a cookie).
pub(super) const WITHOUT_COOKIE_PER_SECOND: u64 = 100;
/// From one place, as the kernel's WireGuard.
const FROM_ONE_PER_SECOND: u32 = 20;
/// From all places together: some percent of a core.
const FROM_ALL_PER_SECOND: u32 = 1000;

/// Counts handshakes by where they come from.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    second: u64,
    all: u32,
    /// As long as `all` at most.
    from: HashMap<IpAddr, u32>,
}

impl Handshakes {
    /// Whether one more is looked at; `second` counts from any beginning.
    pub(super) fn admits(&mut self, from: IpAddr, second: u64) -> bool {
        if self.second != second {
            self.second = second;
            self.all = 0;
            self.from.clear();
        }
        if self.all >= FROM_ALL_PER_SECOND {
            return false;
        }
        let count = self.from.entry(place(from)).or_default();
        if *count >= FROM_ONE_PER_SECOND {
            return false;
        }
        *count += 1;
        self.all += 1;
        true
    }
}

/// Whoever has an IPv6 address has 2^64 of them.
fn place(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn one_place_and_all_places_have_limits() {
        let mut handshakes = Handshakes::default();
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        let mut admitted = |from: IpAddr, second| (0..50).filter(|_| handshakes.admits(from, second)).count();
        assert_eq!(admitted(one, 1), 20);
        assert_eq!(admitted("192.0.2.2".parse().unwrap(), 1), 20);
        assert_eq!(admitted("2001:db8::1".parse().unwrap(), 1), 20);
        assert_eq!(admitted("2001:db8::2".parse().unwrap(), 1), 0, "the same network");
        assert_eq!(admitted(one, 2), 20, "the next second");
        let all: usize = (0..200_u8).map(|last| admitted(IpAddr::from([198, 51, 100, last]), 3)).sum();
        assert_eq!(all, 1000);
        assert!(handshakes.from.len() <= 50);
    }
}
