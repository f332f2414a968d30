//! Reads container logs in the CRI format (time, stream, P or F, text), rotated files included, and follows them.

use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// The longest line that is held; a longer one is sent in pieces.
const LINE_BYTES_MAX: usize = 1 << 20;
const CHUNK_BYTES: usize = 32 << 10;
/// How often a followed file is looked at. A look is one fstat.
const FOLLOW_EVERY: Duration = Duration::from_millis(50);

/// How often a log that is being rotated is looked for.
const REOPEN_LOOKS: usize = 20;

/// What of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on as it grows.
    pub follow: bool,
    /// Only so many of the last lines.
    pub tail_lines: Option<u64>,
    /// Nothing before.
    pub since: Option<Timestamp>,
    /// With the time before each line.
    pub timestamps: bool,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// Only `Stdout` or `Stderr`; empty for both.
    pub stream: String,
}

/// The files of one run, the oldest first: `N.log.<time>` (rotated), then `N.log`.
fn files(directory: &Path, attempt: u32) -> io::Result<Vec<PathBuf>> {
    let current = format!("{attempt}.log");
    let prefix = format!("{current}.");
    let mut rotated: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix) && !name.ends_with(".tmp")) {
            rotated.push(entry.path());
        }
    }
    rotated.sort();
    rotated.push(directory.join(current));
    Ok(rotated)
}

fn compressed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gz")
}

/// Where the last `lines` full lines of a plain file begin, and how many lines were found.
fn tail_offset(file: &mut File, lines: u64) -> io::Result<(u64, u64)> {
    let end = file.seek(SeekFrom::End(0))?;
    let mut at = end;
    let mut found = 0_u64;
    let mut buffer = vec![0_u8; CHUNK_BYTES];
    while at > 0 {
        let size = at.min(CHUNK_BYTES as u64);
        at -= size;
        file.seek(SeekFrom::Start(at))?;
        let chunk = &mut buffer[..usize::try_from(size).unwrap_or(CHUNK_BYTES)];
        file.read_exact(chunk)?;
        for (index, byte) in chunk.iter().enumerate().rev() {
            let position = at + index as u64;
            if *byte != b'\n' || position + 1 == end {
                continue;
            }
            // A line that ended in P goes on in the next one: both are one line of the container.
            found += 1;
            if found == lines {
                return Ok((position + 1, found));
            }
        }
    }
    Ok((0, found + u64::from(end > 0)))
}

struct Writer<'a> {
    options: &'a LogOptions,
    left: Option<u64>,
    out: BytesMut,
    sender: &'a mpsc::Sender<Bytes>,
    within_line: bool,
}

impl Writer<'_> {
    /// Takes one line of the file; false once nothing more is wanted.
    fn line(&mut self, line: &[u8]) -> bool {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let (Some(time), Some(stream), Some(tag), text) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return true; // a line that was cut by a crash
        };
        let text = text.unwrap_or_default();
        let wanted = match self.options.stream.as_str() {
            "Stdout" => stream == b"stdout",
            "Stderr" => stream == b"stderr",
            _ => true,
        };
        if !wanted {
            return true;
        }
        if let Some(since) = self.options.since {
            let at = std::str::from_utf8(time).ok().and_then(|time| time.parse::<Timestamp>().ok());
            if at.is_none_or(|at| at < since) {
                return true;
            }
        }
        if self.options.timestamps && !self.within_line {
            self.out.extend_from_slice(time);
            self.out.put_u8(b' ');
        }
        self.out.extend_from_slice(text);
        self.within_line = tag.first() == Some(&b'P');
        if !self.within_line {
            self.out.put_u8(b'\n');
        }
        if let Some(left) = self.left {
            let have = self.out.len() as u64;
            if have >= left {
                self.out.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                self.left = Some(0);
                return false;
            }
        }
        if self.out.len() >= CHUNK_BYTES { self.flush() } else { true }
    }

    /// Sends what was collected; false once the client is gone.
    fn flush(&mut self) -> bool {
        if self.out.is_empty() {
            return true;
        }
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(self.out.len() as u64);
        }
        self.sender.blocking_send(self.out.split().freeze()).is_ok()
    }

    /// Takes the whole lines of `buffer`, leaving the rest.
    fn lines(&mut self, buffer: &mut BytesMut) -> bool {
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(end + 1);
            if !self.line(&line[..end]) {
                return false;
            }
        }
        if buffer.len() > LINE_BYTES_MAX {
            buffer.clear(); // no runtime writes such a line; it is skipped rather than held
        }
        true
    }
}

