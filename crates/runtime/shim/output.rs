//! A container's output: from its pipes (or terminal) into the log in CRI's format, and live to whoever is attached.
//! A reader that is too slow loses live output, a full disk loses log lines (counted): the container never waits for either.
//! It waits only while a log that has reached its cap is rotated: for the agent a few seconds, without one not at all.

use crate::clock::{TIME_BYTES, write_time};
use crate::process::Descriptor;
use crate::rotation;
use crate::sys::{self, Memory};
use crate::wire::{ATTACHED_MAX, LOG_CAP_BYTES_MIN, LOG_LINE_BYTES_MAX};

const INPUT_BYTES: usize = 32 << 10;
const BATCH_BYTES: usize = 64 << 10;
/// What a log line has besides its text: time, stream, tag, newline.
const LINE_OVERHEAD: u64 = TIME_BYTES as u64 + 8 + 2 + 1;
const LINE_BYTES: u64 = LOG_LINE_BYTES_MAX as u64 + LINE_OVERHEAD;
/// Kept free below the cap for the lines that both streams may end with.
const ENDS_BYTES: u64 = 2 * LINE_BYTES;
/// With less room than this nothing is read any more.
const ROOM_BYTES_MIN: u64 = 64 << 10;
/// How long output waits for an agent's rotation before the shim does it. An agent takes milliseconds.
const AGENT_WAIT_NS: u64 = 5_000_000_000;
/// After a rotation of the shim's own that failed, lines beyond the cap are dropped for so long before it tries again.
const DROP_NS: u64 = 5_000_000_000;

/// Memory for moving output, shared by all processes and given back when nothing moves.
pub struct Scratch {
    memory: Option<(Memory, Memory)>,
}

impl Scratch {
    pub const NONE: Scratch = Scratch { memory: None };
    pub fn release(&mut self) {
        self.memory = None;
    }
    fn get(&mut self) -> Option<(&mut [u8], &mut [u8])> {
        if self.memory.is_none() {
            self.memory = Some((Memory::new(INPUT_BYTES).ok()?, Memory::new(BATCH_BYTES).ok()?));
        }
        self.memory.as_mut().map(|(input, batch)| (input.bytes_mut(), batch.bytes_mut()))
    }
}

/// One of stdout and stderr.
struct Stream {
    from: Descriptor,
    /// The beginning of a line whose end has not come yet.
    partial: Option<Memory>,
    partial_length: usize,
    attached: [Descriptor; ATTACHED_MAX],
}

impl Stream {
    const NONE: Stream =
        Stream { from: Descriptor::NONE, partial: None, partial_length: 0, attached: [const { Descriptor::NONE }; ATTACHED_MAX] };
}

/// The file that output is logged to.
struct Log {
    file: Descriptor,
    size: u64,
    /// The file never grows beyond this size; before it would, output waits for a rotation.
    cap: u64,
    /// Passing this size is told to the agent, once per file.
    notice: u64,
    noticed: bool,
    dropped: u64,
    /// Since when output waits for a rotation (monotonic); 0 while it flows.
    held_since_ns: u64,
    /// Until when lines beyond the cap are dropped, because the shim could not rotate (monotonic).
    drops_until_ns: u64,
    /// The second of the shim's last rotation of its own; 0 if the agent has rotated since.
    alone_at: u64,
}

impl Log {
    const NONE: Log = Log {
        file: Descriptor::NONE,
        size: 0,
        cap: 0,
        notice: 0,
        noticed: false,
        dropped: 0,
        held_since_ns: 0,
        drops_until_ns: 0,
        alone_at: 0,
    };

    /// How many bytes may be read such that whatever lines they make fit below the cap; none if a rotation must come first.
    fn readable(&self) -> Option<usize> {
        if self.cap == 0 || self.file.get().is_none() {
            return Some(INPUT_BYTES);
        }
        if self.drops_until_ns != 0 && sys::monotonic_ns() < self.drops_until_ns {
            return Some(INPUT_BYTES);
        }
        let room = self.cap.saturating_sub(self.size + ENDS_BYTES);
        // Worst: the end of a long line, then nothing but newlines.
        let bytes = (room >= ROOM_BYTES_MIN).then(|| (room - LINE_BYTES) / (LINE_OVERHEAD + 1))?;
        Some(INPUT_BYTES.min(bytes as usize))
    }

    /// Rotates without the agent. Where that fails, lines are dropped for a while: the disk stays bounded, the container runs.
    fn rotate_alone(&mut self) {
        let second = sys::now_ns() / 1_000_000_000;
        let Some(file) = self.file.get() else { return };
        match rotation::rotate(file, second, self.alone_at) {
            Ok(file) => {
                let dropped = self.dropped;
                *self = Log::new(Descriptor::new(file), self.cap, self.notice);
                (self.alone_at, self.dropped) = (second, dropped);
            }
            Err(_) => self.drops_until_ns = sys::monotonic_ns() + DROP_NS,
        }
    }

