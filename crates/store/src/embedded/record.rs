//! The bytes on disk: checksummed frames, and the versioned records inside them.
//!
//! A log segment and a snapshot are both a run of frames. A frame is one write: a header (48 bytes, little endian) and a
//! payload padded to 8 bytes, so every frame begins at a multiple of 8.

use crate::entry::{DecodedBudget, Entry};
use crate::state::{Applied, Gap};
use crate::types::{Key, Revision};
use bytes::Bytes;
use std::sync::Arc;

/// Length of a frame's header.
pub(crate) const HEADER_BYTES: usize = 48;
const MAGIC: [u8; 4] = *b"KLf1";
const FRAME_VERSION: u8 = 1;
const ALIGNMENT: usize = 8;

/// A frame read back.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) payload: &'a [u8],
    /// Everything before this offset of the file was durable when the frame was written.
    pub(crate) synced: u64,
    pub(crate) nonce: u64,
    pub(crate) sequence: u64,
    /// Header, payload and padding.
    pub(crate) length: usize,
}

/// An empty frame to append a payload to; the header is filled in by [`seal`].
pub(crate) fn begin(frame: &mut Vec<u8>) {
    frame.clear();
    frame.resize(HEADER_BYTES, 0);
}

/// Pads the payload and fills in the header.
pub(crate) fn seal(frame: &mut Vec<u8>, synced: u64, nonce: u64, sequence: u64) {
    let payload_length = frame.len() - HEADER_BYTES;
    frame.resize(frame.len().next_multiple_of(ALIGNMENT), 0);
    let (header, payload) = frame.split_at_mut(HEADER_BYTES);
    let mut fields = Vec::with_capacity(HEADER_BYTES);
    fields.extend_from_slice(&MAGIC);
    fields.extend_from_slice(&[FRAME_VERSION, 0, 0, 0]);
    // A batch is limited to far less than 4 GiB by the options' limits.
    fields.extend_from_slice(&(payload_length as u32).to_le_bytes());
    fields.extend_from_slice(&crc32fast::hash(&payload[..payload_length]).to_le_bytes());
    fields.extend_from_slice(&synced.to_le_bytes());
    fields.extend_from_slice(&nonce.to_le_bytes());
    fields.extend_from_slice(&sequence.to_le_bytes());
    fields.extend_from_slice(&[0; 4]);
    let checksum = crc32fast::hash(&fields);
    fields.extend_from_slice(&checksum.to_le_bytes());
    header.copy_from_slice(&fields);
}

/// Reads the frame at the beginning of the bytes.
pub(crate) fn parse(bytes: &[u8]) -> Result<Frame<'_>, &'static str> {
    let header = bytes.get(..HEADER_BYTES).ok_or("the frame's header is cut off")?;
    let mut fields = Decoder(&header[4..]);
    if header[..4] != MAGIC {
        return Err(if header.iter().all(|byte| *byte == 0) { "no frame begins here" } else { "no frame's mark" });
    }
    if crc32fast::hash(&header[..44]).to_le_bytes() != header[44..] {
        return Err("the frame header's checksum is wrong");
    }
    let version = fields.u32()?;
    if version != u32::from(FRAME_VERSION) {
        return Err("the frame has an unknown version");
    }
    let payload_length = fields.u32()? as usize;
    let payload_checksum = fields.u32()?;
    let (synced, nonce, sequence) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let payload = bytes[HEADER_BYTES..].get(..payload_length).ok_or("the frame is cut off")?;
    if crc32fast::hash(payload) != payload_checksum {
        return Err("the frame's checksum is wrong");
    }
    let length = (HEADER_BYTES + payload_length).next_multiple_of(ALIGNMENT);
    match bytes.get(HEADER_BYTES + payload_length..length) {
        None => Err("the frame's padding is cut off"),
        Some(padding) if padding.iter().any(|byte| *byte != 0) => Err("the frame's padding is not zero"),
        Some(_) => Ok(Frame { payload, synced, nonce, sequence, length }),
    }
}

/// Looks behind a bad frame for a whole one that was written when the bad one was already durable: its offset. There
/// is one exactly when the bad frame is damage and not the torn end of what a crash interrupted.
pub(crate) fn durable_frame_behind(bytes: &[u8], bad: usize, nonce: u64) -> Option<usize> {
    (bad..bytes.len()).step_by(ALIGNMENT).skip(1).find(|offset| {
        bytes[*offset..].starts_with(&MAGIC)
            && parse(&bytes[*offset..]).is_ok_and(|frame| frame.nonce == nonce && frame.synced > bad as u64)
    })
}

/// Reads little-endian fields; every length is checked against what is there.
pub(crate) struct Decoder<'a>(pub(crate) &'a [u8]);

impl<'a> Decoder<'a> {
    pub(crate) fn bytes(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        let (head, tail) = self.0.split_at_checked(length).ok_or("a record is cut off")?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        self.bytes(N)?.try_into().map_err(|_| "a record is cut off")
    }

