//! Reads nftables state that others own: tables, base chains, and the comments of rules.

use super::error::{Error, Result};
use super::message::{Batch, attributes, be32, be64, text};
use super::namespace::NetworkNamespace;
use super::nft_constants::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, Family, GENERATION_ID, HOOK_NUMBER, HOOK_PRIORITY,
    MSG_GET_CHAIN, MSG_GET_GENERATION, MSG_GET_RULE, MSG_GET_TABLE, MSG_NEW_GENERATION, RULE_CHAIN, RULE_HANDLE,
    RULE_TABLE, RULE_USERDATA, SUBSYSTEM_NFTABLES, TABLE_FLAG_OWNER, TABLE_FLAGS, TABLE_HANDLE, TABLE_NAME,
};
use super::nft_message::NftBatch;
use super::socket::{Protocol, Socket};

/// A table as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// The kernel's name of it: a table that is made anew has another.
    pub handle: u64,
    /// Whether a program owns it exclusively, so that the kernel refuses changes by others.
    pub is_owned: bool,
}

/// A chain as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainInfo {
    /// The family of its table.
    pub family: Family,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// The hook number, for a base chain.
    pub hook: Option<u32>,
    /// The priority, for a base chain.
    pub priority: i32,
    /// Whether packets that reach its end are dropped.
    pub policy_drops: bool,
}

impl ChainInfo {
    /// Whether iptables takes this chain for its own. It reads few expressions, and refuses to list or change a table that has others.
    #[must_use]
    pub fn is_of_iptables(&self) -> bool {
        self.family != Family::Inet
            && matches!(self.table.as_str(), "filter" | "nat" | "mangle" | "raw" | "security")
            && matches!(self.name.as_str(), "PREROUTING" | "INPUT" | "FORWARD" | "OUTPUT" | "POSTROUTING")
    }
}

/// A rule as found; its expressions are not decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// The kernel's name of the rule.
    pub handle: u64,
    /// Its comment, empty without one.
    pub comment: String,
}

/// A socket for nftables in one namespace.
#[derive(Debug)]
pub struct Nft {
    socket: Socket,
}

impl Nft {
    /// Opens the socket inside a namespace.
    pub fn open_in(namespace: &NetworkNamespace) -> Result<Self> {
        Ok(Self { socket: Socket::open_in(namespace, Protocol::Netfilter)? })
    }

    /// The socket, for transactions.
    pub fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// The number of the namespace's last commit, by whomever.
    pub(crate) fn generation(&mut self) -> Result<u32> {
        let operation = "ask for the generation of nftables";
        let mut found = None;
        self.socket.get(
            SUBSYSTEM_NFTABLES | MSG_GET_GENERATION,
            operation,
            |batch| batch.raw(&[0; 4]),
            |kind, payload| {
                if kind == SUBSYSTEM_NFTABLES | MSG_NEW_GENERATION {
                    found = payload.get(4..).and_then(|rest| attributes(rest).find_kind(GENERATION_ID)).and_then(be32);
                }
            },
        )?;
        found.ok_or_else(|| Error::Malformed { operation: operation.to_owned(), reason: "no generation" })
    }

    /// Removes the tables of these names, of every family, in one transaction.
    pub(crate) fn delete_tables(&mut self, names: &[&str]) -> Result<()> {
        let mut batch = NftBatch::new();
        for table in self.tables()?.iter().filter(|table| names.contains(&table.name.as_str())) {
            batch.delete_table(table.family, &table.name);
        }
        batch.commit(self.socket())
    }

    /// All tables of the families that Klynge deals with.
    pub fn tables(&mut self) -> Result<Vec<TableInfo>> {
        let mut found = Vec::new();
        self.dump(
            MSG_GET_TABLE,
            0,
            "list tables",
            |_| {},
            |family, payload| {
                let all = attributes(payload);
                if let Some(name) = all.find_kind(TABLE_NAME) {
                    let flags = all.find_kind(TABLE_FLAGS).and_then(be32).unwrap_or(0);
                    found.push(TableInfo {
                        family,
                        name: text(name),
                        handle: all.find_kind(TABLE_HANDLE).and_then(be64).unwrap_or(0),
                        is_owned: flags & TABLE_FLAG_OWNER != 0,
                    });
                }
            },
        )?;
        Ok(found)
    }

    /// All chains of the families that Klynge deals with.
    pub fn chains(&mut self) -> Result<Vec<ChainInfo>> {
        let mut found = Vec::new();
        self.dump(
            MSG_GET_CHAIN,
            0,
            "list chains",
            |_| {},
            |family, payload| {
                let all = attributes(payload);
                let (Some(table), Some(name)) = (all.find_kind(CHAIN_TABLE), all.find_kind(CHAIN_NAME)) else { return };
                let hook = all.find_kind(CHAIN_HOOK).map(attributes);
                found.push(ChainInfo {
                    family,
                    table: text(table),
                    name: text(name),
                    hook: hook.clone().and_then(|hook| hook.find_kind(HOOK_NUMBER)).and_then(be32),
                    priority: hook
                        .and_then(|hook| hook.find_kind(HOOK_PRIORITY))
                        .and_then(be32)
                        .unwrap_or(0)
                        .cast_signed(),
                    policy_drops: all.find_kind(CHAIN_POLICY).and_then(be32) == Some(0),
                });
            },
        )?;
        Ok(found)
    }

    /// The rules of a chain, in order.
    pub fn rules(&mut self, family: Family, table: &str, chain: &str) -> Result<Vec<RuleInfo>> {
        let mut found = Vec::new();
        self.dump(
            MSG_GET_RULE,
            family.number(),
            "list rules",
            |batch| {
                batch.attribute_str(RULE_TABLE, table);
                batch.attribute_str(RULE_CHAIN, chain);
            },
            |_, payload| {
                let all = attributes(payload);
                if all.find_kind(RULE_TABLE).map(text).as_deref() != Some(table)
                    || all.find_kind(RULE_CHAIN).map(text).as_deref() != Some(chain)
                {
                    return;
                }
                let comment = all.find_kind(RULE_USERDATA).and_then(comment_of).unwrap_or_default();
                if let Some(handle) = all.find_kind(RULE_HANDLE).and_then(be64) {
                    found.push(RuleInfo { handle, comment });
                }
            },
        )?;
        Ok(found)
    }

    fn dump(
        &mut self,
        kind: u16,
        family: u8,
        operation: &str,
        fill: impl Fn(&mut Batch),
        mut each: impl FnMut(Family, &[u8]),
    ) -> Result<()> {
        self.socket.dump(
            SUBSYSTEM_NFTABLES | kind,
            operation,
            |batch| {
                batch.raw(&[family, 0, 0, 0]);
                fill(batch);
            },
            |_, payload| {
                let family = payload.first().copied().and_then(Family::from_number);
                if let (Some(family), Some(rest)) = (family, payload.get(4..)) {
                    each(family, rest);
                }
            },
        )
    }
}

fn comment_of(userdata: &[u8]) -> Option<String> {
    let mut rest = userdata;
    while let [kind, length, tail @ ..] = rest {
        let value = tail.get(..usize::from(*length))?;
        if *kind == 0 {
            return Some(text(value));
        }
        rest = tail.get(usize::from(*length)..)?;
    }
    None
}
