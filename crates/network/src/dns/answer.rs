//! Answers a question from the zone, or says where else the answer is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::name::{is_within, parent};
use super::wire::{
    Answer, CLASS_IN, Owner, Query, RCODE_NO_NAME, RCODE_OK, RCODE_REFUSED, Section, TYPE_A, TYPE_AAAA, TYPE_ANY,
    TYPE_CNAME, TYPE_NS, TYPE_PTR, TYPE_SOA, TYPE_SRV, TYPE_TXT, bad_version_answer, empty_answer,
};
use super::zone::{Node, Record, SPECIFICATION_VERSION, Zone};

/// How long clients may remember answers of the zone.
pub(crate) const TTL_S: u32 = 5;
/// An alias may lead to another alias of the zone this often.
const ALIASES_MAX: usize = 8;

/// What became of a question.
pub(crate) enum Outcome {
    /// The answer is in the buffer.
    Answered,
    /// The name is not the cluster's.
    Forward,
    /// The name stands for this one outside (ExternalName): its addresses come from elsewhere.
    Alias(Arc<[u8]>),
}

/// Answers a question, if it is about the cluster. `turn` rotates the order of addresses.
pub(crate) fn answer(zone: &Zone, query: &Query<'_>, is_tcp: bool, turn: usize, out: &mut Vec<u8>) -> Outcome {
    if query.edns.is_some_and(|edns| edns.version != 0) {
        bad_version_answer(out, query);
        return Outcome::Answered;
    }
    if query.class != CLASS_IN {
        empty_answer(out, query, RCODE_REFUSED);
        return Outcome::Answered;
    }
    if is_within(query.name(), zone.domain().wire()) {
        return from_zone(zone, query, is_tcp, turn, out);
    }
    if let Some(address) = reverse_address(query.name()) {
        let names = zone.names_of(address);
        if !names.is_empty() {
            let mut answer = Answer::begin(out, query, RCODE_OK, true, is_tcp);
            if matches!(query.kind, TYPE_PTR | TYPE_ANY) {
                for name in names {
                    answer.record(Section::Answer, &Owner::Question, TYPE_PTR, TTL_S, &[name]);
                }
            }
            answer.finish();
            return Outcome::Answered;
        }
        if zone.owns_address(address) {
            negative(zone, query, RCODE_NO_NAME, is_tcp, out);
            return Outcome::Answered;
        }
    }
    Outcome::Forward
}

fn from_zone(zone: &Zone, query: &Query<'_>, is_tcp: bool, turn: usize, out: &mut Vec<u8>) -> Outcome {
    let name = query.name();
    let Some(node) = zone.find(name) else {
        match zone.pod_record(name) {
            Some(Some(address)) => {
                let node = Node::of_address(address);
                return positive(zone, query, &node, is_tcp, turn, out);
            }
            Some(None) => negative(zone, query, RCODE_OK, is_tcp, out),
            None => negative(zone, query, RCODE_NO_NAME, is_tcp, out),
        }
        return Outcome::Answered;
    };
    positive(zone, query, node, is_tcp, turn, out)
}

fn positive(zone: &Zone, query: &Query<'_>, node: &Node, is_tcp: bool, turn: usize, out: &mut Vec<u8>) -> Outcome {
    if let [Record::Alias(target)] = &node.records[..] {
        return alias(zone, query, target, is_tcp, turn, out);
    }
    let is_version = matches!(query.kind, TYPE_TXT | TYPE_ANY) && is_version_name(zone, query.name());
    let is_apex = query.name() == zone.domain().wire();
    let has_match = node.records.iter().any(|record| matches(record, query.kind));
    if !(has_match || is_version || is_apex && matches!(query.kind, TYPE_SOA | TYPE_NS | TYPE_ANY)) {
        negative(zone, query, RCODE_OK, is_tcp, out);
        return Outcome::Answered;
    }
    let mut answer = Answer::begin(out, query, RCODE_OK, true, is_tcp);
    add_records(&mut answer, &Owner::Question, node, query.kind, turn);
    if is_version {
        let length = [u8::try_from(SPECIFICATION_VERSION.len()).unwrap_or(0)];
        answer.record(Section::Answer, &Owner::Question, TYPE_TXT, TTL_S, &[&length, SPECIFICATION_VERSION.as_bytes()]);
    }
    if is_apex {
        add_apex(&mut answer, zone, query.kind);
    }
    if query.kind == TYPE_SRV {
        for record in &node.records {
            if let Record::Srv { target, .. } = record
                && let Some(node) = zone.find(target)
            {
                for kind in [TYPE_A, TYPE_AAAA] {
                    for record in &node.records {
                        if matches(record, kind) {
                            add_record(&mut answer, Section::Additional, &Owner::Other(target), record);
                        }
                    }
                }
            }
        }
    }
    answer.finish();
    Outcome::Answered
}