    pub(crate) fn u8(&mut self) -> Result<u8, &'static str> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, &'static str> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, &'static str> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn revision(&mut self) -> Result<Revision, &'static str> {
        Ok(Revision(self.u64()?))
    }
}

const KIND_TRANSACTION: u8 = 1;
const KIND_CEILING: u8 = 2;
const KIND_CLOSED: u8 = 3;
const KIND_RESUMED: u8 = 4;
const KIND_SEGMENT: u8 = 16;
const KIND_SNAPSHOT: u8 = 17;
const KIND_ENTRIES: u8 = 18;
const KIND_END: u8 = 19;
const DELETED: u8 = 1;

/// The first frame of a segment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct SegmentHeader {
    pub(crate) cluster: [u8; 16],
    pub(crate) number: u64,
    /// The last revision before this segment.
    pub(crate) base: Revision,
    /// The revision ceiling when the segment began.
    pub(crate) ceiling: Revision,
    /// Where the previous segment ends; 0 without one.
    pub(crate) previous_length: u64,
}

/// The first frame of a snapshot or backup.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct SnapshotHeader {
    pub(crate) cluster: [u8; 16],
    pub(crate) revision: Revision,
    /// The segment that continues after the snapshot; 0 in a backup.
    pub(crate) segment: u64,
    pub(crate) entries: u64,
    pub(crate) written_unix_seconds: u64,
}

/// One record of a log frame.
#[derive(Debug)]
pub(crate) enum Record {
    Transaction {
        revision: Revision,
        changes: Vec<Applied>,
    },
    /// Revisions up to here may have been shown although their transactions were not yet durable.
    Ceiling(Revision),
    /// The store was closed in order: nothing after this was shown.
    Closed,
    /// Revisions were skipped after a crash.
    Resumed(Gap),
}

pub(crate) fn put_transaction(frame: &mut Vec<u8>, revision: Revision, changes: &[Applied]) {
    frame.push(KIND_TRANSACTION);
    frame.extend_from_slice(&revision.0.to_le_bytes());
    frame.extend_from_slice(&(changes.len() as u32).to_le_bytes());
    for change in changes {
        frame.push(if change.deleted { DELETED } else { 0 });
        put_entry(frame, &change.entry, false);
    }
}

pub(crate) fn put_ceiling(frame: &mut Vec<u8>, ceiling: Revision) {
    frame.push(KIND_CEILING);
    frame.extend_from_slice(&ceiling.0.to_le_bytes());
}

pub(crate) fn put_closed(frame: &mut Vec<u8>) {
    frame.push(KIND_CLOSED);
}

pub(crate) fn put_resumed(frame: &mut Vec<u8>, gap: Gap) {
    frame.push(KIND_RESUMED);
    frame.extend_from_slice(&gap.last.0.to_le_bytes());
    frame.extend_from_slice(&gap.resumed.0.to_le_bytes());
}

fn put_entry(frame: &mut Vec<u8>, entry: &Entry, with_revision: bool) {
    if with_revision {
        frame.extend_from_slice(&entry.revision.0.to_le_bytes());
    }
    frame.extend_from_slice(&entry.created.0.to_le_bytes());
    let key = entry.key.as_str();
    frame.extend_from_slice(&(key.len() as u32).to_le_bytes());
    frame.extend_from_slice(key.as_bytes());
    frame.extend_from_slice(&(entry.value.len() as u32).to_le_bytes());
    frame.extend_from_slice(&entry.value);
}

fn take_entry(
    fields: &mut Decoder<'_>,
    revision: Option<Revision>,
    budget: &Arc<DecodedBudget>,
) -> Result<Arc<Entry>, &'static str> {
    let revision = match revision {
        Some(revision) => revision,
        None => fields.revision()?,
    };
    let created = fields.revision()?;
    let key_length = fields.u32()? as usize;
    let key = std::str::from_utf8(fields.bytes(key_length)?).map_err(|_| "a key is not UTF-8")?;
    let key = Key::parse(key).ok_or("a key has no bucket")?;
    let value_length = fields.u32()? as usize;
    let value = Bytes::copy_from_slice(fields.bytes(value_length)?);
    Ok(Arc::new(Entry::new(key, revision, created, value, budget)))
}