/// Sends the log to `sender` until its end, or for a followed one until the container is gone or the client is.
/// Blocks: to be called on a thread for blocking work.
///
/// # Errors
/// The log cannot be read.
pub(super) fn read(
    directory: &Path,
    attempt: u32,
    options: &LogOptions,
    running: &watch::Receiver<bool>,
    sender: &mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let mut writer = Writer { options, left: options.limit_bytes, out: BytesMut::new(), sender, within_line: false };
    if options.tail_lines == Some(0) && !options.follow {
        return Ok(());
    }
    let all = files(directory, attempt)?;
    let mut begin = 0;
    let mut offset = 0;
    if let Some(lines) = options.tail_lines {
        let mut wanted = lines;
        for (index, path) in all.iter().enumerate().rev() {
            begin = index;
            if compressed(path) {
                break; // not searched backwards: the tail then begins with the newest plain file
            }
            let Some(mut file) = open(path, index + 1 == all.len(), running)? else { continue };
            if wanted == 0 {
                offset = file.seek(SeekFrom::End(0))?;
                break;
            }
            let (at, found) = tail_offset(&mut file, wanted)?;
            offset = at;
            if found >= wanted {
                break;
            }
            wanted -= found;
            if index > 0 && compressed(&all[index - 1]) {
                break;
            }
        }
    }
    let mut buffer = BytesMut::new();
    for (index, path) in all.iter().enumerate().skip(begin) {
        let last = index + 1 == all.len();
        let Some(mut file) = open(path, last, running)? else { continue };
        if compressed(path) {
            if !drain(&mut flate2::read::GzDecoder::new(file), &mut buffer, &mut writer)? {
                break;
            }
            continue;
        }
        if index == begin {
            file.seek(SeekFrom::Start(offset))?;
        }
        if !drain(&mut file, &mut buffer, &mut writer)? {
            break;
        }
        if last && options.follow {
            if !writer.flush() {
                return Ok(());
            }
            follow(path, file, &mut buffer, &mut writer, running)?;
        }
    }
    writer.flush();
    Ok(())
}

/// Opens a file of a log that may be rotated in this moment. A rotated one that is gone was removed meanwhile; the current one is
/// there again in some milliseconds while the container runs.
fn open(path: &Path, is_current: bool, running: &watch::Receiver<bool>) -> io::Result<Option<File>> {
    for _ in 0..REOPEN_LOOKS {
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !is_current {
                    return Ok(None);
                }
                if !*running.borrow() {
                    return Err(error);
                }
                std::thread::sleep(FOLLOW_EVERY);
            }
            opened => return opened.map(Some),
        }
    }
    File::open(path).map(Some)
}

fn drain(reader: &mut impl Read, buffer: &mut BytesMut, writer: &mut Writer<'_>) -> io::Result<bool> {
    let mut chunk = vec![0_u8; CHUNK_BYTES];
    loop {
        let count = reader.read(&mut chunk)?;
        if count == 0 {
            return Ok(true);
        }
        buffer.extend_from_slice(&chunk[..count]);
        if !writer.lines(buffer) {
            return Ok(false);
        }
    }
}

