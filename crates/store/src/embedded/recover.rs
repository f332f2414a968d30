//! Opening what is on disk: the newest valid snapshot, the log after it, and the judgement of a bad end.

use crate::embedded::disk::{File, TEMPORARY_SUFFIX, read_up_to};
use crate::embedded::format::Format;
use crate::embedded::log::{Continuation, Log, LogOptions, segment_name, segment_number};
use crate::embedded::options::OpenError;
use crate::embedded::record::{self, Record, SegmentHeader};
use crate::embedded::snapshot::{self, snapshot_name, snapshot_revision};
use crate::entry::DecodedBudget;
use crate::state::{Gap, State};
use crate::types::Revision;
use crate::window::WindowLimits;
use std::path::PathBuf;
use std::sync::Arc;

/// The first revision of a fresh store.
pub(crate) const FIRST_REVISION: Revision = Revision(1);

/// What was on disk.
pub(crate) struct Recovered {
    pub(crate) state: State,
    pub(crate) log: Log,
    /// Revisions up to here may have been shown.
    pub(crate) ceiling: Revision,
    pub(crate) snapshot_revision: Revision,
    /// Bytes of log since the snapshot.
    pub(crate) log_bytes: u64,
    /// The last thing that happened was not an orderly close.
    pub(crate) unclean: bool,
}

struct Recovery<'a> {
    options: &'a LogOptions,
    limits: WindowLimits,
    budget: &'a Arc<DecodedBudget>,
    segments: Vec<u64>,
    snapshots: Vec<Revision>,
}

/// The names in the directory; leftovers of interrupted writes are removed.
fn inventory(options: &LogOptions) -> Result<(Vec<u64>, Vec<Revision>), OpenError> {
    let (disk, directory) = (&options.disk, &options.directory);
    let names = disk.list(directory).map_err(OpenError::io("list", directory))?;
    for name in names.iter().filter(|name| name.ends_with(TEMPORARY_SUFFIX)) {
        let path = directory.join(name);
        disk.remove(&path).map_err(OpenError::io("remove", path))?;
    }
    let mut segments: Vec<_> = names.iter().filter_map(|name| segment_number(name)).collect();
    let mut snapshots: Vec<_> = names.iter().filter_map(|name| snapshot_revision(name)).collect();
    segments.sort_unstable();
    snapshots.sort_unstable();
    Ok((segments, snapshots))
}

/// Creates an empty store. FORMAT is written last: where it is, the log is.
pub(crate) fn create(options: &LogOptions, format: &Format, limits: WindowLimits) -> Result<Recovered, OpenError> {
    let directory = &options.directory;
    let (segments, snapshots) = inventory(options)?;
    let unfinished = |number: &u64| {
        let path = directory.join(segment_name(*number));
        options.disk.open(&path).and_then(|file| file.length()).is_ok_and(|length| length < 4096)
    };
    if !snapshots.is_empty() || !segments.iter().all(|number| *number == 1 && unfinished(number)) {
        return Err(OpenError::corrupt(directory.join("FORMAT"), 0, "the file is missing although there is a log"));
    }
    let failed = OpenError::io("create a store in", directory);
    let create = || {
        let log = Log::create(options, (0, 0), FIRST_REVISION, FIRST_REVISION)?;
        format.write(&*options.disk, directory)?;
        Ok(log)
    };
    let log = create().map_err(failed)?;
    Ok(Recovered {
        state: State::new(FIRST_REVISION, limits),
        log,
        ceiling: FIRST_REVISION,
        snapshot_revision: FIRST_REVISION,
        log_bytes: 0,
        unclean: false,
    })
}

/// Opens an existing store.
pub(crate) fn recover(
    options: &LogOptions,
    limits: WindowLimits,
    budget: &Arc<DecodedBudget>,
) -> Result<Recovered, OpenError> {
    let (segments, snapshots) = inventory(options)?;
    let recovery = Recovery { options, limits, budget, segments, snapshots };
    let (state, first, snapshot_revision) = recovery.load_snapshot()?;
    recovery.replay(state, first, snapshot_revision)
}

