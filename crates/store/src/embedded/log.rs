//! The log: segments that frames are appended to and made durable in.

use crate::embedded::disk::{Disk, File, is_no_space, publish_file, write_all};
use crate::embedded::format::random;
use crate::embedded::record::{self, SegmentHeader};
use crate::types::Revision;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Zeros are written ahead in steps of this length: a sync after overwriting written blocks has no file metadata to
/// make durable, which halves its time (94 against 185 microseconds for a small frame on ext4).
const PREPARE_STEP_BYTES: u64 = 256 << 10;

/// Why an append or roll did not happen. Nothing of it is in the log.
#[derive(Debug)]
pub(crate) enum LogError {
    /// No space; the log is as it was and can be tried again.
    NoSpace,
    /// What is in the file is not known any more; the store must stop.
    Broken(String),
}

/// The newest segment, open for appending.
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    cluster: [u8; 16],
    segment_bytes: u64,
    file: Box<dyn File>,
    number: u64,
    nonce: u64,
    sequence: u64,
    end: u64,
    synced: u64,
    /// The file has written blocks up to here.
    prepared: u64,
    prepares: bool,
}

/// Where an existing segment is continued.
pub(crate) struct Continuation {
    pub(crate) file: Box<dyn File>,
    pub(crate) number: u64,
    pub(crate) nonce: u64,
    pub(crate) sequence: u64,
    pub(crate) end: u64,
}

/// What stays the same over all segments.
#[derive(Clone)]
pub(crate) struct LogOptions {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) directory: PathBuf,
    pub(crate) cluster: [u8; 16],
    pub(crate) segment_bytes: u64,
    /// Whether to reserve space and write zeros ahead; not on a full disk, where both would take the last space.
    pub(crate) prepares: bool,
}

const SEGMENT_PREFIX: &str = "log-";

pub(crate) fn segment_name(number: u64) -> String {
    format!("{SEGMENT_PREFIX}{number:016}")
}

pub(crate) fn segment_number(name: &str) -> Option<u64> {
    name.strip_prefix(SEGMENT_PREFIX).filter(|digits| digits.len() == 16)?.parse().ok()
}

impl Log {
    /// Creates a segment after `previous` (number and length).
    pub(crate) fn create(
        options: &LogOptions,
        previous: (u64, u64),
        base: Revision,
        ceiling: Revision,
    ) -> io::Result<Self> {
        let nonce = u64::from_le_bytes(random()?);
        let number = previous.0 + 1;
        let header = SegmentHeader { cluster: options.cluster, number, base, ceiling, previous_length: previous.1 };
        let mut frame = Vec::new();
        record::begin(&mut frame);
        header.put(&mut frame);
        record::seal(&mut frame, 0, nonce, 0);
        let file =
            publish_file(&*options.disk, &options.directory, &segment_name(number), |file| write_all(file, 0, &frame))?;
        let end = frame.len() as u64;
        Ok(Self::resume(options, Continuation { file, number, nonce, sequence: 1, end }))
    }

    /// Goes on at the end of a segment; everything before the end must be durable.
    pub(crate) fn resume(options: &LogOptions, at: Continuation) -> Self {
        // Best effort: a file system that cannot reserve still works, and a full disk shows when it is written to.
        if options.prepares {
            let _ = at.file.reserve(options.segment_bytes);
        }
        Self {
            disk: Arc::clone(&options.disk),
            directory: options.directory.clone(),
            cluster: options.cluster,
            segment_bytes: options.segment_bytes,
            file: at.file,
            number: at.number,
            nonce: at.nonce,
            sequence: at.sequence,
            end: at.end,
            synced: at.end,
            prepared: at.end,
            prepares: options.prepares,
        }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn is_full(&self) -> bool {
        self.end >= self.segment_bytes
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.synced == self.end
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join(segment_name(self.number))
    }

    /// See [`LogOptions::prepares`].
    pub(crate) fn set_prepares(&mut self, prepares: bool) {
        self.prepares = prepares;
    }

    /// Seals and writes a frame whose payload the caller has appended. Not yet durable.
    pub(crate) fn append(&mut self, frame: &mut Vec<u8>) -> Result<(), LogError> {
        record::seal(frame, self.synced, self.nonce, self.sequence);
        if let Err(error) = write_all(&*self.file, self.end, frame) {
            return Err(self.undo(&error));
        }
        self.end += frame.len() as u64;
        self.sequence += 1;
        self.prepare(frame.len() as u64);
        Ok(())
    }

    /// Cuts off what a failed write may have left.
    fn undo(&mut self, error: &io::Error) -> LogError {
        let path = self.path();
        if let Err(undo) = self.file.truncate(self.end) {
            let path = path.display();
            return LogError::Broken(format!("writing {path} failed ({error}), and so did undoing it ({undo})"));
        }
        self.prepared = self.end;
        if is_no_space(error) {
            LogError::NoSpace
        } else {
            LogError::Broken(format!("writing {}: {error}", path.display()))
        }
    }

    /// Writes zeros behind the end, so that the next small frames overwrite written blocks.
    fn prepare(&mut self, frame_length: u64) {
        // Large frames gain nothing: the zeros would cost as much as they save.
        let enough = self.end + frame_length <= self.prepared;
        if enough || !self.prepares || frame_length > PREPARE_STEP_BYTES / 4 || self.is_full() {
            self.prepared = self.prepared.max(self.end);
            return;
        }
        let target = self.end.next_multiple_of(PREPARE_STEP_BYTES) + PREPARE_STEP_BYTES;
        let target = target.min(self.segment_bytes);
        let from = self.prepared.max(self.end);
        let zeros = vec![0; (target - from) as usize];
        // Zeros are no frame: a failure here, full disk included, changes nothing but the speed.
        if write_all(&*self.file, from, &zeros).is_ok() {
            self.prepared = target;
        }
    }

    /// Makes everything appended durable. A failure is final: the kernel may have dropped the pages, and a second sync
    /// would succeed without having written them.
    pub(crate) fn sync(&mut self) -> Result<(), LogError> {
        match self.file.sync() {
            Ok(()) => {
                self.synced = self.end;
                Ok(())
            }
            Err(error) => Err(LogError::Broken(format!("making {} durable failed: {error}", self.path().display()))),
        }
    }

    /// Begins a new segment; the current one must be durable. Without space the current one can be used on.
    pub(crate) fn roll(&mut self, base: Revision, ceiling: Revision) -> Result<(), LogError> {
        let options = LogOptions {
            disk: Arc::clone(&self.disk),
            directory: self.directory.clone(),
            cluster: self.cluster,
            segment_bytes: self.segment_bytes,
            prepares: self.prepares,
        };
        debug_assert!(self.is_synced(), "a segment is durable before the next begins");
        match Self::create(&options, (self.number, self.end), base, ceiling) {
            Ok(next) => {
                // The reserved and prepared rest goes back to the file system; the next segment's header has the length.
                let _ = self.file.truncate(self.end);
                *self = next;
                Ok(())
            }
            // Only when the next segment surely does not exist: otherwise a restart would take it for this one's end.
            Err(error) if is_no_space(&error) && self.next_is_absent() => Err(LogError::NoSpace),
            Err(error) => {
                Err(LogError::Broken(format!("beginning a segment after {}: {error}", self.path().display())))
            }
        }
    }

    fn next_is_absent(&self) -> bool {
        let path = self.directory.join(segment_name(self.number + 1));
        matches!(self.disk.open(&path), Err(error) if error.kind() == io::ErrorKind::NotFound)
    }
}