/// Reads all records of a log frame's payload.
pub(crate) fn records(payload: &[u8], budget: &Arc<DecodedBudget>) -> Result<Vec<Record>, &'static str> {
    let mut fields = Decoder(payload);
    let mut records = Vec::new();
    while !fields.0.is_empty() {
        records.push(match fields.u8()? {
            KIND_TRANSACTION => {
                let revision = fields.revision()?;
                let count = fields.u32()?;
                let mut changes = Vec::new();
                for _ in 0..count {
                    let deleted = match fields.u8()? {
                        0 => false,
                        DELETED => true,
                        _ => return Err("a change has unknown flags"),
                    };
                    changes.push(Applied { entry: take_entry(&mut fields, Some(revision), budget)?, deleted });
                }
                Record::Transaction { revision, changes }
            }
            KIND_CEILING => Record::Ceiling(fields.revision()?),
            KIND_CLOSED => Record::Closed,
            KIND_RESUMED => Record::Resumed(Gap { last: fields.revision()?, resumed: fields.revision()? }),
            _ => return Err("a record has an unknown kind"),
        });
    }
    Ok(records)
}

impl SegmentHeader {
    pub(crate) fn put(&self, frame: &mut Vec<u8>) {
        frame.push(KIND_SEGMENT);
        frame.extend_from_slice(&self.cluster);
        for field in [self.number, self.base.0, self.ceiling.0, self.previous_length] {
            frame.extend_from_slice(&field.to_le_bytes());
        }
    }

    pub(crate) fn take(payload: &[u8]) -> Result<Self, &'static str> {
        let mut fields = Decoder(payload);
        if fields.u8()? != KIND_SEGMENT {
            return Err("the file does not begin as a log segment");
        }
        Ok(Self {
            cluster: fields.array()?,
            number: fields.u64()?,
            base: fields.revision()?,
            ceiling: fields.revision()?,
            previous_length: fields.u64()?,
        })
    }
}

impl SnapshotHeader {
    pub(crate) fn put(&self, frame: &mut Vec<u8>) {
        frame.push(KIND_SNAPSHOT);
        frame.extend_from_slice(&self.cluster);
        for field in [self.revision.0, self.segment, self.entries, self.written_unix_seconds] {
            frame.extend_from_slice(&field.to_le_bytes());
        }
    }

    pub(crate) fn take(payload: &[u8]) -> Result<Self, &'static str> {
        let mut fields = Decoder(payload);
        if fields.u8()? != KIND_SNAPSHOT {
            return Err("the file does not begin as a snapshot");
        }
        Ok(Self {
            cluster: fields.array()?,
            revision: fields.revision()?,
            segment: fields.u64()?,
            entries: fields.u64()?,
            written_unix_seconds: fields.u64()?,
        })
    }
}

/// Begins the payload of a snapshot's frame of entries.
pub(crate) fn put_entries_kind(frame: &mut Vec<u8>) {
    frame.push(KIND_ENTRIES);
}

pub(crate) fn put_snapshot_entry(frame: &mut Vec<u8>, entry: &Entry) {
    put_entry(frame, entry, true);
}

pub(crate) fn put_end(frame: &mut Vec<u8>, entries: u64) {
    frame.push(KIND_END);
    frame.extend_from_slice(&entries.to_le_bytes());
}

/// A frame of a snapshot after its first.
pub(crate) enum SnapshotPart {
    Entries(Vec<Arc<Entry>>),
    End { entries: u64 },
}

pub(crate) fn snapshot_part(payload: &[u8], budget: &Arc<DecodedBudget>) -> Result<SnapshotPart, &'static str> {
    let mut fields = Decoder(payload);
    match fields.u8()? {
        KIND_ENTRIES => {
            let mut entries = Vec::new();
            while !fields.0.is_empty() {
                entries.push(take_entry(&mut fields, None, budget)?);
            }
            Ok(SnapshotPart::Entries(entries))
        }
        KIND_END => Ok(SnapshotPart::End { entries: fields.u64()? }),
        _ => Err("a snapshot's frame has an unknown kind"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &[u8], synced: u64, sequence: u64) -> Vec<u8> {
        let mut frame = Vec::new();
        begin(&mut frame);
        frame.extend_from_slice(payload);
        seal(&mut frame, synced, 99, sequence);
        frame
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let good = frame(b"seventeen bytes..", 8, 1);
        assert!(parse(&good).is_ok_and(|frame| frame.payload == b"seventeen bytes.." && frame.length == good.len()));
        for byte in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[byte] ^= 1 << bit;
                assert!(parse(&bad).is_err(), "bit {bit} of byte {byte}");
            }
        }
        for length in 0..good.len() {
            assert!(parse(&good[..length]).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn tells_a_torn_tail_from_damage() {
        let first = frame(b"first", 0, 0);
        // Written after the first was durable: damage to the first is damage.
        let later = [first.clone(), frame(b"second", first.len() as u64, 1)].concat();
        assert_eq!(durable_frame_behind(&later, 0, 99), Some(first.len()));
        assert_eq!(durable_frame_behind(&later, 0, 98), None, "a frame of another segment proves nothing");
        // Both in flight at once: the crash may have kept the second without the first.
        let relaxed = [first.clone(), frame(b"second", 0, 1)].concat();
        assert_eq!(durable_frame_behind(&relaxed, 0, 99), None);
    }
}
