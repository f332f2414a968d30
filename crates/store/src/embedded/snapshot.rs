//! Snapshots and backups: the whole state at one revision in one file.

use crate::embedded::disk::{Disk, File, publish_file, read_up_to, write_all};
use crate::embedded::options::OpenError;
use crate::embedded::record::{self, SnapshotHeader, SnapshotPart};
use crate::entry::{DecodedBudget, Entry};
use crate::state::Image;
use crate::types::Revision;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const SNAPSHOT_PREFIX: &str = "snapshot-";
/// Entries are written in frames of about this length.
const FRAME_BYTES: usize = 512 << 10;
/// A snapshot is made durable in steps of this length: one sync at its end would have the log's syncs wait for all of
/// it, because the file system's journal orders them.
const SYNC_STEP_BYTES: u64 = 2 << 20;
/// No frame that a snapshot holds is longer: one value and its key beyond a full frame.
const FRAME_BYTES_MAX: usize = 1 << 30;

pub(crate) fn snapshot_name(revision: Revision) -> String {
    format!("{SNAPSHOT_PREFIX}{:020}", revision.0)
}

pub(crate) fn snapshot_revision(name: &str) -> Option<Revision> {
    name.strip_prefix(SNAPSHOT_PREFIX).filter(|digits| digits.len() == 20)?.parse().ok().map(Revision)
}

/// Writes frames one after the other.
struct FrameWriter<'a> {
    file: &'a dyn File,
    frame: Vec<u8>,
    offset: u64,
    synced: u64,
    sequence: u64,
}

impl FrameWriter<'_> {
    fn flush(&mut self) -> io::Result<()> {
        record::seal(&mut self.frame, 0, 0, self.sequence);
        write_all(self.file, self.offset, &self.frame)?;
        self.offset += self.frame.len() as u64;
        self.sequence += 1;
        record::begin(&mut self.frame);
        if self.offset - self.synced >= SYNC_STEP_BYTES {
            self.file.sync()?;
            self.synced = self.offset;
        }
        Ok(())
    }
}

/// Writes entries completely or not at all; gives the file's length.
pub(crate) fn write<'a>(
    disk: &dyn Disk,
    directory: &Path,
    name: &str,
    header: &SnapshotHeader,
    entries: impl Iterator<Item = &'a Arc<Entry>>,
    cancelled: &AtomicBool,
) -> io::Result<u64> {
    let mut length = 0;
    publish_file(disk, directory, name, |file| {
        let mut writer = FrameWriter { file, frame: Vec::new(), offset: 0, synced: 0, sequence: 0 };
        record::begin(&mut writer.frame);
        header.put(&mut writer.frame);
        writer.flush()?;
        record::put_entries_kind(&mut writer.frame);
        for entry in entries {
            record::put_snapshot_entry(&mut writer.frame, entry);
            if writer.frame.len() >= FRAME_BYTES {
                writer.flush()?;
                record::put_entries_kind(&mut writer.frame);
                if cancelled.load(Ordering::Relaxed) {
                    return Err(io::Error::other("the store is closing"));
                }
            }
        }
        writer.flush()?;
        record::put_end(&mut writer.frame, header.entries);
        writer.flush()?;
        length = writer.offset;
        Ok(())
    })?;
    Ok(length)
}

/// The entries of an image, in the order of the file.
pub(crate) fn entries_of(image: &Image) -> impl Iterator<Item = &Arc<Entry>> {
    image.buckets.iter().flat_map(|tree| tree.iter())
}

/// Reads and verifies a whole snapshot or backup, giving each entry to `load`.
pub(crate) fn read(
    disk: &dyn Disk,
    path: &Path,
    budget: &Arc<DecodedBudget>,
    mut load: impl FnMut(Arc<Entry>),
) -> Result<SnapshotHeader, OpenError> {
    let file = disk.open(path).map_err(OpenError::io("open", path))?;
    let length = file.length().map_err(OpenError::io("read the length of", path))?;
    let mut header = None;
    let mut ended = None;
    let mut offset = 0;
    let mut sequence = 0;
    let mut count = 0;
    while offset < length {
        let damaged = |what: &str| OpenError::corrupt(path, offset, what);
        let bytes = read_frame(&*file, offset, length).map_err(OpenError::io("read", path))?;
        let frame = record::parse(&bytes).map_err(damaged)?;
        if frame.sequence != sequence || ended.is_some() {
            return Err(damaged("a frame is out of order"));
        }
        if header.is_none() {
            header = Some(SnapshotHeader::take(frame.payload).map_err(damaged)?);
        } else {
            match record::snapshot_part(frame.payload, budget).map_err(damaged)? {
                SnapshotPart::Entries(entries) => {
                    count += entries.len() as u64;
                    entries.into_iter().for_each(&mut load);
                }
                SnapshotPart::End { entries } => ended = Some(entries),
            }
        }
        sequence += 1;
        offset += frame.length as u64;
    }
    match header {
        Some(header) if ended == Some(count) && header.entries == count => Ok(header),
        _ => Err(OpenError::corrupt(path, offset, "the file ends before the snapshot does")),
    }
}

/// Reads the bytes of the frame at an offset; a length that cannot be right reads the header only, which then fails.
fn read_frame(file: &dyn File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let header = read_up_to(file, offset, record::HEADER_BYTES)?;
    let claimed = header.get(8..12).map_or(0, |bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    let wanted = (record::HEADER_BYTES + claimed as usize).next_multiple_of(8);
    if wanted > FRAME_BYTES_MAX || wanted as u64 > length - offset {
        return Ok(header);
    }
    read_up_to(file, offset, wanted)
}
