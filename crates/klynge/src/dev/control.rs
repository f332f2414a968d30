//! Talking to a node's init: one line of JSON each way over its socket.

use super::boot::FORMAT;
use crate::cli::Failure;
use rustix::net::sockopt::socket_peercred;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A longer request is not read.
pub(super) const REQUEST_BYTES_MAX: usize = 64 << 10;
const REPLY_BYTES_MAX: u64 = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(3);

/// What is asked of init.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) format: u32,
    /// `status`, `start`, `stop`, `kill`.
    pub(super) verb: String,
    /// The binary of the agent: that of the command, so that a restart may be an upgrade.
    #[serde(default)]
    pub(super) program: std::path::PathBuf,
    /// The agent's command line.
    #[serde(default)]
    pub(super) arguments: Vec<String>,
    /// What it joins with.
    #[serde(default)]
    pub(super) token: Option<String>,
}

/// What init says of the agent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) format: u32,
    /// Its process id inside the node.
    pub(super) agent: Option<i32>,
    pub(super) ready: bool,
    pub(super) ended: Option<String>,
    pub(super) error: Option<String>,
}

/// Process id of init on this side; None where nobody listens.
pub(super) fn init_process(socket: &Path) -> Option<i32> {
    let stream = UnixStream::connect(socket).ok()?;
    Some(socket_peercred(&stream).ok()?.pid.as_raw_nonzero().get())
}

/// Asks without arguments.
pub(super) fn ask(socket: &Path, verb: &str) -> Result<Reply, Failure> {
    call(socket, Request { verb: verb.to_owned(), ..Request::default() })
}

/// Asks.
pub(super) fn call(socket: &Path, mut request: Request) -> Result<Reply, Failure> {
    request.format = FORMAT;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure::TimedOut(
            "the node's init does not answer; is the node paused? `klynge dev status` tells".to_owned(),
        ),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
            Failure::Unreachable("the node does not run; start it with `klynge dev node start`".to_owned())
        }
        _ => Failure::Failed(format!("cannot talk to the node's init: {error}")),
    };
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut line = serde_json::to_vec(&request).map_err(|error| failed(error.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(failed)?;
    let mut answer = String::new();
    BufReader::new(stream.take(REPLY_BYTES_MAX)).read_line(&mut answer).map_err(failed)?;
    let reply: Reply = serde_json::from_str(&answer)
        .map_err(|error| Failure::Failed(format!("the node's init answers something else: {error}")))?;
    match reply.error {
        Some(error) => Err(Failure::Failed(format!("the node's init refuses: {error}"))),
        None => Ok(reply),
    }
}
