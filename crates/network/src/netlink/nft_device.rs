//! nftables on one device (family netdev): chains that lose every frame or some, for faults on purpose.

use super::nft_constants::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, CHAIN_TYPE, FLAG_APPEND, FLAG_CREATE, FLAG_REQUEST, HOOK_NUMBER,
    HOOK_PRIORITY, MSG_DELETE_CHAIN, MSG_DELETE_TABLE, MSG_NEW_CHAIN, MSG_NEW_RULE, MSG_NEW_TABLE, RULE_CHAIN,
    RULE_EXPRESSIONS, RULE_TABLE, SUBSYSTEM_NFTABLES, TABLE_FLAGS, TABLE_NAME,
};
use super::nft_expression::{Expressions, Register, Verdict};
use super::nft_message::NftBatch;

/// NFPROTO_NETDEV.
const NETDEV: u8 = 5;
/// NF_NETDEV_INGRESS and NF_NETDEV_EGRESS.
const INGRESS: u32 = 0;
const EGRESS: u32 = 1;
/// NFTA_HOOK_DEV.
const HOOK_DEVICE: u16 = 3;
const POLICY_DROP: u32 = 0;
const POLICY_ACCEPT: u32 = 1;
const SCRATCH: Register = Register::new(0);

impl NftBatch {
    fn begin_device(&mut self, kind: u16, flags: u16, operation: String) {
        self.batch.begin(SUBSYSTEM_NFTABLES | kind, FLAG_REQUEST | flags, operation);
        self.batch.raw(&[NETDEV, 0, 0, 0]);
    }

    fn add_device_chain(&mut self, table: &str, chain: &str, device: &str, received: bool, policy: u32) {
        self.begin_device(MSG_NEW_TABLE, FLAG_CREATE, format!("add table {table}"));
        self.batch.attribute_str(TABLE_NAME, table);
        self.batch.attribute_be32(TABLE_FLAGS, 0);
        self.batch.end();
        self.begin_device(MSG_NEW_CHAIN, FLAG_CREATE, format!("add chain {table} {chain} on {device}"));
        let batch = &mut self.batch;
        batch.attribute_str(CHAIN_TABLE, table);
        batch.attribute_str(CHAIN_NAME, chain);
        batch.nested(CHAIN_HOOK, |batch| {
            batch.attribute_be32(HOOK_NUMBER, if received { INGRESS } else { EGRESS });
            batch.attribute_be32(HOOK_PRIORITY, 0);
            batch.attribute_str(HOOK_DEVICE, device);
        });
        batch.attribute_be32(CHAIN_POLICY, policy);
        batch.attribute_str(CHAIN_TYPE, "filter");
        batch.end();
    }

    /// Makes a chain without rules whose policy drops what the device receives, or what is sent through it; and its table.
    pub fn add_device_drop(&mut self, table: &str, chain: &str, device: &str, received: bool) {
        self.add_device_chain(table, chain, device, received, POLICY_DROP);
    }

    /// Makes a chain that drops so many of ten thousand frames that the device receives, or that are sent through it; and its table.
    pub fn add_device_loss(&mut self, table: &str, chain: &str, device: &str, received: bool, of_ten_thousand: u32) {
        self.add_device_chain(table, chain, device, received, POLICY_ACCEPT);
        let rule = Expressions::new().match_share(of_ten_thousand, SCRATCH).verdict(Verdict::Drop);
        self.begin_device(MSG_NEW_RULE, FLAG_CREATE | FLAG_APPEND, format!("add a rule to {table} {chain}"));
        self.batch.attribute_str(RULE_TABLE, table);
        self.batch.attribute_str(RULE_CHAIN, chain);
        self.batch.nested(RULE_EXPRESSIONS, |batch| rule.write(batch));
        self.batch.end();
    }

    /// Deletes such a chain, which must exist.
    pub fn delete_device_chain(&mut self, table: &str, chain: &str) {
        self.begin_device(MSG_DELETE_CHAIN, 0, format!("delete chain {table} {chain}"));
        self.batch.attribute_str(CHAIN_TABLE, table);
        self.batch.attribute_str(CHAIN_NAME, chain);
        self.batch.end();
    }

    /// Deletes the table of such chains, which must exist.
    pub fn delete_device_table(&mut self, table: &str) {
        self.begin_device(MSG_DELETE_TABLE, 0, format!("delete table {table}"));
        self.batch.attribute_str(TABLE_NAME, table);
        self.batch.end();
    }
}
