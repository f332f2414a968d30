//! The hidden commands of processes beside the agent: their logs, and the rest in `network`.

use network::{dns, wireguard};
use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use tracing_subscriber::EnvFilter;

/// What a process may write to its log, which the next one begins anew if the former left it longer than half of that.
const LOG_BYTES_MAX: u64 = 1 << 20;

/// Cluster DNS, until it is told to end.
pub(crate) fn names(directory: &Path) -> ExitCode {
    run(&directory.join(dns::process::LOG), || dns::process::serve(directory), "cluster DNS")
}

/// The encryption in user space, until it is told to end.
pub(crate) fn encryption(directory: &Path) -> ExitCode {
    run(&directory.join(wireguard::LOG), || wireguard::serve(directory), "the encryption")
}

fn run<E: Display>(log: &Path, serve: impl FnOnce() -> Result<(), E>, called: &str) -> ExitCode {
    // Without a log it serves all the same: pods need it more than anybody needs its words.
    if let Ok(log) = Log::open(log) {
        // The library tells of every quiet peer as of an error.
        let filter = EnvFilter::new("info,boringtun=off");
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
        subscriber.with_writer(Mutex::new(log)).init();
    }
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "{called} ends");
            ExitCode::FAILURE
        }
    }
}

/// A file of bounded length; what comes after that is dropped.
struct Log {
    file: File,
    bytes: u64,
}

impl Log {
    fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        let file = options.open(path)?;
        let mut bytes = file.metadata()?.len();
        if bytes > LOG_BYTES_MAX / 2 {
            file.set_len(0)?;
            bytes = 0;
        }
        Ok(Self { file, bytes })
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.bytes < LOG_BYTES_MAX {
            self.bytes += line.len() as u64;
            // A full disk loses lines, never the process.
            let _ = self.file.write_all(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_log_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dns.log");
        let line = vec![b'x'; 100_000];
        for _ in 0..2 {
            let mut log = Log::open(&path).unwrap();
            for _ in 0..30 {
                log.write_all(&line).unwrap();
            }
            let length = std::fs::metadata(&path).unwrap().len();
            assert!((LOG_BYTES_MAX..LOG_BYTES_MAX + 100_000).contains(&length), "{length}");
        }
    }
}
