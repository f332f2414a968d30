//! What is particular to one kind of process beside the agent.

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use super::frame::{Malformed, Reader, Writer, append_frame, read_frame};

/// Descriptors that one greeting hands over at most; a message of the kernel's carries 253.
pub(crate) const DESCRIPTORS_MAX: usize = 128;

/// A kind of process.
pub(crate) trait Kind: Send + Sync + Sized + 'static {
    /// What logs call it.
    const CALLED: &'static str;
    /// The hidden command that it is started with; the agent's directory follows it.
    const WORD: &'static str;
    /// What it is called in a list of processes.
    const TITLE: &'static CStr;
    /// Its socket in that directory.
    const SOCKET: &'static str;
    /// Its log there.
    const LOG: &'static str;
    /// What a greeting begins with.
    const MAGIC: [u8; 12];
    /// The version of everything after the greeting.
    const VERSION: u32;
    /// How long one that was told to end may take: longer than whatever it still waits for.
    const END_TIMEOUT: Duration;
    /// How a process was set up; it never changes.
    type Setup: Clone + PartialEq + fmt::Debug + Send + Sync + 'static;
    /// What the agent and the process say to each other.
    type Message: Message<Setup = Self::Setup>;
    /// What the agent opens and holds, so that one process can follow another.
    type Held: Held;

    /// Files that the process writes 0 into to leave the agent's control groups.
    fn groups(setup: &Self::Setup) -> &[PathBuf];
    /// Whether what was handed over is what the setup needs.
    fn fits(setup: &Self::Setup, held: &Self::Held) -> bool;
}

/// A message of a kind of process.
pub(crate) trait Message: Sized + Send + Sync {
    /// The setup that each side begins with.
    type Setup;
    /// Writes its parts, the kind first.
    fn write(&self, writer: &mut Writer<'_>);
    /// Reads its parts.
    fn read_from(reader: &mut Reader<'_>) -> Result<Self, Malformed>;
    /// The message that tells a setup.
    fn of_setup(setup: Self::Setup) -> Self;
    /// The setup that it tells, if it does.
    fn setup(self) -> Option<Self::Setup>;
    /// The number that it acknowledges, if it does.
    fn synced(&self) -> Option<u64>;

    /// Appends it as a frame; one that would be too long is left out, which is told by false.
    fn append_to(&self, out: &mut Vec<u8>) -> bool {
        append_frame(out, |writer| self.write(writer))
    }

    /// Reads a frame without its length.
    fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        read_frame(bytes, Self::read_from)
    }
}

/// Descriptors that outlive each process.
pub(crate) trait Held: Sized + Send + Sync + 'static {
    /// In the order of the greeting.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;
    /// From a greeting.
    fn take(descriptors: Vec<OwnedFd>) -> io::Result<Self>;
    /// A second hold on the same.
    fn try_clone(&self) -> io::Result<Self>;
}
