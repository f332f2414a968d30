//! DNS messages on the wire: reads questions, writes answers from our own zone, finds the TTLs in answers of others.
//!
//! Only what the hot path needs is here; messages of others that must be taken apart go through hickory-proto.

/// A query larger than this is no query of an honest client.
pub(crate) const QUERY_BYTES_MAX: usize = 4096;
/// What a client without EDNS can take over UDP.
const UDP_BYTES_PLAIN: usize = 512;
/// What we send over UDP at most: larger answers risk fragmentation.
const UDP_BYTES_MAX: usize = 1232;
const HEADER_BYTES: usize = 12;
/// Records walked over in a query: an OPT and perhaps a signature.
const QUERY_RECORDS_MAX: u16 = 8;
/// Records walked over in an answer.
const ANSWER_RECORDS_MAX: u32 = 4096;

pub(crate) const TYPE_A: u16 = 1;
pub(crate) const TYPE_NS: u16 = 2;
pub(crate) const TYPE_CNAME: u16 = 5;
pub(crate) const TYPE_SOA: u16 = 6;
pub(crate) const TYPE_PTR: u16 = 12;
pub(crate) const TYPE_TXT: u16 = 16;
pub(crate) const TYPE_AAAA: u16 = 28;
pub(crate) const TYPE_SRV: u16 = 33;
const TYPE_OPT: u16 = 41;
pub(crate) const TYPE_ANY: u16 = 255;
pub(crate) const CLASS_IN: u16 = 1;

pub(crate) const RCODE_OK: u8 = 0;
pub(crate) const RCODE_FORMAT: u8 = 1;
pub(crate) const RCODE_FAILURE: u8 = 2;
pub(crate) const RCODE_NO_NAME: u8 = 3;
pub(crate) const RCODE_NOT_IMPLEMENTED: u8 = 4;
pub(crate) const RCODE_REFUSED: u8 = 5;

/// A client's EDNS (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) udp_bytes: u16,
    pub(crate) version: u8,
    pub(crate) wants_dnssec: bool,
}

/// A query with its one question.
pub(crate) struct Query<'a> {
    bytes: &'a [u8],
    name: [u8; 256],
    name_length: usize,
    question_end: usize,
    pub(crate) kind: u16,
    pub(crate) class: u16,
    pub(crate) edns: Option<Edns>,
}

/// Why a datagram is not answered from the zone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// It gets no answer at all: too short, or an answer itself.
    Ignore,
    /// It gets an answer with this code only.
    Answer(u8),
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

impl<'a> Query<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Unusable> {
        if bytes.len() < HEADER_BYTES || bytes.len() > QUERY_BYTES_MAX || bytes[2] & 0x80 != 0 {
            return Err(Unusable::Ignore);
        }
        if bytes[2] & 0x78 != 0 {
            return Err(Unusable::Answer(RCODE_NOT_IMPLEMENTED));
        }
        Self::parse_body(bytes).ok_or(Unusable::Answer(RCODE_FORMAT))
    }

    fn parse_body(bytes: &'a [u8]) -> Option<Self> {
        if u16_at(bytes, 4)? != 1 {
            return None;
        }
        let mut name = [0_u8; 256];
        let mut at = HEADER_BYTES;
        let mut length = 0;
        loop {
            let label = usize::from(*bytes.get(at)?);
            // A pointer, or an unknown label type, has no place in a question.
            if label > 63 || length + label + 1 > 255 {
                return None;
            }
            for (target, source) in name.get_mut(length..=length + label)?.iter_mut().zip(bytes.get(at..=at + label)?) {
                *target = source.to_ascii_lowercase();
            }
            // Lower-casing leaves a length byte alone: it is below 64.
            length += label + 1;
            at += label + 1;
            if label == 0 {
                break;
            }
        }
        let (kind, class) = (u16_at(bytes, at)?, u16_at(bytes, at + 2)?);
        let question_end = at + 4;
        let records = u16_at(bytes, 6)?.checked_add(u16_at(bytes, 8)?)?.checked_add(u16_at(bytes, 10)?)?;
        if records > QUERY_RECORDS_MAX {
            return None;
        }
        let mut edns = None;
        let mut at = question_end;
        for _ in 0..records {
            at = skip_name(bytes, at)?;
            let record_kind = u16_at(bytes, at)?;
            let length = usize::from(u16_at(bytes, at + 8)?);
            if record_kind == TYPE_OPT {
                if edns.is_some() {
                    return None;
                }
                let flags = bytes.get(at + 4..at + 8)?;
                edns = Some(Edns {
                    udp_bytes: u16_at(bytes, at + 2)?,
                    version: flags[1],
                    wants_dnssec: flags[2] & 0x80 != 0,
                });
            }
            at += 10 + length;
            bytes.get(..at)?;
        }
        Some(Self { bytes, name, name_length: length, question_end, kind, class, edns })
    }

    /// The name asked for, in lower case.
    pub(crate) fn name(&self) -> &[u8] {
        self.name.get(..self.name_length).unwrap_or_default()
    }

    /// How large an answer may be.
    pub(crate) fn answer_bytes_max(&self, is_tcp: bool) -> usize {
        if is_tcp {
            usize::from(u16::MAX)
        } else {
            self.edns.map_or(UDP_BYTES_PLAIN, |edns| usize::from(edns.udp_bytes).clamp(UDP_BYTES_PLAIN, UDP_BYTES_MAX))
        }
    }

    /// The whole query.
    pub(crate) const fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// Whether the client accepts unvalidated data (the CD bit): such answers are cached apart.
    pub(crate) fn checking_disabled(&self) -> bool {
        self.bytes[3] & 0x10 != 0
    }
}