impl Recovery<'_> {
    fn path(&self, name: String) -> PathBuf {
        self.options.directory.join(name)
    }

    /// The newest valid snapshot and the first segment after it. An older snapshot serves when the log since is there.
    fn load_snapshot(&self) -> Result<(State, u64, Revision), OpenError> {
        let mut newest_error = None;
        for revision in self.snapshots.iter().rev() {
            let path = self.path(snapshot_name(*revision));
            let mut state = State::new(*revision, self.limits);
            let loaded = snapshot::read(&*self.options.disk, &path, self.budget, |entry| state.load(entry));
            match loaded {
                Ok(header) if header.cluster != self.options.cluster || header.revision != *revision => {
                    return Err(OpenError::corrupt(path, 0, "the snapshot belongs to another store"));
                }
                Ok(header) if self.segments.contains(&header.segment) => {
                    if let Some(error) = newest_error {
                        tracing::warn!(%error, "the newest snapshot is damaged; an older one and the log replace it");
                    }
                    return Ok((state, header.segment, *revision));
                }
                Ok(header) => {
                    let missing = self.path(segment_name(header.segment));
                    newest_error.get_or_insert(OpenError::corrupt(missing, 0, "the log segment is missing"));
                }
                Err(error) => {
                    newest_error.get_or_insert(error);
                }
            }
        }
        match newest_error {
            // The log from the very beginning replaces a damaged first snapshot.
            Some(error) if !self.segments.contains(&1) => Err(error),
            _ => Ok((State::new(FIRST_REVISION, self.limits), 1, FIRST_REVISION)),
        }
    }

    fn replay(&self, mut state: State, first: u64, snapshot_revision: Revision) -> Result<Recovered, OpenError> {
        let last = self.segments.last().copied().unwrap_or(0);
        let mut headers = Vec::new();
        for number in first..=last.max(first) {
            let path = self.path(segment_name(number));
            if !self.segments.contains(&number) {
                return Err(OpenError::corrupt(path, 0, "the log segment is missing"));
            }
            headers.push(Segment::read(self.options, number, path)?);
        }
        let mut ceiling = FIRST_REVISION;
        let mut closed = false;
        let mut log_bytes = 0;
        for index in 0..headers.len() {
            let segment = &headers[index];
            let end = headers.get(index + 1).map(|next| next.header.previous_length);
            ceiling = ceiling.max(segment.header.ceiling);
            if index == 0 && segment.header.base != snapshot_revision {
                return Err(OpenError::corrupt(&segment.path, 0, "the log does not continue the snapshot"));
            }
            let (tail, sequence) = segment.replay(
                end,
                |record, damaged| {
                    closed = matches!(record, Record::Closed);
                    match record {
                        Record::Transaction { revision, changes } => {
                            if revision <= state.revision() {
                                return Err(damaged("a revision is not above the one before"));
                            }
                            state.publish(revision, &changes, &mut Vec::new(), &mut Vec::new());
                        }
                        Record::Ceiling(above) => ceiling = ceiling.max(above),
                        Record::Resumed(gap) => state.resume(gap),
                        Record::Closed => {}
                    }
                    Ok(())
                },
                self.budget,
            )?;
            log_bytes += tail;
            if end.is_none() {
                let log = segment.continue_at(self.options, tail, sequence)?;
                let unclean = !closed;
                return Ok(Recovered { state, log, ceiling, snapshot_revision, log_bytes, unclean });
            }
        }
        Err(OpenError::corrupt(self.path(segment_name(first)), 0, "the log segment is missing"))
    }
}

struct Segment {
    path: PathBuf,
    number: u64,
    header: SegmentHeader,
    nonce: u64,
    file: Box<dyn File>,
}

