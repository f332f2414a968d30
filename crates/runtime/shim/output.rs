//! A container's output: from its pipes (or terminal) into the log in CRI's format, and live to whoever is attached.
//! A reader that is too slow loses live output, a full disk loses log lines (counted): the container never waits for either.

use crate::clock::{TIME_BYTES, write_time};
use crate::process::Descriptor;
use crate::sys::{self, Memory};
use crate::wire::{ATTACHED_MAX, LOG_LINE_BYTES_MAX};

const INPUT_BYTES: usize = 32 << 10;
const BATCH_BYTES: usize = 64 << 10;

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
    /// Beyond this size lines are dropped until the agent rotates.
    cap: u64,
    /// Passing this size is told to the agent, once per file.
    notice: u64,
    noticed: bool,
    dropped: u64,
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
    End,
}

impl Output {
    pub const NONE: Output = Output {
        streams: [Stream::NONE, Stream::NONE],
        log: Log { file: Descriptor::NONE, size: 0, cap: 0, notice: 0, noticed: false, dropped: 0 },
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
        let size = file.get().and_then(|it| sys::seek_end(it).ok()).unwrap_or(0) as u64;
        self.log = Log { file, size, cap, notice, noticed: false, dropped: self.log.dropped };
    }
    /// Goes on in another file, with the same limits.
    pub fn reopen_log(&mut self, file: Descriptor) {
        self.set_log(file, self.log.cap, self.log.notice);
    }
    pub fn dropped_lines(&self) -> u64 {
        self.log.dropped
    }
    /// True once per file, when it has passed its notice size.
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
                if self.pump(index, scratch) != Moved::Some {
                    break;
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