/// Skips a name that may be compressed.
fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            192.. => return Some(at + 2),
            _ => return None,
        }
    }
}

/// Writes an answer into a buffer that is used again and again.
pub(crate) struct Answer<'a> {
    out: &'a mut Vec<u8>,
    bytes_max: usize,
    counts: [u16; 3],
    edns: bool,
    is_truncated: bool,
    extended_code: u8,
}

/// The sections of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Answer = 0,
    Authority = 1,
    Additional = 2,
}

/// The owner of a record.
pub(crate) enum Owner<'a> {
    /// The name of the question, as a pointer to it.
    Question,
    /// Another name.
    Other(&'a [u8]),
}

/// An OPT record of ours.
const OPT_BYTES: usize = 11;

impl<'a> Answer<'a> {
    /// Begins the answer to a query, authoritative or not.
    pub(crate) fn begin(
        out: &'a mut Vec<u8>,
        query: &Query<'_>,
        code: u8,
        is_authoritative: bool,
        is_tcp: bool,
    ) -> Self {
        out.clear();
        out.extend_from_slice(query.bytes.get(..query.question_end).unwrap_or_default());
        // QR, AA; RD is echoed. RA: names outside the zone are resolved.
        out[2] = 0x80 | (out[2] & 0x01) | if is_authoritative { 0x04 } else { 0 };
        out[3] = 0x80 | code;
        out[6..12].fill(0);
        Self {
            out,
            bytes_max: query.answer_bytes_max(is_tcp),
            counts: [0; 3],
            edns: query.edns.is_some(),
            is_truncated: false,
            extended_code: 0,
        }
    }

    /// Adds a record; past the client's limit the answer is marked as truncated, except for additional records, which are just left out.
    pub(crate) fn record(&mut self, section: Section, owner: &Owner<'_>, kind: u16, ttl_s: u32, data: &[&[u8]]) {
        let data_bytes: usize = data.iter().map(|part| part.len()).sum();
        let owner_bytes = match owner {
            Owner::Question => 2,
            Owner::Other(name) => name.len(),
        };
        let reserved = if self.edns { OPT_BYTES } else { 0 };
        if self.is_truncated || self.out.len() + owner_bytes + 10 + data_bytes + reserved > self.bytes_max {
            self.is_truncated |= section == Section::Answer;
            return;
        }
        match owner {
            Owner::Question => self.out.extend_from_slice(&[0xc0, 12]),
            Owner::Other(name) => self.out.extend_from_slice(name),
        }
        self.out.extend_from_slice(&kind.to_be_bytes());
        self.out.extend_from_slice(&CLASS_IN.to_be_bytes());
        self.out.extend_from_slice(&ttl_s.to_be_bytes());
        self.out.extend_from_slice(&u16::try_from(data_bytes).unwrap_or(u16::MAX).to_be_bytes());
        for part in data {
            self.out.extend_from_slice(part);
        }
        self.counts[section as usize] = self.counts[section as usize].saturating_add(1);
    }

    /// Ends the answer.
    pub(crate) fn finish(mut self) {
        if self.edns {
            self.out.extend_from_slice(&[0, 0, 41]);
            self.out.extend_from_slice(&u16::try_from(UDP_BYTES_MAX).unwrap_or(512).to_be_bytes());
            self.out.extend_from_slice(&[self.extended_code, 0, 0, 0, 0, 0]);
            self.counts[2] += 1;
        }
        if self.is_truncated {
            self.out[2] |= 0x02;
        }
        for (index, count) in self.counts.iter().enumerate() {
            self.out[6 + 2 * index..8 + 2 * index].copy_from_slice(&count.to_be_bytes());
        }
    }
}

/// An answer without records.
pub(crate) fn empty_answer(out: &mut Vec<u8>, query: &Query<'_>, code: u8) {
    Answer::begin(out, query, code, false, true).finish();
}

/// The answer to an EDNS version that we do not know (BADVERS).
pub(crate) fn bad_version_answer(out: &mut Vec<u8>, query: &Query<'_>) {
    let mut answer = Answer::begin(out, query, RCODE_OK, false, true);
    answer.extended_code = 1;
    answer.finish();
}

