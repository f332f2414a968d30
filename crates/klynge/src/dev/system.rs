//! The one system call that needs `unsafe`: leaving the namespaces of this machine; and finding this binary again.

use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::io;
use std::path::PathBuf;

/// New network, mount, IPC, UTS and control group namespaces for this process, and a PID namespace for its next child.
pub(super) fn leave_namespaces() -> io::Result<()> {
    let flags = UnshareFlags::NEWNET
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP
        | UnshareFlags::NEWPID;
    // SAFETY: none of these flags touches the table of file descriptors (only CLONE_FILES would), and no memory is shared or freed.
    unsafe { unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// This binary by its name, which processes then go by; where it was replaced meanwhile, the file that runs.
pub(super) fn this_binary() -> PathBuf {
    std::env::current_exe().ok().filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}
