//! Ranges of addresses that Services are given theirs from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A range of addresses in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    base: u128,
    bits: u32,
    prefix: u32,
}

impl AddressRange {
    /// Reads `10.96.0.0/12` or its IPv6 form.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fault = || format!("{text} is no address range such as 10.96.0.0/12");
        let (address, prefix) = text.split_once('/').ok_or_else(fault)?;
        let address: IpAddr = address.parse().map_err(|_| fault())?;
        let prefix: u32 = prefix.parse().map_err(|_| fault())?;
        let (number, bits) = number(address);
        if prefix > bits || bits - prefix < 4 {
            return Err(format!("{text} is too small for Services: at least 16 addresses are needed"));
        }
        let host = bits - prefix;
        let mask = if host >= 128 { 0 } else { u128::MAX << host };
        Ok(AddressRange { base: number & mask, bits, prefix })
    }

    fn size(&self) -> u128 {
        1_u128.checked_shl(self.bits - self.prefix).unwrap_or(u128::MAX)
    }

    /// Upstream's number of usable addresses: neither the first nor (for IPv4) the last.
    pub(super) fn usable(&self) -> u128 {
        let size = self.size().min(1 << 64);
        if self.bits == 32 { size - 2 } else { size - 1 }
    }

    /// The address `offset` after the base; the first usable one has offset 1.
    #[must_use]
    pub fn nth(&self, offset: u128) -> IpAddr {
        let number = self.base.saturating_add(offset);
        if self.bits == 32 { IpAddr::V4(Ipv4Addr::from(number as u32)) } else { IpAddr::V6(Ipv6Addr::from(number)) }
    }

    /// Whether an address is a usable one of the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (number, bits) = number(address);
        bits == self.bits && number > self.base && number - self.base <= self.usable()
    }

    /// `IPv4` or `IPv6`.
    #[must_use]
    pub fn family(&self) -> &'static str {
        if self.bits == 32 { "IPv4" } else { "IPv6" }
    }

    /// Addresses that automatic allocation leaves to those who choose one themselves, as long as others are free.
    pub(super) fn static_band(&self) -> u128 {
        (self.usable() / 16).clamp(16, 256).min(self.usable())
    }
}

impl std::fmt::Display for AddressRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.nth(0), self.prefix)
    }
}

fn number(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn ranges_know_their_usable_addresses() {
        let range = AddressRange::parse("10.96.0.0/12").unwrap();
        assert_eq!((range.nth(1).to_string(), range.nth(10).to_string()), ("10.96.0.1".into(), "10.96.0.10".into()));
        for (address, inside) in [
            ("10.96.0.0", false),
            ("10.96.0.1", true),
            ("10.111.255.254", true),
            ("10.111.255.255", false),
            ("10.112.0.1", false),
            ("::1", false),
        ] {
            assert_eq!(range.contains(address.parse().unwrap()), inside, "{address}");
        }
        assert_eq!(range.static_band(), 256);
        assert_eq!(AddressRange::parse("10.0.0.0/24").unwrap().static_band(), 16);
        assert_eq!(AddressRange::parse("fd00::/108").unwrap().family(), "IPv6");
        for bad in ["10.0.0.0", "10.0.0.0/31", "x/8", "10.0.0.0/40"] {
            assert!(AddressRange::parse(bad).is_err(), "{bad}");
        }
    }
}
