//! Numbers of the nfnetlink and nf_tables protocol (linux/netfilter/nf_tables.h), named as the kernel names them.

/// The address family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
}

impl Family {
    /// The number that nfnetlink uses (NFPROTO_*).
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }

    /// The family of an address.
    #[must_use]
    pub const fn of(address: std::net::IpAddr) -> Self {
        if address.is_ipv4() { Self::Ip } else { Self::Ip6 }
    }

    /// The family with this number, where it is one that Klynge deals with.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Inet),
            2 => Some(Self::Ip),
            10 => Some(Self::Ip6),
            _ => None,
        }
    }
}

/// Where a base chain is attached (NF_INET_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Hook {
    /// Every packet that arrives.
    Prerouting = 0,
    /// Packets for this host.
    Input = 1,
    /// Packets through this host.
    Forward = 2,
    /// Packets made by this host.
    Output = 3,
    /// Every packet that leaves.
    Postrouting = 4,
}

pub(crate) const SUBSYSTEM_NFTABLES: u16 = 10 << 8;
pub(crate) const BATCH_BEGIN: u16 = 16;
pub(crate) const BATCH_END: u16 = 17;

pub(crate) const FLAG_REQUEST: u16 = 0x1;
pub(crate) const FLAG_CREATE: u16 = 0x400;
pub(crate) const FLAG_APPEND: u16 = 0x800;

pub(crate) const MSG_NEW_TABLE: u16 = 0;
pub(crate) const MSG_GET_TABLE: u16 = 1;
pub(crate) const MSG_DELETE_TABLE: u16 = 2;
pub(crate) const MSG_NEW_CHAIN: u16 = 3;
pub(crate) const MSG_GET_CHAIN: u16 = 4;
pub(crate) const MSG_DELETE_CHAIN: u16 = 5;
pub(crate) const MSG_NEW_RULE: u16 = 6;
pub(crate) const MSG_GET_RULE: u16 = 7;
pub(crate) const MSG_DELETE_RULE: u16 = 8;
pub(crate) const MSG_NEW_SET: u16 = 9;
pub(crate) const MSG_DELETE_SET: u16 = 11;
pub(crate) const MSG_NEW_ELEMENT: u16 = 12;
pub(crate) const MSG_DELETE_ELEMENT: u16 = 14;
pub(crate) const MSG_NEW_GENERATION: u16 = 15;
pub(crate) const MSG_GET_GENERATION: u16 = 16;

pub(crate) const GENERATION_ID: u16 = 1;

pub(crate) const TABLE_NAME: u16 = 1;
pub(crate) const TABLE_FLAGS: u16 = 2;
pub(crate) const TABLE_HANDLE: u16 = 4;
pub(crate) const TABLE_FLAG_OWNER: u32 = 0x2;

pub(crate) const CHAIN_TABLE: u16 = 1;
pub(crate) const CHAIN_NAME: u16 = 3;
pub(crate) const CHAIN_HOOK: u16 = 4;
pub(crate) const CHAIN_POLICY: u16 = 5;
pub(crate) const CHAIN_TYPE: u16 = 7;
pub(crate) const HOOK_NUMBER: u16 = 1;
pub(crate) const HOOK_PRIORITY: u16 = 2;

pub(crate) const RULE_TABLE: u16 = 1;
pub(crate) const RULE_CHAIN: u16 = 2;
pub(crate) const RULE_HANDLE: u16 = 3;
pub(crate) const RULE_EXPRESSIONS: u16 = 4;
pub(crate) const RULE_USERDATA: u16 = 7;

pub(crate) const SET_TABLE: u16 = 1;
pub(crate) const SET_NAME: u16 = 2;
pub(crate) const SET_FLAGS: u16 = 3;
pub(crate) const SET_KEY_TYPE: u16 = 4;
pub(crate) const SET_KEY_LENGTH: u16 = 5;
pub(crate) const SET_DATA_TYPE: u16 = 6;
pub(crate) const SET_DATA_LENGTH: u16 = 7;
pub(crate) const SET_DESCRIPTION: u16 = 9;
pub(crate) const SET_ID: u16 = 10;
pub(crate) const SET_TIMEOUT: u16 = 11;
pub(crate) const SET_USERDATA: u16 = 13;
pub(crate) const SET_DESCRIPTION_SIZE: u16 = 1;
pub(crate) const SET_DESCRIPTION_CONCAT: u16 = 2;
pub(crate) const SET_FIELD_LENGTH: u16 = 1;
pub(crate) const LIST_ELEMENT: u16 = 1;

pub(crate) const ELEMENT_KEY: u16 = 1;
pub(crate) const ELEMENT_DATA: u16 = 2;
pub(crate) const ELEMENT_KEY_END: u16 = 10;
pub(crate) const ELEMENTS_TABLE: u16 = 1;
pub(crate) const ELEMENTS_SET: u16 = 2;
pub(crate) const ELEMENTS_LIST: u16 = 3;

pub(crate) const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;
pub(crate) const DATA_VALUE: u16 = 1;
pub(crate) const DATA_VERDICT: u16 = 2;
pub(crate) const VERDICT_CODE: u16 = 1;
pub(crate) const VERDICT_CHAIN: u16 = 2;

pub(crate) const EXPRESSION_NAME: u16 = 1;
pub(crate) const EXPRESSION_DATA: u16 = 2;

pub(crate) const META_NFPROTO: u32 = 15;
pub(crate) const META_MARK: u32 = 3;
pub(crate) const META_IIFNAME: u32 = 6;
pub(crate) const META_OIFNAME: u32 = 7;
pub(crate) const META_L4PROTO: u32 = 16;

pub(crate) const CT_STATE: u32 = 0;
pub(crate) const CT_DIRECTION: u32 = 1;
pub(crate) const CT_STATUS: u32 = 2;

pub(crate) const FIB_RESULT_ADDRESS_TYPE: u32 = 3;
pub(crate) const FIB_SOURCE: u32 = 1;
pub(crate) const FIB_DESTINATION: u32 = 2;
/// RTN_LOCAL: an address of this host.
pub(crate) const ADDRESS_TYPE_LOCAL: u32 = 2;
