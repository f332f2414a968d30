//! Cluster DNS as a process of its own, which outlives its agent (docs/decisions/0015-dns-process.md).

mod handle;
mod protocol;
mod serve;

use std::ffi::CStr;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use crate::process::{FRAME_BYTES_MAX, Health, Malformed};
pub use handle::{Handle, Process};
pub use protocol::{Message, Setup};
pub use serve::serve;

use super::server::Sockets;
use crate::process::{self, Held, Kind};

/// The hidden command that the process is started with; the agent's directory follows it.
pub const WORD: &str = "dns-serve";
/// Its log in that directory; the binary writes it.
pub const LOG: &str = "dns.log";
/// Addresses to answer on at most; each has two sockets.
const ADDRESSES_MAX: usize = process::DESCRIPTORS_MAX / 2;

/// How the process is run.
pub type Options = process::Options<Setup>;

/// Ends the process of a directory, if there is one; it is gone afterwards. Its agent must have ended.
///
/// # Errors
/// It stays.
pub fn end(directory: &Path) -> io::Result<()> {
    process::end::<Names>(directory)
}

/// Cluster DNS among the processes beside the agent.
struct Names;

impl Kind for Names {
    const CALLED: &'static str = "cluster DNS";
    const WORD: &'static str = WORD;
    const TITLE: &'static CStr = c"klynge-dns";
    const SOCKET: &'static str = "dns.sock";
    const LOG: &'static str = LOG;
    const MAGIC: [u8; 12] = *b"klynge-dns\n\0";
    const VERSION: u32 = 1;
    // Longer than its longest question.
    const END_TIMEOUT: Duration = Duration::from_secs(6);
    type Setup = Setup;
    type Message = Message;
    type Held = Vec<Sockets>;

    fn groups(setup: &Setup) -> &[PathBuf] {
        &setup.groups
    }

    fn fits(setup: &Setup, held: &Vec<Sockets>) -> bool {
        held.len() == setup.listen.len() && held.len() <= ADDRESSES_MAX
    }
}

/// Of each address UDP, then TCP.
impl Held for Vec<Sockets> {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.iter().flat_map(|both| [both.udp.as_fd(), both.tcp.as_fd()]).collect()
    }

    fn take(descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let mut sockets = Self::new();
        let mut rest = descriptors.into_iter();
        while let Some(udp) = rest.next() {
            let lonely = || io::Error::new(io::ErrorKind::InvalidData, "an address has one socket only");
            let tcp = TcpListener::from(rest.next().ok_or_else(lonely)?);
            tcp.set_nonblocking(true)?;
            sockets.push(Sockets { udp: UdpSocket::from(udp), tcp });
        }
        Ok(sockets)
    }

    fn try_clone(&self) -> io::Result<Self> {
        self.iter().map(Sockets::try_clone).collect()
    }
}
