//! One nftables transaction: tables, chains, sets, elements and rules, all of them or none.

use std::collections::HashMap;

use super::error::Result;
use super::message::Batch;
use super::nft_constants::{
    BATCH_BEGIN, BATCH_END, CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, CHAIN_TYPE, DATA_TYPE_VERDICT,
    DATA_VALUE, ELEMENT_DATA, ELEMENT_KEY, ELEMENT_KEY_END, ELEMENTS_LIST, ELEMENTS_SET, ELEMENTS_TABLE, FLAG_APPEND,
    FLAG_CREATE, FLAG_REQUEST, Family, HOOK_NUMBER, HOOK_PRIORITY, Hook, LIST_ELEMENT, MSG_DELETE_CHAIN,
    MSG_DELETE_ELEMENT, MSG_DELETE_RULE, MSG_DELETE_SET, MSG_DELETE_TABLE, MSG_NEW_CHAIN, MSG_NEW_ELEMENT,
    MSG_NEW_RULE, MSG_NEW_SET, MSG_NEW_TABLE, RULE_CHAIN, RULE_EXPRESSIONS, RULE_HANDLE, RULE_TABLE, RULE_USERDATA,
    SET_DATA_LENGTH, SET_DATA_TYPE, SET_DESCRIPTION, SET_DESCRIPTION_CONCAT, SET_DESCRIPTION_SIZE, SET_FIELD_LENGTH,
    SET_FLAGS, SET_ID, SET_KEY_LENGTH, SET_KEY_TYPE, SET_NAME, SET_TABLE, SET_TIMEOUT, SET_USERDATA,
    SUBSYSTEM_NFTABLES, TABLE_FLAGS, TABLE_NAME,
};
use super::nft_expression::{Expressions, Verdict};
use super::nft_types::{DataType, MapValue, byte_orders, concatenation, guess, guess_data};
use super::socket::{FLAG_ACK, Socket};

/// The list of elements in one message stays below the 64 KiB that an attribute can hold.
const ELEMENT_LIST_BYTES_MAX: usize = 60_000;

/// A chain to be made.
pub struct ChainSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where it is attached, with its type ("nat", "filter") and priority; none for a chain that others jump to.
    pub base: Option<(Hook, &'static str, i32)>,
}

/// Properties of a set (NFT_SET_*).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetFlags {
    /// Elements are ranges.
    pub interval: bool,
    /// Rules add elements.
    pub dynamic: bool,
    /// Elements expire.
    pub timeout: bool,
}

/// A set or map to be made. Keys are concatenations of fields that each fill whole 32-bit registers.
pub struct SetSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// The length of each field of the key, unpadded.
    pub key_fields_bytes: &'a [u32],
    /// The length of the value; none for a set; zero for a verdict.
    pub data_bytes: Option<u32>,
    /// Its properties.
    pub flags: SetFlags,
    /// The largest number of elements; none for unlimited.
    pub size_max: Option<u32>,
}

/// A set or map to be made, with the types of its fields.
pub struct TypedSetSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// The fields of the key.
    pub key: &'a [DataType],
    /// What the key leads to.
    pub value: MapValue<'a>,
    /// Its properties.
    pub flags: SetFlags,
    /// The largest number of elements; none for unlimited.
    pub size_max: Option<u32>,
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Element {
    /// The key, each field padded to whole registers.
    pub key: Vec<u8>,
    /// The inclusive end of a range.
    pub key_end: Option<Vec<u8>>,
    /// The value; none in a set.
    pub value: Option<Vec<u8>>,
    /// The verdict, in a verdict map.
    pub verdict: Option<Verdict>,
}

/// Collects the messages of one transaction.
pub struct NftBatch {
    pub(super) batch: Batch,
    next_set_id: u32,
    rules: HashMap<(Family, String, String), usize>,
}

impl Default for NftBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl NftBatch {
    /// An empty transaction.
    #[must_use]
    pub fn new() -> Self {
        let mut batch = Batch::new();
        batch.begin(BATCH_BEGIN, FLAG_REQUEST, "begin an nftables transaction");
        batch.raw(&[0, 0, 0, 10]);
        batch.end();
        Self { batch, next_set_id: 1, rules: HashMap::new() }
    }

