//! What filters need of nftables beyond translation: sets whose fields have nft's types, and ranges in sets of one field.

use std::net::IpAddr;

use super::nft_constants::{
    DATA_VALUE, ELEMENT_KEY, ELEMENTS_LIST, ELEMENTS_SET, ELEMENTS_TABLE, FLAG_CREATE, FLAG_REQUEST, Family,
    LIST_ELEMENT, MSG_NEW_ELEMENT, MSG_NEW_SET, SET_DESCRIPTION, SET_DESCRIPTION_CONCAT, SET_FIELD_LENGTH, SET_FLAGS,
    SET_ID, SET_KEY_LENGTH, SET_KEY_TYPE, SET_NAME, SET_TABLE, SUBSYSTEM_NFTABLES,
};
use super::nft_message::NftBatch;
use crate::prefix::address_bytes;

/// NFTA_SET_USERDATA, and within it libnftnl's type for the byte order of the key with the number of the network's.
const SET_USER_DATA: u16 = 13;
const KEY_BYTE_ORDER: u8 = 0;
const BYTE_ORDER_NETWORK: u32 = 2;
/// NFTA_SET_ELEM_FLAGS and NFT_SET_ELEM_INTERVAL_END.
const ELEMENT_FLAGS: u16 = 3;
const INTERVAL_END: u32 = 1;
/// Rules find sets by name; the kernel wants a number all the same.
const ID_UNUSED: u32 = 0x7fff_ffff;
/// Ranges of one message, two elements each: well below the 64 KiB that an attribute can hold.
const RANGES_PER_MESSAGE: usize = 500;

/// The type of a field, by which nft(8) shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// An address of the table's family.
    Address,
    /// A transport protocol.
    Protocol,
    /// A port.
    Port,
    /// The name of an interface.
    InterfaceName,
}

impl FieldType {
    const fn number(self, family: Family) -> u32 {
        match (self, family) {
            (Self::Address, Family::Ip6) => 8,
            (Self::Address, _) => 7,
            (Self::Protocol, _) => 12,
            (Self::Port, _) => 13,
            (Self::InterfaceName, _) => 41,
        }
    }

    const fn bytes(self, family: Family) -> u32 {
        match (self, family) {
            (Self::Address, Family::Ip6) | (Self::InterfaceName, _) => 16,
            (Self::Address, _) => 4,
            (Self::Protocol, _) => 1,
            (Self::Port, _) => 2,
        }
    }
}

/// A set of keys.
pub struct FilterSet<'a> {
    /// Its name.
    pub name: &'a str,
    /// The fields of the key.
    pub key: &'a [FieldType],
    /// Whether its elements are ranges.
    pub ranges: bool,
}

impl NftBatch {
    fn begin_filter(&mut self, kind: u16, family: Family, operation: String) {
        self.batch.begin(SUBSYSTEM_NFTABLES | kind, FLAG_REQUEST | FLAG_CREATE, operation);
        self.batch.raw(&[family.number(), 0, 0, 0]);
    }

    /// Makes a set of a filter.
    pub fn add_filter_set(&mut self, family: Family, table: &str, set: &FilterSet<'_>) {
        self.begin_filter(MSG_NEW_SET, family, format!("add set {table} {}", set.name));
        let is_concatenated = set.key.len() > 1;
        let flags = [(set.ranges, 0x4), (set.ranges && is_concatenated, 0x80)];
        let flags = flags.iter().filter(|(on, _)| *on).fold(0_u32, |all, (_, bit)| all | bit);
        let bytes = |field: &FieldType| field.bytes(family);
        let key_bytes = if is_concatenated {
            set.key.iter().map(|field| bytes(field).next_multiple_of(4)).sum()
        } else {
            set.key.iter().map(bytes).sum()
        };
        let batch = &mut self.batch;
        batch.attribute_str(SET_TABLE, table);
        batch.attribute_str(SET_NAME, set.name);
        batch.attribute_be32(SET_FLAGS, flags);
        batch.attribute_be32(SET_KEY_TYPE, set.key.iter().fold(0, |all, field| all << 6 | field.number(family)));
        batch.attribute_be32(SET_KEY_LENGTH, key_bytes);
        batch.attribute_be32(SET_ID, ID_UNUSED);
        if !is_concatenated {
            let mut order = vec![KEY_BYTE_ORDER, 4];
            order.extend(BYTE_ORDER_NETWORK.to_ne_bytes());
            batch.attribute(SET_USER_DATA, &order);
        }
        batch.nested(SET_DESCRIPTION, |batch| {
            if is_concatenated && set.ranges {
                batch.nested(SET_DESCRIPTION_CONCAT, |batch| {
                    for field in set.key {
                        batch.nested(LIST_ELEMENT, |batch| batch.attribute_be32(SET_FIELD_LENGTH, bytes(field)));
                    }
                });
            }
        });
        batch.end();
    }

    /// Adds ranges, both ends included, disjoint and sorted, to a set of addresses.
    pub fn add_address_ranges(&mut self, family: Family, table: &str, set: &str, ranges: &[(IpAddr, IpAddr)]) {
        for chunk in ranges.chunks(RANGES_PER_MESSAGE) {
            self.begin_filter(MSG_NEW_ELEMENT, family, format!("add ranges to {table} {set}"));
            self.batch.attribute_str(ELEMENTS_TABLE, table);
            self.batch.attribute_str(ELEMENTS_SET, set);
            self.batch.nested(ELEMENTS_LIST, |batch| {
                for (first, last) in chunk {
                    batch.nested(LIST_ELEMENT, |batch| {
                        batch.nested(ELEMENT_KEY, |batch| batch.attribute(DATA_VALUE, &address_bytes(*first)));
                    });
                    // A range up to the very last address has no end.
                    if let Some(end) = successor(*last) {
                        batch.nested(LIST_ELEMENT, |batch| {
                            batch.attribute_be32(ELEMENT_FLAGS, INTERVAL_END);
                            batch.nested(ELEMENT_KEY, |batch| batch.attribute(DATA_VALUE, &address_bytes(end)));
                        });
                    }
                }
            });
            self.batch.end();
        }
    }
}

fn successor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => address.to_bits().checked_add(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(address) => address.to_bits().checked_add(1).map(|bits| IpAddr::V6(bits.into())),
    }
}
