//! What the shim keeps of one process: a container's first process, or one that an exec runs inside it.

use crate::output::Output;
use crate::sys;

/// A descriptor that closes itself; all zeroes means none, so that untouched slots stay untouched pages.
#[derive(Default)]
pub struct Descriptor(i32);

impl Descriptor {
    pub const NONE: Descriptor = Descriptor(0);
    pub fn new(it: i32) -> Descriptor {
        Descriptor(if it < 0 { 0 } else { it + 1 })
    }
    pub fn get(&self) -> Option<i32> {
        if self.0 == 0 { None } else { Some(self.0 - 1) }
    }
    pub fn take(&mut self) -> Descriptor {
        core::mem::replace(self, Descriptor::NONE)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if let Some(it) = self.get() {
            sys::close(it);
        }
    }
}

/// What a forked child needs besides its program.
pub struct Start {
    /// stdin, stdout, stderr; None leaves /dev/null.
    pub streams: [Option<i32>; 3],
    /// Where failures, and the master of a terminal, are sent.
    pub report: i32,
    /// The container's pid, for an exec.
    pub container: i32,
    /// The host's mount namespace.
    pub host_mounts: i32,
}

/// One process.
pub struct Process {
    pub token: u64,
    /// One of `wire::STATE_*`.
    pub state: u32,
    pub pid: i32,
    pub exec: bool,
    pub own_pid_namespace: bool,
    /// Which connection asked for it, plus one; 0 once that connection is gone.
    pub owner: usize,
    /// The request that is answered once the program has run.
    pub request: u64,
    pub report: Descriptor,
    pub started_ns: u64,
    pub finished_ns: u64,
    pub wait_status: i32,
    /// The write end of stdin, or the terminal's master.
    pub stdin: Descriptor,
    /// The terminal's master on its way to the agent that asked for an exec.
    pub master: Descriptor,
    pub output: Output,
}

impl Process {
    pub const FREE: Process = Process {
        token: 0,
        state: crate::wire::STATE_FREE,
        pid: 0,
        exec: false,
        own_pid_namespace: false,
        owner: 0,
        request: 0,
        report: Descriptor::NONE,
        started_ns: 0,
        finished_ns: 0,
        wait_status: 0,
        stdin: Descriptor::NONE,
        master: Descriptor::NONE,
        output: Output::NONE,
    };
}