    /// Whether nothing has been added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batch.message_count() == 1
    }

    /// Its size, for measurements.
    #[must_use]
    pub fn byte_count(&self) -> usize {
        self.batch.byte_count()
    }

    /// How many rules are added to a chain.
    pub(crate) fn rule_count(&self, family: Family, table: &str, chain: &str) -> usize {
        self.rules.get(&(family, table.to_owned(), chain.to_owned())).copied().unwrap_or(0)
    }

    /// Carries the transaction out: everything, or nothing and an error.
    pub fn commit(mut self, socket: &mut Socket) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        self.batch.add_flags_to_last(FLAG_ACK);
        let last = u32::try_from(self.batch.message_count()).unwrap_or(u32::MAX);
        self.batch.begin(BATCH_END, FLAG_REQUEST, "commit an nftables transaction");
        self.batch.raw(&[0, 0, 0, 10]);
        self.batch.end();
        socket.transact(&self.batch, last)
    }

    fn begin(&mut self, kind: u16, family: Family, flags: u16, operation: String) {
        self.batch.begin(SUBSYSTEM_NFTABLES | kind, FLAG_REQUEST | flags, operation);
        self.batch.raw(&[family.number(), 0, 0, 0]);
    }

    /// Makes a table; one that exists stays as it is.
    pub fn add_table(&mut self, family: Family, table: &str) {
        self.begin(MSG_NEW_TABLE, family, FLAG_CREATE, format!("add table {table}"));
        self.batch.attribute_str(TABLE_NAME, table);
        self.batch.attribute_be32(TABLE_FLAGS, 0);
        self.batch.end();
    }

    /// Deletes a table and all that it holds.
    pub fn delete_table(&mut self, family: Family, table: &str) {
        self.begin(MSG_DELETE_TABLE, family, 0, format!("delete table {table}"));
        self.batch.attribute_str(TABLE_NAME, table);
        self.batch.end();
    }

    /// Deletes a table whether or not it exists (add, then delete: also on kernels without "destroy").
    pub fn delete_table_if_exists(&mut self, family: Family, table: &str) {
        self.add_table(family, table);
        self.delete_table(family, table);
    }

    /// Makes a chain.
    pub fn add_chain(&mut self, family: Family, table: &str, chain: &ChainSpec<'_>) {
        self.begin(MSG_NEW_CHAIN, family, FLAG_CREATE, format!("add chain {table} {}", chain.name));
        self.batch.attribute_str(CHAIN_TABLE, table);
        self.batch.attribute_str(CHAIN_NAME, chain.name);
        if let Some((hook, kind, priority)) = chain.base {
            self.batch.nested(CHAIN_HOOK, |batch| {
                batch.attribute_be32(HOOK_NUMBER, hook as u32);
                batch.attribute_be32(HOOK_PRIORITY, priority.cast_unsigned());
            });
            self.batch.attribute_be32(CHAIN_POLICY, 1);
            self.batch.attribute_str(CHAIN_TYPE, kind);
        }
        self.batch.end();
    }

    /// Deletes a chain that nothing refers to.
    pub fn delete_chain(&mut self, family: Family, table: &str, chain: &str) {
        self.begin(MSG_DELETE_CHAIN, family, 0, format!("delete chain {table} {chain}"));
        self.batch.attribute_str(CHAIN_TABLE, table);
        self.batch.attribute_str(CHAIN_NAME, chain);
        self.batch.end();
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, family: Family, table: &str, chain: &str) {
        self.begin(MSG_DELETE_RULE, family, 0, format!("flush chain {table} {chain}"));
        self.batch.attribute_str(RULE_TABLE, table);
        self.batch.attribute_str(RULE_CHAIN, chain);
        self.batch.end();
    }

    /// Deletes one rule.
    pub fn delete_rule(&mut self, family: Family, table: &str, chain: &str, handle: u64) {
        self.begin(MSG_DELETE_RULE, family, 0, format!("delete rule {handle} of {table} {chain}"));
        self.batch.attribute_str(RULE_TABLE, table);
        self.batch.attribute_str(RULE_CHAIN, chain);
        self.batch.attribute(RULE_HANDLE, &handle.to_be_bytes());
        self.batch.end();
    }

    /// Appends a rule.
    pub fn add_rule(&mut self, family: Family, table: &str, chain: &str, expressions: &Expressions) {
        self.rule(family, table, chain, expressions, FLAG_APPEND, None);
    }

    /// Puts a rule at a chain's head, with a comment that nft(8) and iptables show.
    pub fn insert_rule(&mut self, family: Family, table: &str, chain: &str, expressions: &Expressions, comment: &str) {
        self.rule(family, table, chain, expressions, 0, Some(comment));
    }

    fn rule(
        &mut self,
        family: Family,
        table: &str,
        chain: &str,
        expressions: &Expressions,
        flags: u16,
        comment: Option<&str>,
    ) {
        *self.rules.entry((family, table.to_owned(), chain.to_owned())).or_default() += 1;
        self.begin(MSG_NEW_RULE, family, FLAG_CREATE | flags, format!("add a rule to {table} {chain}"));
        self.batch.attribute_str(RULE_TABLE, table);
        self.batch.attribute_str(RULE_CHAIN, chain);
        self.batch.nested(RULE_EXPRESSIONS, |batch| expressions.write(batch));
        if let Some(comment) = comment {
            self.batch.attribute(RULE_USERDATA, &comment_userdata(comment));
        }
        self.batch.end();
    }

    /// Makes a set or map whose fields are shown by nft(8) as their lengths suggest; [`NftBatch::add_typed_set`] names their types.
    pub fn add_set(&mut self, family: Family, table: &str, set: &SetSpec<'_>) {
        let key = guess(set.key_fields_bytes, family);
        let data = guess_data(set.data_bytes.unwrap_or(0), family);
        self.add_set_of(family, table, set, &key, &data);
    }

    /// Makes a set or map.
    pub fn add_typed_set(&mut self, family: Family, table: &str, set: &TypedSetSpec<'_>) {
        let key_fields_bytes: Vec<u32> = set.key.iter().map(|field| field.bytes()).collect();
        let (data_bytes, data) = match set.value {
            MapValue::None => (None, &[][..]),
            MapValue::Verdict => (Some(0), &[][..]),
            MapValue::Data(fields) => {
                (Some(fields.iter().map(|field| field.bytes().next_multiple_of(4)).sum()), fields)
            }
        };
        let spec = SetSpec {
            name: set.name,
            key_fields_bytes: &key_fields_bytes,
            data_bytes,
            flags: set.flags,
            size_max: set.size_max,
        };
        self.add_set_of(family, table, &spec, set.key, data);
    }

    fn add_set_of(&mut self, family: Family, table: &str, set: &SetSpec<'_>, key: &[DataType], data: &[DataType]) {
        self.begin(MSG_NEW_SET, family, FLAG_CREATE, format!("add set {table} {}", set.name));
        let id = self.next_set_id;
        self.next_set_id += 1;
        let padded = |bytes: u32| bytes.next_multiple_of(4);
        let concatenated = set.key_fields_bytes.len() > 1;
        let mut flags = 0_u32;
        for (on, bit) in [
            (set.flags.interval, 0x4),
            (set.data_bytes.is_some(), 0x8),
            (set.flags.timeout, 0x10),
            (set.flags.dynamic, 0x20),
            (set.flags.interval && concatenated, 0x80),
        ] {
            if on {
                flags |= bit;
            }
        }
        let key_bytes = if concatenated {
            set.key_fields_bytes.iter().copied().map(padded).sum()
        } else {
            set.key_fields_bytes.first().copied().unwrap_or(4)
        };
        let batch = &mut self.batch;
        batch.attribute_str(SET_TABLE, table);
        batch.attribute_str(SET_NAME, set.name);
        batch.attribute_be32(SET_FLAGS, flags);
        batch.attribute_be32(SET_KEY_TYPE, concatenation(key));
        batch.attribute_be32(SET_KEY_LENGTH, key_bytes);
        match set.data_bytes {
            Some(0) => {
                batch.attribute_be32(SET_DATA_TYPE, DATA_TYPE_VERDICT);
            }
            Some(bytes) => {
                batch.attribute_be32(SET_DATA_TYPE, concatenation(data));
                batch.attribute_be32(SET_DATA_LENGTH, bytes);
            }
            None => {}
        }
        batch.attribute_be32(SET_ID, id);
        if set.flags.timeout {
            // The default; each rule that adds elements names its own.
            batch.attribute(SET_TIMEOUT, &(10_800_000_u64).to_be_bytes());
        }
        batch.attribute(SET_USERDATA, &byte_orders(key, data));
        batch.nested(SET_DESCRIPTION, |batch| {
            if let Some(size_max) = set.size_max {
                batch.attribute_be32(SET_DESCRIPTION_SIZE, size_max);
            }
            if concatenated && set.flags.interval {
                batch.nested(SET_DESCRIPTION_CONCAT, |batch| {
                    for length in set.key_fields_bytes {
                        batch.nested(LIST_ELEMENT, |batch| batch.attribute_be32(SET_FIELD_LENGTH, *length));
                    }
                });
            }
        });
        batch.end();
    }

    /// Deletes a set that no rule refers to.
    pub fn delete_set(&mut self, family: Family, table: &str, set: &str) {
        self.begin(MSG_DELETE_SET, family, 0, format!("delete set {table} {set}"));
        self.batch.attribute_str(SET_TABLE, table);
        self.batch.attribute_str(SET_NAME, set);
        self.batch.end();
    }

    /// Adds elements.
    pub fn add_elements<'a>(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        self.elements(MSG_NEW_ELEMENT, FLAG_CREATE, family, table, set, elements);
    }

    /// Deletes elements, which must exist.
    pub fn delete_elements<'a>(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        self.elements(MSG_DELETE_ELEMENT, 0, family, table, set, elements);
    }

    fn elements<'a>(
        &mut self,
        kind: u16,
        flags: u16,
        family: Family,
        table: &str,
        set: &str,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        let mut elements = elements.into_iter().peekable();
        let verb = if kind == MSG_NEW_ELEMENT { "add elements to" } else { "delete elements of" };
        while elements.peek().is_some() {
            self.begin(kind, family, flags, format!("{verb} {table} {set}"));
            self.batch.attribute_str(ELEMENTS_TABLE, table);
            self.batch.attribute_str(ELEMENTS_SET, set);
            self.batch.nested(ELEMENTS_LIST, |batch| {
                let start = batch.byte_count();
                while batch.byte_count() - start < ELEMENT_LIST_BYTES_MAX
                    && let Some(element) = elements.next()
                {
                    batch.nested(LIST_ELEMENT, |batch| element.write(batch, kind == MSG_NEW_ELEMENT));
                }
            });
            self.batch.end();
        }
    }
}

impl Element {
    /// An element of a set.
    #[must_use]
    pub fn key(key: Vec<u8>) -> Self {
        Self { key, key_end: None, value: None, verdict: None }
    }

    fn write(&self, batch: &mut Batch, with_value: bool) {
        batch.nested(ELEMENT_KEY, |batch| batch.attribute(DATA_VALUE, &self.key));
        if let Some(end) = &self.key_end {
            batch.nested(ELEMENT_KEY_END, |batch| batch.attribute(DATA_VALUE, end));
        }
        if !with_value {
            return;
        }
        if let Some(value) = &self.value {
            batch.nested(ELEMENT_DATA, |batch| batch.attribute(DATA_VALUE, value));
        }
        if let Some(verdict) = &self.verdict {
            batch.nested(ELEMENT_DATA, |batch| verdict.write(batch));
        }
    }
}

/// libnftnl's user data: type 0 (comment), length, zero-terminated text.
pub(crate) fn comment_userdata(comment: &str) -> Vec<u8> {
    let mut text = comment.as_bytes().to_vec();
    text.truncate(120);
    text.push(0);
    let mut data = vec![0, u8::try_from(text.len()).unwrap_or(121)];
    data.extend_from_slice(&text);
    data
}