/// An answer to bytes that could not be understood: a header with the code.
pub(crate) fn header_answer(out: &mut Vec<u8>, bytes: &[u8], code: u8) {
    out.clear();
    out.extend_from_slice(bytes.get(..2).unwrap_or(&[0, 0]));
    let (opcode, recursion) = bytes.get(2).map_or((0, 0), |flags| (flags & 0x78, flags & 0x01));
    out.extend_from_slice(&[0x80 | opcode | recursion, 0x80 | code, 0, 0, 0, 0, 0, 0, 0, 0]);
}

/// What a cache needs to know of an answer from elsewhere.
pub(crate) struct Shape {
    /// Where its TTLs stand.
    pub(crate) ttl_offsets: Vec<u32>,
    /// The smallest of them; for negative answers also bounded by the SOA (RFC 2308).
    pub(crate) ttl_s: u32,
    /// Its code.
    pub(crate) code: u8,
    /// Whether it was cut.
    pub(crate) is_truncated: bool,
}

/// Checks that `answer` answers `query`, and finds its TTLs. None if it is malformed or answers something else.
pub(crate) fn shape_of(answer: &[u8], query: &Query<'_>) -> Option<Shape> {
    if answer.len() < HEADER_BYTES || answer[2] & 0x80 == 0 || u16_at(answer, 4)? != 1 {
        return None;
    }
    let question = query.bytes.get(HEADER_BYTES..query.question_end)?;
    if !answer.get(HEADER_BYTES..query.question_end)?.eq_ignore_ascii_case(question) {
        return None;
    }
    let counts = [u16_at(answer, 6)?, u16_at(answer, 8)?, u16_at(answer, 10)?].map(u32::from);
    let total: u32 = counts.iter().sum();
    if total > ANSWER_RECORDS_MAX {
        return None;
    }
    let mut shape =
        Shape { ttl_offsets: Vec::new(), ttl_s: u32::MAX, code: answer[3] & 0x0f, is_truncated: answer[2] & 0x02 != 0 };
    let is_negative = counts[0] == 0;
    let mut has_soa = false;
    let mut at = query.question_end;
    for _ in 0..total {
        at = skip_name(answer, at)?;
        let kind = u16_at(answer, at)?;
        let length = usize::from(u16_at(answer, at + 8)?);
        let data = answer.get(at + 10..at + 10 + length)?;
        if kind != TYPE_OPT {
            let ttl_s = answer.get(at + 4..at + 8)?.try_into().ok().map(u32::from_be_bytes)?;
            shape.ttl_offsets.push(u32::try_from(at + 4).ok()?);
            shape.ttl_s = shape.ttl_s.min(ttl_s);
            if kind == TYPE_SOA && is_negative {
                has_soa = true;
                let minimum = data.len().checked_sub(4).and_then(|start| data.get(start..))?;
                shape.ttl_s = shape.ttl_s.min(u32::from_be_bytes(minimum.try_into().ok()?));
            }
        }
        at += 10 + length;
    }
    if is_negative && !has_soa {
        shape.ttl_s = 0;
    }
    Some(shape)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(crate::dns::Name::parse(name).unwrap().wire());
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&[0, 1]);
        bytes
    }

    #[test]
    fn questions_are_read_or_refused() {
        let bytes = query("web.default.svc.cluster.local", TYPE_A);
        let parsed = Query::parse(&bytes).unwrap();
        assert_eq!((parsed.kind, parsed.class, parsed.edns), (TYPE_A, CLASS_IN, None));
        let mut response = bytes.clone();
        response[2] |= 0x80;
        assert_eq!(Query::parse(&response).err(), Some(Unusable::Ignore), "answers are never answered: no loops");
        let mut update = bytes.clone();
        update[2] = 0x28;
        assert_eq!(Query::parse(&update).err(), Some(Unusable::Answer(RCODE_NOT_IMPLEMENTED)));
        let mut pointer = bytes.clone();
        pointer[12] = 0xc0;
        assert_eq!(Query::parse(&pointer).err(), Some(Unusable::Answer(RCODE_FORMAT)));
        for length in 12..bytes.len() {
            assert_eq!(Query::parse(&bytes[..length]).err(), Some(Unusable::Answer(RCODE_FORMAT)), "cut at {length}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let valid = query("a.b", TYPE_A);
            let parsed = Query::parse(&valid).unwrap();
            let _ = shape_of(&bytes, &parsed);
            let mut answer = valid.clone();
            answer[2] |= 0x80;
            answer.extend_from_slice(&bytes);
            answer[7] = 9;
            let _ = shape_of(&answer, &parsed);
            if let Ok(query) = Query::parse(&bytes) {
                let mut out = Vec::new();
                empty_answer(&mut out, &query, RCODE_REFUSED);
            }
        }
    }
}
