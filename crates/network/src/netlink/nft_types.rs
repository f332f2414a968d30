//! Types of fields in sets and maps. The kernel stores their numbers and ignores them; nft(8) needs them to read a set at all.

use super::nft_constants::Family;

/// What a field of a key or value holds, by nft's numbers (TYPE_* in its datatype.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    /// An IPv4 address.
    Ipv4Address,
    /// An IPv6 address.
    Ipv6Address,
    /// The number of a transport protocol.
    Protocol,
    /// A port.
    Port,
    /// A number of 32 bits in the host's byte order. nft has only packet marks for that.
    Number,
}

/// What a key leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapValue<'a> {
    /// Nothing: a set.
    None,
    /// A verdict.
    Verdict,
    /// Fields, each padded to whole registers.
    Data(&'a [DataType]),
}

/// nft concatenates the numbers of types, six bits each.
const TYPE_BITS: u32 = 6;

impl DataType {
    /// The type of a family's addresses.
    #[must_use]
    pub const fn address(family: Family) -> Self {
        if matches!(family, Family::Ip6) { Self::Ipv6Address } else { Self::Ipv4Address }
    }

    /// Its length, unpadded.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Ipv4Address | Self::Number => 4,
            Self::Ipv6Address => 16,
        }
    }

    const fn number(self) -> u32 {
        match self {
            Self::Ipv4Address => 7,
            Self::Ipv6Address => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Number => 19,
        }
    }
}

/// The number of a concatenation. nft reads five fields at most; of more the kernel would not see the first ones either.
pub(crate) fn concatenation(fields: &[DataType]) -> u32 {
    fields.iter().fold(0, |all, field| all << TYPE_BITS | field.number())
}

/// libnftnl's user data of a set: in which byte order nft is to read keys (type 0) and values (type 1) of one field; 1 is the host's, 2 the
/// network's. Of concatenations it knows by the fields' types.
pub(crate) fn byte_orders(key: &[DataType], data: &[DataType]) -> Vec<u8> {
    let mut all = Vec::new();
    for (kind, fields) in [(0, key), (1, data)] {
        if let [field] = fields {
            let order: u32 = if *field == DataType::Number { 1 } else { 2 };
            all.extend([kind, 4]);
            all.extend(order.to_ne_bytes());
        }
    }
    all
}

/// The types that lengths suggest.
pub(crate) fn guess(lengths: &[u32], family: Family) -> Vec<DataType> {
    let of_length = |bytes: &u32| match (bytes, family) {
        (1, _) => DataType::Protocol,
        (2, _) => DataType::Port,
        (4, Family::Ip | Family::Inet) => DataType::Ipv4Address,
        (16, _) => DataType::Ipv6Address,
        _ => DataType::Number,
    };
    lengths.iter().map(of_length).collect()
}

/// The types that the length of a value suggests: an address and a port where it fits, else numbers.
pub(crate) fn guess_data(bytes: u32, family: Family) -> Vec<DataType> {
    let address = DataType::address(family);
    if bytes == address.bytes() + 4 {
        return vec![address, DataType::Port];
    }
    vec![DataType::Number; usize::try_from(bytes / 4).unwrap_or(0).min(5)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_concatenated_as_nft_reads_them() {
        assert_eq!(
            concatenation(&[DataType::Ipv4Address, DataType::Protocol, DataType::Port]),
            (7 << 12) | (12 << 6) | 13
        );
        assert_eq!(concatenation(&[]), 0);
        assert_eq!(guess(&[4, 1, 2], Family::Ip), [DataType::Ipv4Address, DataType::Protocol, DataType::Port]);
        assert_eq!(guess_data(20, Family::Ip6), [DataType::Ipv6Address, DataType::Port]);
        assert_eq!(guess_data(4, Family::Ip6), [DataType::Number]);
    }
}