    fn new(file: Descriptor, cap: u64, notice: u64) -> Log {
        let size = file.get().and_then(|it| sys::seek_end(it).ok()).unwrap_or(0) as u64;
        Log { file, size, cap, notice, ..Log::NONE }
    }
}

/// Both streams and the log.
pub struct Output {
    streams: [Stream; 2],
    log: Log,
}

/// What moving output found.
#[derive(PartialEq, Eq)]
pub enum Moved {
    Some,
    Nothing,
    /// The log has to be rotated first.
    Held,
    End,
}

impl Output {
    pub const NONE: Output = Output {
        streams: [Stream::NONE, Stream::NONE],
        log: Log::NONE,
    };

    pub fn set_source(&mut self, stream: usize, from: Descriptor) {
        if let Some(it) = self.streams.get_mut(stream) {
            it.from = from;
        }
    }
    pub fn source(&self, stream: usize) -> Option<i32> {
        self.streams.get(stream).and_then(|it| it.from.get())
    }
    pub fn set_log(&mut self, file: Descriptor, cap: u64, notice: u64) {
        // A smaller cap would leave no room to read into.
        let cap = if cap == 0 { 0 } else { cap.max(LOG_CAP_BYTES_MIN) };
        self.log = Log { dropped: self.log.dropped, ..Log::new(file, cap, notice) };
    }
    /// Goes on in another file, with the same limits: the agent has rotated.
    pub fn reopen_log(&mut self, file: Descriptor) {
        self.set_log(file, self.log.cap, self.log.notice);
    }
    pub fn dropped_lines(&self) -> u64 {
        self.log.dropped
    }
    pub fn is_held(&self) -> bool {
        self.log.held_since_ns != 0
    }
    /// Ends a wait for the agent's rotation when it has lasted too long, or nobody is there; true if output may flow again.
    pub fn release(&mut self, agent: bool) -> bool {
        let lasted = sys::monotonic_ns() - self.log.held_since_ns;
        if agent && self.log.alone_at == 0 && lasted < AGENT_WAIT_NS {
            return false;
        }
        self.log.held_since_ns = 0;
        self.log.rotate_alone();
        true
    }
    /// The notice is to be repeated: an agent came that may not have heard it.
    pub fn forget_notice(&mut self) {
        self.log.noticed = false;
    }
    /// Once per file the size that has passed its notice size.
    pub fn grew(&mut self) -> Option<u64> {
        let grew = self.log.notice != 0 && self.log.size >= self.log.notice && !self.log.noticed;
        self.log.noticed |= grew;
        grew.then_some(self.log.size)
    }
    /// Adds a live reader; gives it back when there are too many or the stream has ended.
    pub fn attach(&mut self, stream: usize, reader: Descriptor) -> Result<(), Descriptor> {
        let Some(stream) = self.streams.get_mut(stream).filter(|it| it.from.get().is_some()) else { return Err(reader) };
        match stream.attached.iter_mut().find(|it| it.get().is_none()) {
            Some(free) => {
                *free = reader;
                Ok(())
            }
            None => Err(reader),
        }
    }

    /// Moves what one read gives.
    pub fn pump(&mut self, index: usize, scratch: &mut Scratch) -> Moved {
        let Output { streams, log } = self;
        let Some(stream) = streams.get_mut(index) else { return Moved::End };
        let Some(from) = stream.from.get() else { return Moved::End };
        let Some((input, batch)) = scratch.get() else { return Moved::Nothing };
        let Some(input) = log.readable().and_then(|it| input.get_mut(..it)) else {
            if log.held_since_ns == 0 {
                log.held_since_ns = sys::monotonic_ns();
            }
            return Moved::Held;
        };
        let count = match sys::read(from, input) {
            Ok(0) => return Moved::End,
            Ok(count) => count,
            Err(sys::EAGAIN | sys::EINTR) => return Moved::Nothing,
            Err(_) => return Moved::End,
        };
        let bytes = input.get(..count).unwrap_or(&[]);
        for reader in &mut stream.attached {
            let Some(to) = reader.get() else { continue };
            if !matches!(sys::write(to, bytes), Ok(_) | Err(sys::EAGAIN)) {
                reader.take();
            }
        }
        if log.file.get().is_some() {
            let mut batch = Batch { log, bytes: batch, length: 0, lines: 0, head: Batch::head(index) };
            stream.split(bytes, &mut batch);
            batch.flush();
        }
        Moved::Some
    }

