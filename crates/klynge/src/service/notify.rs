//! systemd's notification protocol, both sides: the server tells that it is ready, `klynge up` listens without systemd too.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::{Duration, Instant};

/// Sends `READY=1` and the like to $NOTIFY_SOCKET; nothing where it is not set.
pub(crate) fn send(state: &str) -> io::Result<()> {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let socket = UnixDatagram::unbound()?;
    let address = match path.to_string_lossy().strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    socket.send_to_addr(state.as_bytes(), &address).map(|_| ())
}

/// What a server that was started said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It is ready.
    Ready,
    /// Nothing in time.
    Nothing,
    /// `gone` said that it has ended.
    Gone,
}

/// A socket to listen on.
pub(crate) struct Listener(UnixDatagram);

impl Listener {
    /// Binds at `path`.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        let _ = std::fs::remove_file(path); // a left-over of a run that was killed
        let socket = UnixDatagram::bind(path)?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(Listener(socket))
    }

    /// Waits for READY=1; asks `gone` in between.
    pub(crate) fn wait(&self, timeout: Duration, mut gone: impl FnMut() -> bool) -> Heard {
        let deadline = Instant::now() + timeout;
        let mut buffer = [0; 4096];
        while Instant::now() < deadline {
            if let Ok(length) = self.0.recv(&mut buffer) {
                let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
                if text.lines().any(|line| line == "READY=1") {
                    return Heard::Ready;
                }
            } else if gone() {
                return Heard::Gone;
            }
        }
        Heard::Nothing
    }
}