impl Segment {
    fn read(options: &LogOptions, number: u64, path: PathBuf) -> Result<Self, OpenError> {
        let file = options.disk.open(&path).map_err(OpenError::io("open", &path))?;
        let bytes = read_up_to(&*file, 0, 4096).map_err(OpenError::io("read", &path))?;
        // The header was durable before the segment got its name, so a bad one is damage.
        let frame = record::parse(&bytes).map_err(|what| OpenError::corrupt(&path, 0, what))?;
        let header = SegmentHeader::take(frame.payload).map_err(|what| OpenError::corrupt(&path, 0, what))?;
        if header.number != number || header.cluster != options.cluster {
            return Err(OpenError::corrupt(&path, 0, "the segment belongs to another place or another store"));
        }
        Ok(Self { path, number, header, nonce: frame.nonce, file })
    }

    /// Applies the frames up to `end`, or up to what the last crash left. Gives where the log ends and the next frame's
    /// sequence number.
    fn replay(
        &self,
        end: Option<u64>,
        mut apply: impl FnMut(Record, &dyn Fn(&str) -> OpenError) -> Result<(), OpenError>,
        budget: &Arc<DecodedBudget>,
    ) -> Result<(u64, u64), OpenError> {
        let length = self.file.length().map_err(OpenError::io("read the length of", &self.path))?;
        let wanted = end.unwrap_or(length);
        let bytes = read_up_to(&*self.file, 0, wanted as usize).map_err(OpenError::io("read", &self.path))?;
        let mut offset = 0;
        let mut sequence = 0;
        while (offset as u64) < wanted {
            let damaged = |what: &str| OpenError::corrupt(&self.path, offset as u64, what);
            let rest = bytes.get(offset..).unwrap_or_default();
            let parsed = match record::parse(rest) {
                Ok(frame) if frame.nonce != self.nonce => Err("the frame belongs to another segment"),
                Ok(frame) if frame.sequence != sequence => Err("a frame is missing before this one"),
                other => other,
            };
            let frame = match parsed {
                Ok(frame) => frame,
                // Later segments exist only after this one was durable to its end.
                Err(what) if end.is_some() => return Err(damaged(what)),
                Err(what) => {
                    if let Some(later) = record::durable_frame_behind(&bytes, offset, self.nonce) {
                        return Err(damaged(&format!("{what}, and a later record at byte {later} is whole")));
                    }
                    break;
                }
            };
            if offset > 0 {
                for record in record::records(frame.payload, budget).map_err(damaged)? {
                    apply(record, &damaged)?;
                }
            }
            offset += frame.length;
            sequence += 1;
        }
        Ok((offset as u64, sequence))
    }

    /// Cuts what follows the last whole frame and makes the rest durable, so that what is shown from now on stays.
    fn continue_at(&self, options: &LogOptions, end: u64, sequence: u64) -> Result<Log, OpenError> {
        let length = self.file.length().map_err(OpenError::io("read the length of", &self.path))?;
        let head = read_up_to(&*self.file, end, 1 << 16).map_err(OpenError::io("read", &self.path))?;
        if head.iter().any(|byte| *byte != 0) {
            let (file, bytes) = (self.path.display(), length - end);
            tracing::warn!(%file, offset = end, bytes, "the log ends in an unfinished record; it was never acknowledged and is cut");
        }
        if length > end {
            self.file.truncate(end).map_err(OpenError::io("cut the unfinished end of", &self.path))?;
        }
        self.file.sync().map_err(OpenError::io("make durable", &self.path))?;
        let file = options.disk.open(&self.path).map_err(OpenError::io("open", &self.path))?;
        let (number, nonce) = (self.number, self.nonce);
        Ok(Log::resume(options, Continuation { file, number, nonce, sequence, end }))
    }
}

/// The revisions to skip after an unclean end: up to the ceiling they may have been shown and lost.
pub(crate) fn gap_after(recovered: &Recovered) -> Option<Gap> {
    let last = recovered.state.revision();
    (recovered.unclean && recovered.ceiling > last).then_some(Gap { last, resumed: recovered.ceiling })
}
