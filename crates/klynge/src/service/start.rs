//! Starts a long-lived command in the background and waits until it says that it is ready.

use super::{daemon, notify, systemd};
use crate::cli::{Failure, Output};
use std::path::Path;
use std::time::Duration;

pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Starts `klynge WORDS` as a systemd unit where systemd runs, as a daemon elsewhere.
pub(crate) fn start(data_dir: &Path, words: &[String], output: &Output) -> Result<(), Failure> {
    if systemd::present() {
        output.progress("starting klynge.service under systemd");
        return systemd::start(words);
    }
    let what = words.first().map_or("server", String::as_str);
    output.progress(&format!("starting the {what}; its log is {}", daemon::log_path(data_dir).display()));
    let socket = data_dir.join("up.sock");
    let listener = notify::Listener::bind(&socket)
        .map_err(|error| Failure::Failed(format!("cannot listen on {}: {error}", socket.display())))?;
    let before = daemon::log_end(data_dir);
    let mut child = daemon::start(data_dir, words, &socket)?;
    let heard = listener.wait(READY_TIMEOUT, || matches!(child.try_wait(), Ok(Some(_))));
    let _ = std::fs::remove_file(&socket); // only a name is left of it
    match heard {
        notify::Heard::Ready => Ok(()),
        notify::Heard::Gone => Err(Failure::Failed(format!(
            "the {what} ended at once; its last words:\n{}",
            daemon::last_words(data_dir, before)
        ))),
        notify::Heard::Nothing => Err(Failure::TimedOut(format!(
            "the {what} is not ready after {} s; its last words:\n{}",
            READY_TIMEOUT.as_secs(),
            daemon::last_words(data_dir, before)
        ))),
    }
}
