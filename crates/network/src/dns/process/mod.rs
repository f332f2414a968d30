//! Cluster DNS as a process of its own, which outlives its agent (docs/decisions/0015-dns-process.md).

mod find;
mod link;
mod protocol;
mod serve;
mod start;
mod supervise;

pub use find::end;
pub use protocol::{FRAME_BYTES_MAX, Malformed, Message, Setup};
pub use serve::serve;
pub use supervise::{Handle, Health, Options, Process};

/// The hidden command that the process is started with; the agent's directory follows it.
pub const WORD: &str = "dns-serve";
/// Its log in that directory; the binary writes it.
pub const LOG: &str = "dns.log";
/// Its socket there.
const SOCKET: &str = "dns.sock";
