//! The data plane of one node: pod network, Services, announced addresses and DNS, each compiled purely and then applied.

pub mod announce;
pub mod cni;
pub mod dns;
pub mod netlink;
pub mod pod_net;
pub mod policy;
mod prefix;
pub mod process;
pub mod services;
pub mod wireguard;

pub use prefix::{ParsePrefixError, Prefix};

/// How the host's side of every pod's interface begins.
pub const POD_INTERFACE_PREFIX: &str = "kly";
/// How the interfaces begin that slow pods down.
pub(crate) const BLOCK_INTERFACE_PREFIX: &str = "klb";