    /// Moves what is left after the process ended and closes everything.
    pub fn finish(&mut self, scratch: &mut Scratch) {
        for index in 0..2 {
            // A bound, because a process that was left behind could write for ever.
            for _ in 0..256 {
                match self.pump(index, scratch) {
                    Moved::Some => {}
                    Moved::Held => self.log.rotate_alone(),
                    Moved::Nothing | Moved::End => break,
                }
            }
            self.end(index, scratch);
        }
        let dropped = self.log.dropped;
        *self = Output::NONE;
        self.log.dropped = dropped;
    }

    /// Ends one stream: its last line may lack a newline.
    pub fn end(&mut self, index: usize, scratch: &mut Scratch) {
        let Output { streams, log } = self;
        let Some(stream) = streams.get_mut(index) else { return };
        if let (Some(partial), Some((_, batch))) = (stream.partial.take(), scratch.get()) {
            let mut batch = Batch { log, bytes: batch, length: 0, lines: 0, head: Batch::head(index) };
            batch.line(partial.bytes().get(..stream.partial_length).unwrap_or(&[]), &[], true);
            batch.flush();
        }
        *stream = Stream::NONE;
    }
}

impl Stream {
    /// Cuts what came into lines and keeps the rest.
    fn split(&mut self, mut bytes: &[u8], batch: &mut Batch<'_>) {
        while !bytes.is_empty() {
            let room = LOG_LINE_BYTES_MAX - self.partial_length.min(LOG_LINE_BYTES_MAX);
            let window = bytes.get(..room.min(bytes.len())).unwrap_or(bytes);
            let before = match self.partial.as_ref() {
                Some(partial) => partial.bytes().get(..self.partial_length).unwrap_or(&[]),
                None => &[],
            };
            let used = if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                batch.line(before, window.get(..end).unwrap_or(&[]), true);
                end + 1
            } else if window.len() == room {
                batch.line(before, window, false);
                room
            } else {
                return self.keep(window);
            };
            self.partial_length = 0;
            bytes = bytes.get(used..).unwrap_or(&[]);
        }
        self.partial = None;
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.partial.is_none() {
            self.partial = Memory::new(LOG_LINE_BYTES_MAX).ok();
        }
        let end = self.partial_length + bytes.len();
        if let Some(place) = self.partial.as_mut().and_then(|it| it.bytes_mut().get_mut(self.partial_length..end)) {
            place.copy_from_slice(bytes);
            self.partial_length = end;
        }
    }
}

/// Log lines on their way to the file in one write.
struct Batch<'a> {
    log: &'a mut Log,
    bytes: &'a mut [u8],
    length: usize,
    lines: u64,
    head: [u8; TIME_BYTES + 8],
}

impl<'a> Batch<'a> {
    fn head(stream: usize) -> [u8; TIME_BYTES + 8] {
        let mut time = [0u8; TIME_BYTES];
        write_time(&mut time, sys::now_ns());
        let mut head = [b' '; TIME_BYTES + 8];
        head[..TIME_BYTES].copy_from_slice(&time);
        head[TIME_BYTES + 1..TIME_BYTES + 7].copy_from_slice(if stream == 0 { b"stdout" } else { b"stderr" });
        head
    }

    fn line(&mut self, before: &[u8], rest: &[u8], whole: bool) {
        let head = self.head;
        let length = head.len() + 2 + before.len() + rest.len() + 1;
        if self.length + length > self.bytes.len() {
            self.flush();
        }
        for part in [&head[..], if whole { b"F " } else { b"P " }, before, rest, b"\n"] {
            if let Some(place) = self.bytes.get_mut(self.length..self.length + part.len()) {
                place.copy_from_slice(part);
                self.length += part.len();
            }
        }
        self.lines += 1;
    }

    /// Writes all or nothing: half a line on a full disk would garble the next one.
    fn flush(&mut self) {
        let (length, lines) = (core::mem::take(&mut self.length), core::mem::take(&mut self.lines));
        let Some(file) = self.log.file.get().filter(|_| length > 0) else { return };
        if self.log.cap != 0 && self.log.size + length as u64 > self.log.cap {
            self.log.dropped += lines;
            return;
        }
        let mut rest = self.bytes.get(..length).unwrap_or(&[]);
        while !rest.is_empty() {
            match sys::write(file, rest) {
                Ok(count) if count > 0 => rest = rest.get(count..).unwrap_or(&[]),
                Err(sys::EINTR) => {}
                _ => {
                    let _ = sys::truncate(file, self.log.size);
                    self.log.dropped += lines;
                    return;
                }
            }
        }
        self.log.size += length as u64;
    }
}
