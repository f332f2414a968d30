//! An address prefix in CIDR notation.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::netlink::Family;

/// An address range such as `10.42.0.0/16`; the bits after the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    network: IpAddr,
    length: u8,
}

/// Why a text is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address range such as 10.42.0.0/16")]
pub struct ParsePrefixError {
    text: String,
}

impl Prefix {
    /// The range of this length that holds `address`; a length past the family's is cut.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Self {
        match address {
            IpAddr::V4(address) => {
                let length = length.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Self { network: IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask)), length }
            }
            IpAddr::V6(address) => {
                let length = length.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Self { network: IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask)), length }
            }
        }
    }

    /// The range of one address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self::new(address, 128)
    }

    /// Its first address.
    #[must_use]
    pub const fn network(&self) -> IpAddr {
        self.network
    }

    /// Its length in bits.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// IPv4 or IPv6.
    #[must_use]
    pub const fn family(&self) -> Family {
        if self.network.is_ipv4() { Family::Ip } else { Family::Ip6 }
    }

    /// Whether an address is in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.network.is_ipv4() && Self::new(address, self.length).network == self.network
    }

    /// Whether two ranges share an address.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// Its last address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        match self.network {
            IpAddr::V4(address) => {
                let rest = u32::MAX.checked_shr(u32::from(self.length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() | rest))
            }
            IpAddr::V6(address) => {
                let rest = u128::MAX.checked_shr(u32::from(self.length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() | rest))
            }
        }
    }

    pub(crate) fn network_bytes(&self) -> Vec<u8> {
        address_bytes(self.network)
    }

    pub(crate) fn mask_bytes(&self) -> Vec<u8> {
        match self.network {
            IpAddr::V4(_) => address_bytes(Self::new(IpAddr::V4(Ipv4Addr::BROADCAST), self.length).network),
            IpAddr::V6(_) => address_bytes(Self::new(IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)), self.length).network),
        }
    }
}

/// The bytes of an address in network order.
pub(crate) fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.network, self.length)
    }
}

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || ParsePrefixError { text: text.chars().take(80).collect() };
        let (address, length) = text.split_once('/').ok_or_else(fail)?;
        let address: IpAddr = address.parse().map_err(|_| fail())?;
        let length: u8 = length.parse().map_err(|_| fail())?;
        if length > if address.is_ipv4() { 32 } else { 128 } {
            return Err(fail());
        }
        Ok(Self::new(address, length))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn parses_contains_and_ends() {
        let prefix: Prefix = "10.42.3.7/24".parse().unwrap();
        assert_eq!(prefix.to_string(), "10.42.3.0/24");
        assert!(prefix.contains("10.42.3.255".parse().unwrap()));
        assert!(!prefix.contains("10.42.4.0".parse().unwrap()));
        assert_eq!(prefix.last().to_string(), "10.42.3.255");
        assert_eq!(prefix.mask_bytes(), [255, 255, 255, 0]);
        let all: Prefix = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.1.1.1".parse().unwrap()) && all.overlaps(&prefix));
        let six: Prefix = "fd00:42::/64".parse().unwrap();
        assert_eq!(six.last().to_string(), "fd00:42::ffff:ffff:ffff:ffff");
        assert!(!six.contains("10.42.3.1".parse().unwrap()));
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "fd00::/129", "/", ""] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}