fn follow(
    path: &Path,
    mut file: File,
    buffer: &mut BytesMut,
    writer: &mut Writer<'_>,
    running: &watch::Receiver<bool>,
) -> io::Result<()> {
    loop {
        // The order matters: what was written before the end is read after the end was seen.
        let ended = !*running.borrow() || running.has_changed().is_err();
        if !drain(&mut file, buffer, writer)? || !writer.flush() || writer.sender.is_closed() {
            return Ok(());
        }
        if ended {
            return Ok(());
        }
        if let Ok(now) = std::fs::metadata(path) {
            let own = file.metadata()?;
            if now.ino() != own.ino() {
                drain(&mut file, buffer, writer)?; // rotated: the rest of the old file, then the new one
                match open(path, true, running)? {
                    Some(next) => file = next,
                    None => return Ok(()),
                }
                continue;
            }
            if own.len() < file.stream_position()? {
                file.seek(SeekFrom::Start(0))?; // truncated in place
                continue;
            }
        }
        std::thread::sleep(FOLLOW_EVERY);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn run(directory: &Path, options: &LogOptions) -> String {
        let (sender, mut receiver) = mpsc::channel(1000);
        let (_keep, running) = watch::channel(false);
        read(directory, 0, options, &running, &sender).unwrap();
        drop(sender);
        let mut text = Vec::new();
        while let Ok(bytes) = receiver.try_recv() {
            text.extend_from_slice(&bytes);
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn what_is_asked_for_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let line = |second: u32, stream: &str, tag: &str, text: &str| {
            format!("2026-01-01T00:00:{second:02}.000000000Z {stream} {tag} {text}\n")
        };
        let old = line(1, "stdout", "F", "one") + &line(2, "stderr", "F", "two");
        let new = line(3, "stdout", "P", "thr")
            + &line(3, "stdout", "F", "ee")
            + &line(4, "stdout", "F", "")
            + &line(5, "stdout", "F", "five");
        std::fs::write(dir.path().join("0.log.20260101-000002"), old).unwrap();
        std::fs::write(dir.path().join("0.log"), new).unwrap();
        std::fs::write(dir.path().join("1.log"), "noise").unwrap();
        let since: Timestamp = "2026-01-01T00:00:03Z".parse().unwrap();
        let all = LogOptions::default;
        let cases = [
            (all(), "one\ntwo\nthree\n\nfive\n"),
            (LogOptions { tail_lines: Some(1), ..all() }, "five\n"),
            (LogOptions { tail_lines: Some(2), ..all() }, "\nfive\n"),
            (LogOptions { tail_lines: Some(5), ..all() }, "two\nthree\n\nfive\n"),
            (LogOptions { tail_lines: Some(500), ..all() }, "one\ntwo\nthree\n\nfive\n"),
            (LogOptions { tail_lines: Some(0), ..all() }, ""),
            (LogOptions { since: Some(since), ..all() }, "three\n\nfive\n"),
            (LogOptions { limit_bytes: Some(5), ..all() }, "one\nt"),
            (LogOptions { stream: "Stderr".into(), ..all() }, "two\n"),
            (LogOptions { timestamps: true, tail_lines: Some(1), ..all() }, "2026-01-01T00:00:05.000000000Z five\n"),
        ];
        for (options, expected) in cases {
            assert_eq!(run(dir.path(), &options), expected, "{options:?}");
        }
    }

    #[test]
    fn a_log_that_is_being_rotated_is_waited_for_while_its_container_runs() {
        let dir = tempfile::tempdir().unwrap();
        let (path, aside) = (dir.path().join("0.log"), dir.path().join("0.log.20260101-000000"));
        let line = |text: &str| format!("2026-01-01T00:00:00Z stdout F {text}\n");
        std::fs::write(&aside, line("old")).unwrap();
        for tail_lines in [None, Some(10)] {
            let (sender, mut receiver) = mpsc::channel(1000);
            let (alive, running) = watch::channel(true);
            let (directory, options) = (dir.path().to_path_buf(), LogOptions { tail_lines, ..LogOptions::default() });
            let thread = std::thread::spawn(move || read(&directory, 0, &options, &running, &sender));
            std::thread::sleep(FOLLOW_EVERY);
            let whole = dir.path().join("new");
            std::fs::write(&whole, line("new")).unwrap();
            std::fs::rename(whole, &path).unwrap();
            thread.join().unwrap().unwrap();
            assert_eq!(receiver.blocking_recv().unwrap(), "old\nnew\n");
            std::fs::remove_file(&path).unwrap();
            drop(alive);
        }
        let (sender, _receiver) = mpsc::channel(1000);
        let (_alive, running) = watch::channel(false);
        assert!(read(dir.path(), 0, &LogOptions::default(), &running, &sender).is_err(), "nobody makes it any more");
    }

    #[test]
    fn following_goes_through_a_rotation_and_ends_with_the_container() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let line = |text: &str| format!("2026-01-01T00:00:00Z stdout F {text}\n");
        std::fs::write(&path, line("a")).unwrap();
        let (sender, mut receiver) = mpsc::channel(1000);
        let (alive, running) = watch::channel(true);
        let directory = dir.path().to_path_buf();
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let thread = std::thread::spawn(move || read(&directory, 0, &options, &running, &sender));
        assert_eq!(receiver.blocking_recv().unwrap(), "a\n");
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(line("b").as_bytes()).unwrap();
        assert_eq!(receiver.blocking_recv().unwrap(), "b\n");
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        std::fs::write(&path, line("c")).unwrap();
        assert_eq!(receiver.blocking_recv().unwrap(), "c\n");
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(line("d").as_bytes()).unwrap();
        alive.send(false).unwrap();
        assert_eq!(receiver.blocking_recv().unwrap(), "d\n");
        assert!(receiver.blocking_recv().is_none());
        thread.join().unwrap().unwrap();
    }
}