/// Follows aliases within the zone; one that leads outside is resolved elsewhere unless the alias itself was asked for.
fn alias(zone: &Zone, query: &Query<'_>, target: &Arc<[u8]>, is_tcp: bool, turn: usize, out: &mut Vec<u8>) -> Outcome {
    let mut chain: Vec<&Arc<[u8]>> = vec![target];
    let wants_alias = matches!(query.kind, TYPE_CNAME | TYPE_ANY);
    let mut last = None;
    while !wants_alias && chain.len() <= ALIASES_MAX {
        let Some(current) = chain.last() else { break };
        if !is_within(current, zone.domain().wire()) {
            if chain.len() == 1 {
                return Outcome::Alias(Arc::clone(target));
            }
            break;
        }
        last = zone.find(current);
        match last.map(|node| &node.records[..]) {
            Some([Record::Alias(next)]) => chain.push(next),
            _ => break,
        }
    }
    let mut answer = Answer::begin(out, query, RCODE_OK, true, is_tcp);
    let mut owner = Owner::Question;
    for name in &chain {
        answer.record(Section::Answer, &owner, TYPE_CNAME, TTL_S, &[name]);
        owner = Owner::Other(name);
    }
    if let Some(node) = last {
        add_records(&mut answer, &owner, node, query.kind, turn);
    }
    answer.finish();
    Outcome::Answered
}

fn add_records(answer: &mut Answer<'_>, owner: &Owner<'_>, node: &Node, kind: u16, turn: usize) {
    let count = node.records.len();
    let (head, tail) = node.records.split_at(if count == 0 { 0 } else { turn % count });
    for record in tail.iter().chain(head).filter(|record| matches(record, kind)) {
        add_record(answer, Section::Answer, owner, record);
    }
}

fn add_record(answer: &mut Answer<'_>, section: Section, owner: &Owner<'_>, record: &Record) {
    match record {
        Record::A(address) => answer.record(section, owner, TYPE_A, TTL_S, &[&address.octets()]),
        Record::Aaaa(address) => answer.record(section, owner, TYPE_AAAA, TTL_S, &[&address.octets()]),
        Record::Srv { port, target } => {
            let [high, low] = port.to_be_bytes();
            // Priority 0, weight 100.
            answer.record(section, owner, TYPE_SRV, TTL_S, &[&[0, 0, 0, 100, high, low], target]);
        }
        Record::Alias(target) => answer.record(section, owner, TYPE_CNAME, TTL_S, &[target]),
    }
}

fn matches(record: &Record, kind: u16) -> bool {
    kind == TYPE_ANY
        || kind
            == match record {
                Record::A(_) => TYPE_A,
                Record::Aaaa(_) => TYPE_AAAA,
                Record::Srv { .. } => TYPE_SRV,
                Record::Alias(_) => TYPE_CNAME,
            }
}

fn is_version_name(zone: &Zone, name: &[u8]) -> bool {
    name.starts_with(b"\x0bdns-version") && parent(name) == Some(zone.domain().wire())
}

/// The zone does not hold what was asked for; the SOA tells for how long to remember that (RFC 2308).
fn negative(zone: &Zone, query: &Query<'_>, code: u8, is_tcp: bool, out: &mut Vec<u8>) {
    let mut answer = Answer::begin(out, query, code, true, is_tcp);
    add_soa(&mut answer, zone, Section::Authority);
    answer.finish();
}

fn add_soa(answer: &mut Answer<'_>, zone: &Zone, section: Section) {
    let domain = zone.domain().wire();
    let mut numbers = [0_u8; 20];
    // Serial, refresh, retry, expire, minimum.
    for (target, number) in numbers.chunks_exact_mut(4).zip([zone.serial(), 7200, 1800, 86_400, TTL_S]) {
        target.copy_from_slice(&number.to_be_bytes());
    }
    answer.record(
        section,
        &Owner::Other(domain),
        TYPE_SOA,
        TTL_S,
        &[b"\x02ns\x03dns", domain, b"\x0ahostmaster", domain, &numbers],
    );
}

fn add_apex(answer: &mut Answer<'_>, zone: &Zone, kind: u16) {
    if matches!(kind, TYPE_SOA | TYPE_ANY) {
        add_soa(answer, zone, Section::Answer);
    }
    if matches!(kind, TYPE_NS | TYPE_ANY) {
        answer.record(Section::Answer, &Owner::Question, TYPE_NS, TTL_S, &[b"\x02ns\x03dns", zone.domain().wire()]);
    }
}

/// The address in a name under in-addr.arpa or ip6.arpa.
fn reverse_address(name: &[u8]) -> Option<IpAddr> {
    const V4: &[u8] = b"\x07in-addr\x04arpa\x00";
    const V6: &[u8] = b"\x03ip6\x04arpa\x00";
    if let Some(mut rest) = name.strip_suffix(V4) {
        let mut octets = [0_u8; 4];
        for octet in octets.iter_mut().rev() {
            let label = label(&mut rest)?;
            *octet = std::str::from_utf8(label).ok()?.parse().ok()?;
        }
        return rest.is_empty().then(|| IpAddr::V4(Ipv4Addr::from(octets)));
    }
    let mut rest = name.strip_suffix(V6)?;
    let mut bits = 0_u128;
    for position in 0..32 {
        let [digit] = label(&mut rest)? else { return None };
        bits |= u128::from(char::from(*digit).to_digit(16)?) << (4 * position);
    }
    rest.is_empty().then(|| IpAddr::V6(Ipv6Addr::from_bits(bits)))
}

fn label<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::from(*rest.first()?);
    let label = rest.get(1..=length)?;
    *rest = rest.get(1 + length..)?;
    Some(label)
}
