//! Builds the expressions of nftables rules: the small register machine that the kernel runs for each packet.

use super::message::Batch;
use super::nft_constants::{
    ADDRESS_TYPE_LOCAL, CT_DIRECTION, CT_STATE, CT_STATUS, DATA_VALUE, DATA_VERDICT, EXPRESSION_DATA, EXPRESSION_NAME,
    FIB_DESTINATION, FIB_RESULT_ADDRESS_TYPE, FIB_SOURCE, Family, LIST_ELEMENT, META_IIFNAME, META_L4PROTO, META_MARK,
    META_NFPROTO, META_OIFNAME, VERDICT_CHAIN, VERDICT_CODE,
};

/// One of the sixteen 32-bit registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(u32);

impl Register {
    /// Register `index` (0 to 15).
    #[must_use]
    pub const fn new(index: u32) -> Self {
        Self(8 + index)
    }

    /// The register `count` further on.
    #[must_use]
    pub const fn plus(self, count: u32) -> Self {
        Self(self.0 + count)
    }
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Let it pass this hook.
    Accept,
    /// Discard it.
    Drop,
    /// Leave this chain.
    Return,
    /// Continue in a chain and come back.
    Jump(String),
    /// Continue in a chain for good.
    Goto(String),
}

impl Verdict {
    pub(crate) fn write(&self, batch: &mut Batch) {
        let (code, chain) = match self {
            Self::Accept => (1, None),
            Self::Drop => (0, None),
            Self::Return => (-5_i32, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
        };
        batch.nested(DATA_VERDICT, |batch| {
            batch.attribute_be32(VERDICT_CODE, code.cast_unsigned());
            if let Some(chain) = chain {
                batch.attribute_str(VERDICT_CHAIN, chain);
            }
        });
    }
}

enum Part {
    Numbers { name: &'static str, attributes: Vec<(u16, u32)> },
    Lookup { set: String, key: Register, result: Option<Register>, inverted: bool },
    Compare { register: Register, operation: u32, value: Vec<u8> },
    Bitwise { register: Register, mask: Vec<u8>, flip: Vec<u8> },
    VerdictValue(Verdict),
    Value { register: Register, value: Vec<u8> },
    Update { set: String, operation: u32, key: Register, data: Register, timeout_ms: u64 },
    Reject { kind: u32, code: u8 },
    Extension { name: &'static str, revision: u32, information: Vec<u8> },
    ExtensionTarget { name: &'static str, revision: u32, information: Vec<u8> },
}

/// The expressions of one rule, in the order in which the kernel runs them.
#[derive(Default)]
pub struct Expressions {
    parts: Vec<Part>,
}

impl Expressions {
    /// A rule that matches everything and does nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn numbers(mut self, name: &'static str, attributes: &[(u16, u32)]) -> Self {
        self.parts.push(Part::Numbers { name, attributes: attributes.to_vec() });
        self
    }

    fn network_header(self, offset: u32, length: u32, into: Register) -> Self {
        self.numbers("payload", &[(1, into.0), (2, 1), (3, offset), (4, length)])
    }

    /// Loads the packet's source address.
    #[must_use]
    pub fn load_source(self, family: Family, into: Register) -> Self {
        if family == Family::Ip6 { self.network_header(8, 16, into) } else { self.network_header(12, 4, into) }
    }

    /// Loads the packet's destination address.
    #[must_use]
    pub fn load_destination(self, family: Family, into: Register) -> Self {
        if family == Family::Ip6 { self.network_header(24, 16, into) } else { self.network_header(16, 4, into) }
    }

    /// Loads the transport protocol's number.
    #[must_use]
    pub fn load_protocol(self, into: Register) -> Self {
        self.numbers("meta", &[(2, META_L4PROTO), (1, into.0)])
    }

    /// Loads the destination port.
    #[must_use]
    pub fn load_destination_port(self, into: Register) -> Self {
        self.numbers("payload", &[(1, into.0), (2, 2), (3, 2), (4, 2)])
    }

    /// Loads the source port.
    #[must_use]
    pub fn load_source_port(self, into: Register) -> Self {
        self.numbers("payload", &[(1, into.0), (2, 2), (3, 0), (4, 2)])
    }

    /// Loads the packet's mark.
    #[must_use]
    pub fn load_mark(self, into: Register) -> Self {
        self.numbers("meta", &[(2, META_MARK), (1, into.0)])
    }

    /// Stores the packet's mark.
    #[must_use]
    pub fn store_mark(self, from: Register) -> Self {
        self.numbers("meta", &[(2, META_MARK), (3, from.0)])
    }

    /// Sets bits of the packet's mark; uses the register given.
    #[must_use]
    pub fn set_mark_bits(self, bits: u32, scratch: Register) -> Self {
        self.load_mark(scratch).bitwise(scratch, &(!bits).to_ne_bytes(), &bits.to_ne_bytes()).store_mark(scratch)
    }

    /// Clears bits of the packet's mark; uses the register given.
    #[must_use]
    pub fn clear_mark_bits(self, bits: u32, scratch: Register) -> Self {
        self.load_mark(scratch).bitwise(scratch, &(!bits).to_ne_bytes(), &[0; 4]).store_mark(scratch)
    }

    /// Matches packets that carry all of these mark bits.
    #[must_use]
    pub fn match_mark_bits(self, bits: u32, scratch: Register) -> Self {
        self.load_mark(scratch).bitwise(scratch, &bits.to_ne_bytes(), &[0; 4]).equal(scratch, &bits.to_ne_bytes())
    }

    /// Matches packets of a family, in a table that sees both.
    #[must_use]
    pub fn match_family(self, family: Family, scratch: Register) -> Self {
        self.numbers("meta", &[(2, META_NFPROTO), (1, scratch.0)]).equal(scratch, &[family.number()])
    }

    /// Matches the transport protocol's number.
    #[must_use]
    pub fn match_protocol(self, protocol: u8, scratch: Register) -> Self {
        self.load_protocol(scratch).equal(scratch, &[protocol])
    }

    /// Matches the destination port.
    #[must_use]
    pub fn match_destination_port(self, port: u16, scratch: Register) -> Self {
        self.load_destination_port(scratch).equal(scratch, &port.to_be_bytes())
    }

    /// Matches the incoming interface: its whole name, or the names that begin with it.
    #[must_use]
    pub fn match_input_interface(self, name: &str, prefix_only: bool, scratch: Register) -> Self {
        let value = interface_bytes(name, prefix_only);
        self.numbers("meta", &[(2, META_IIFNAME), (1, scratch.0)]).compare(scratch, 0, &value)
    }

    /// Matches every incoming interface but this one.
    #[must_use]
    pub fn match_input_interface_not(self, name: &str, scratch: Register) -> Self {
        let value = interface_bytes(name, false);
        self.numbers("meta", &[(2, META_IIFNAME), (1, scratch.0)]).compare(scratch, 1, &value)
    }

    /// Matches the outgoing interface: its whole name, or the names that begin with it.
    #[must_use]
    pub fn match_output_interface(self, name: &str, prefix_only: bool, scratch: Register) -> Self {
        let value = interface_bytes(name, prefix_only);
        self.numbers("meta", &[(2, META_OIFNAME), (1, scratch.0)]).compare(scratch, 0, &value)
    }

    /// Matches any of these conntrack state bits (2 established, 4 related, 8 new).
    #[must_use]
    pub fn match_connection_state(self, bits: u32, scratch: Register) -> Self {
        self.numbers("ct", &[(2, CT_STATE), (1, scratch.0)])
            .bitwise(scratch, &bits.to_ne_bytes(), &[0; 4])
            .compare(scratch, 1, &[0; 4])
    }

    /// [`Expressions::match_connection_state`] as iptables writes it (`-m conntrack --ctstate`): in a table of iptables' the expression of
    /// nftables would make iptables refuse the whole table. Needs xt_conntrack in the kernel, which iptables brings along.
    #[must_use]
    pub fn match_connection_state_of_iptables(mut self, bits: u8) -> Self {
        /// The aligned size of xt_conntrack_mtinfo3, and where its match_flags and state_mask are.
        const BYTES: usize = 168;
        const FLAGS_AT: usize = 146;
        const STATE_AT: usize = 150;
        /// XT_CONNTRACK_STATE.
        const FLAG_STATE: u16 = 1;
        let mut information = vec![0; BYTES];
        for (at, value) in [(FLAGS_AT, FLAG_STATE), (STATE_AT, u16::from(bits))] {
            information.splice(at..at + 2, value.to_ne_bytes());
        }
        self.parts.push(Part::Extension { name: "conntrack", revision: 3, information });
        self
    }

    /// Matches connections whose conntrack status has any of these bits (0x20 destination translated).
    #[must_use]
    pub fn match_connection_status(self, bits: u32, scratch: Register) -> Self {
        self.numbers("ct", &[(2, CT_STATUS), (1, scratch.0)])
            .bitwise(scratch, &bits.to_ne_bytes(), &[0; 4])
            .compare(scratch, 1, &[0; 4])
    }

    /// Matches packets whose source is an address of this host.
    #[must_use]
    pub fn match_source_is_local(self, scratch: Register) -> Self {
        self.numbers("fib", &[(3, FIB_SOURCE), (2, FIB_RESULT_ADDRESS_TYPE), (1, scratch.0)])
            .equal(scratch, &ADDRESS_TYPE_LOCAL.to_ne_bytes())
    }

    /// Matches packets whose source is no address of this host.
    #[must_use]
    pub fn match_source_is_foreign(self, scratch: Register) -> Self {
        self.numbers("fib", &[(3, FIB_SOURCE), (2, FIB_RESULT_ADDRESS_TYPE), (1, scratch.0)]).compare(
            scratch,
            1,
            &ADDRESS_TYPE_LOCAL.to_ne_bytes(),
        )
    }

    /// Matches packets whose destination is an address of this host.
    #[must_use]
    pub fn match_destination_is_local(self, scratch: Register) -> Self {
        self.numbers("fib", &[(3, FIB_DESTINATION), (2, FIB_RESULT_ADDRESS_TYPE), (1, scratch.0)])
            .equal(scratch, &ADDRESS_TYPE_LOCAL.to_ne_bytes())
    }

    /// Matches packets whose source is (or with `inverted` is not) within a prefix.
    #[must_use]
    pub fn match_source_prefix(self, prefix: &crate::Prefix, inverted: bool, scratch: Register) -> Self {
        self.load_source(prefix.family(), scratch).prefix(prefix, inverted, scratch)
    }

    /// Matches packets whose destination is (or with `inverted` is not) within a prefix.
    #[must_use]
    pub fn match_destination_prefix(self, prefix: &crate::Prefix, inverted: bool, scratch: Register) -> Self {
        self.load_destination(prefix.family(), scratch).prefix(prefix, inverted, scratch)
    }

    fn prefix(self, prefix: &crate::Prefix, inverted: bool, scratch: Register) -> Self {
        let zero = vec![0; prefix.mask_bytes().len()];
        self.bitwise(scratch, &prefix.mask_bytes(), &zero).compare(
            scratch,
            u32::from(inverted),
            &prefix.network_bytes(),
        )
    }

    /// Puts a random number in `offset .. offset + modulus` into a register.
    #[must_use]
    pub fn random(self, modulus: u32, offset: u32, into: Register) -> Self {
        self.numbers("numgen", &[(1, into.0), (2, modulus), (3, 1), (4, offset)])
    }

    /// Continues for so many of ten thousand packets, drawn at random.
    #[must_use]
    pub fn match_share(self, of_ten_thousand: u32, scratch: Register) -> Self {
        // Values are compared byte by byte, so the number is put into the network's order first (byteorder: to network, 4 of 4 bytes).
        self.random(10_000, 0, scratch)
            .numbers("byteorder", &[(1, scratch.0), (2, scratch.0), (3, 1), (4, 4), (5, 4)])
            .compare(scratch, 2, &of_ten_thousand.to_be_bytes())
    }

    /// Hands packets to a program's queue (the extension NFQUEUE); without the program they pass.
    #[must_use]
    pub fn queue(mut self, number: u16) -> Self {
        /// struct xt_NFQ_info_v3: queue, how many, flags (1: pass without a program); aligned.
        const PASS: u16 = 1;
        let information = [number, 1, PASS, 0].into_iter().flat_map(u16::to_ne_bytes).collect();
        self.parts.push(Part::ExtensionTarget { name: "NFQUEUE", revision: 3, information });
        self
    }

    /// Looks a key up in a map and continues only if it is there; the value goes to `into`.
    #[must_use]
    pub fn lookup(mut self, map: &str, key: Register, into: Register) -> Self {
        self.parts.push(Part::Lookup { set: map.to_owned(), key, result: Some(into), inverted: false });
        self
    }

    /// Looks a key up in a verdict map and obeys the verdict.
    #[must_use]
    pub fn lookup_verdict(self, map: &str, key: Register) -> Self {
        self.lookup(map, key, Register(0))
    }

    /// Continues only if the key is in the set (or, inverted, is not).
    #[must_use]
    pub fn contained(mut self, set: &str, key: Register, inverted: bool) -> Self {
        self.parts.push(Part::Lookup { set: set.to_owned(), key, result: None, inverted });
        self
    }

    /// Continues only if the register holds this value.
    #[must_use]
    pub fn equal(self, register: Register, value: &[u8]) -> Self {
        self.compare(register, 0, value)
    }

    fn compare(mut self, register: Register, operation: u32, value: &[u8]) -> Self {
        self.parts.push(Part::Compare { register, operation, value: value.to_vec() });
        self
    }

    /// register = (register & mask) ^ flip.
    #[must_use]
    pub fn bitwise(mut self, register: Register, mask: &[u8], flip: &[u8]) -> Self {
        self.parts.push(Part::Bitwise { register, mask: mask.to_vec(), flip: flip.to_vec() });
        self
    }

    /// Copies a register to others by way of the packet's mark, which keeps its value; `saved` holds it meanwhile.
    ///
    /// nft(8) takes what a map lookup found to have no length, and stops with a failed assertion where such a register is (part of) a
    /// key. A mark has a length. Nothing can end the rule half-way, so the mark is put back whatever follows.
    #[must_use]
    pub fn copy_through_mark(self, from: Register, into: &[Register], saved: Register) -> Self {
        let marked = self.load_mark(saved).store_mark(from);
        into.iter().fold(marked, |rule, into| rule.load_mark(*into)).store_mark(saved)
    }

    /// Adds an element to a dynamic map from registers; of one that is there only the timeout is refreshed, not the value.
    #[must_use]
    pub fn update(self, map: &str, key: Register, data: Register, timeout_ms: u64) -> Self {
        self.dynamic(1, map, key, data, timeout_ms)
    }

    /// Removes an element from a dynamic map, if it is there. The kernel wants a data register to be named for maps.
    #[must_use]
    pub fn forget(self, map: &str, key: Register, data: Register, timeout_ms: u64) -> Self {
        self.dynamic(2, map, key, data, timeout_ms)
    }

    fn dynamic(mut self, operation: u32, map: &str, key: Register, data: Register, timeout_ms: u64) -> Self {
        self.parts.push(Part::Update { set: map.to_owned(), operation, key, data, timeout_ms });
        self
    }

    /// Translates the destination to the address and port in registers, and ends.
    #[must_use]
    pub fn translate_destination(self, family: Family, address: Register, port: Register) -> Self {
        self.numbers("nat", &[(1, 1), (2, u32::from(family.number())), (3, address.0), (5, port.0)])
    }

    /// Puts a constant into a register.
    #[must_use]
    pub fn load_value(mut self, bytes: &[u8], into: Register) -> Self {
        self.parts.push(Part::Value { register: into, value: bytes.to_vec() });
        self
    }

    /// Translates the source to the address in registers, and ends. Ports are chosen at random where they collide.
    #[must_use]
    pub fn translate_source(self, family: Family, address: Register) -> Self {
        self.numbers("nat", &[(1, 0), (2, u32::from(family.number())), (3, address.0), (7, 1 << 4)])
    }

    /// Replaces the source address by that of the outgoing interface, and ends. Ports are chosen at random where they collide.
    #[must_use]
    pub fn masquerade(self) -> Self {
        // NF_NAT_RANGE_PROTO_RANDOM_FULLY
        self.numbers("masq", &[(1, 1 << 4)])
    }

    /// Answers with a TCP reset.
    #[must_use]
    pub fn reject_with_reset(mut self) -> Self {
        self.parts.push(Part::Reject { kind: 1, code: 0 });
        self
    }

    /// Answers with ICMP "port unreachable".
    #[must_use]
    pub fn reject_port_unreachable(mut self, family: Family) -> Self {
        self.parts.push(Part::Reject { kind: 0, code: if family == Family::Ip6 { 4 } else { 3 } });
        self
    }

    /// Counts packets and bytes.
    #[must_use]
    pub fn counter(self) -> Self {
        self.numbers("counter", &[])
    }

    /// Ends with a verdict.
    #[must_use]
    pub fn verdict(mut self, verdict: Verdict) -> Self {
        self.parts.push(Part::VerdictValue(verdict));
        self
    }

    pub(crate) fn write(&self, batch: &mut Batch) {
        for part in &self.parts {
            batch.nested(LIST_ELEMENT, |batch| part.write(batch));
        }
    }
}

/// What filters need beyond translation.
impl Expressions {
    /// Loads the name of the incoming interface, in four registers.
    #[must_use]
    pub fn load_input_interface(self, into: Register) -> Self {
        self.numbers("meta", &[(2, META_IIFNAME), (1, into.0)])
    }

    /// Matches packets in the direction of answers.
    #[must_use]
    pub fn match_reply_direction(self, scratch: Register) -> Self {
        self.numbers("ct", &[(2, CT_DIRECTION), (1, scratch.0)]).equal(scratch, &[1])
    }

    /// Matches TCP packets of which the flags under a mask are not these.
    #[must_use]
    pub fn match_tcp_flags_not(self, mask: u8, flags: u8, scratch: Register) -> Self {
        self.match_protocol(6, scratch)
            .numbers("payload", &[(1, scratch.0), (2, 2), (3, 13), (4, 1)])
            .bitwise(scratch, &[mask], &[0])
            .compare(scratch, 1, &[flags])
    }
}

fn interface_bytes(name: &str, prefix_only: bool) -> Vec<u8> {
    let mut value = name.as_bytes().to_vec();
    if !prefix_only {
        value.resize(16, 0);
    }
    value
}

fn value(batch: &mut Batch, kind: u16, bytes: &[u8]) {
    batch.nested(kind, |batch| batch.attribute(DATA_VALUE, bytes));
}

impl Part {
    fn write(&self, batch: &mut Batch) {
        let name = match self {
            Self::Numbers { name, .. } => name,
            Self::Lookup { .. } => "lookup",
            Self::Compare { .. } => "cmp",
            Self::Bitwise { .. } => "bitwise",
            Self::VerdictValue(_) | Self::Value { .. } => "immediate",
            Self::Update { .. } => "dynset",
            Self::Reject { .. } => "reject",
            Self::Extension { .. } => "match",
            Self::ExtensionTarget { .. } => "target",
        };
        batch.attribute_str(EXPRESSION_NAME, name);
        batch.nested(EXPRESSION_DATA, |batch| match self {
            Self::Numbers { attributes, .. } => {
                for (kind, number) in attributes {
                    batch.attribute_be32(*kind, *number);
                }
            }
            Self::Lookup { set, key, result, inverted } => {
                batch.attribute_str(1, set);
                batch.attribute_be32(2, key.0);
                if let Some(result) = result {
                    batch.attribute_be32(3, result.0);
                }
                if *inverted {
                    batch.attribute_be32(5, 1);
                }
            }
            Self::Compare { register, operation, value: bytes } => {
                batch.attribute_be32(1, register.0);
                batch.attribute_be32(2, *operation);
                value(batch, 3, bytes);
            }
            Self::Bitwise { register, mask, flip } => {
                batch.attribute_be32(1, register.0);
                batch.attribute_be32(2, register.0);
                batch.attribute_be32(3, u32::try_from(mask.len()).unwrap_or(4));
                value(batch, 4, mask);
                value(batch, 5, flip);
            }
            Self::VerdictValue(verdict) => {
                batch.attribute_be32(1, 0);
                batch.nested(2, |batch| verdict.write(batch));
            }
            Self::Value { register, value: bytes } => {
                batch.attribute_be32(1, register.0);
                value(batch, 2, bytes);
            }
            Self::Update { set, operation, key, data, timeout_ms } => {
                batch.attribute_str(1, set);
                batch.attribute_be32(3, *operation);
                batch.attribute_be32(4, key.0);
                batch.attribute_be32(5, data.0);
                batch.attribute(6, &timeout_ms.to_be_bytes());
            }
            Self::Extension { name, revision, information } | Self::ExtensionTarget { name, revision, information } => {
                batch.attribute_str(1, name);
                batch.attribute_be32(2, *revision);
                batch.attribute(3, information);
            }
            Self::Reject { kind, code } => {
                batch.attribute_be32(1, *kind);
                if *kind == 0 {
                    batch.attribute(2, &[*code]);
                }
            }
        });
    }
}
