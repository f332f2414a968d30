//! WireGuard in user space, for kernels that have none: a process of its own that holds a TUN device and the UDP sockets, and outlives
//! its agent (docs/decisions/0017-encryption.md).

mod device;
mod engine;
mod error;
mod flood;
mod handle;
mod inward;
mod merge;
mod outward;
mod packet;
mod peers;
mod protocol;
mod ranges;
mod segment;
mod serve;
mod system;

use std::ffi::CStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use crate::process::Health;
pub(crate) use device::can_make;
pub use error::Error;
pub use handle::{Handle, Process};
pub use merge::Merger;
pub use protocol::{Message, Setup};
pub use segment::split;
pub use serve::serve;

use crate::process::{self, Kind};
use device::Held;

/// The hidden command that the process is started with; the agent's directory follows it.
pub const WORD: &str = "wireguard-serve";
/// Its log in that directory; the binary writes it.
pub const LOG: &str = "wireguard.log";
/// Where one that rests takes what comes for its sessions.
const REST_SOCKET: &str = "wireguard-rest.sock";
/// How long one that rests goes on after it was told to end: what was on its way has come by then.
const LINGER: Duration = Duration::from_secs(2);

/// How the process is run.
pub type Options = process::Options<Setup>;

/// Ends the process of a directory, if there is one; it is gone afterwards. Its agent must have ended. The device stays.
///
/// # Errors
/// It stays.
pub fn end(directory: &Path) -> io::Result<()> {
    process::end::<Tunnel>(directory)
}

/// The encryption in user space among the processes beside the agent.
struct Tunnel;

impl Kind for Tunnel {
    const CALLED: &'static str = "encryption in user space";
    const WORD: &'static str = WORD;
    const TITLE: &'static CStr = c"klynge-wg";
    const SOCKET: &'static str = "wireguard.sock";
    const LOG: &'static str = LOG;
    const MAGIC: [u8; 12] = *b"klynge-wg\n\0\0";
    const VERSION: u32 = 1;
    const END_TIMEOUT: Duration = Duration::from_secs(4);
    type Setup = Setup;
    type Message = Message;
    type Held = Held;

    fn groups(setup: &Setup) -> &[PathBuf] {
        &setup.groups
    }

    fn fits(_: &Setup, held: &Held) -> bool {
        !held.sockets.is_empty()
    }
}
