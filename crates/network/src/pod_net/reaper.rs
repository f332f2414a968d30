//! Deletes the interfaces of detached pods in the background, many at a time.
//!
//! The kernel takes some 20 ms to delete an interface, with the lock held that every attachment needs, and no longer for a hundred of them.
//! So a detached pod's interface is only put into a group, and the group is deleted a moment later.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::netlink::{Result, RouteBatch, Rtnetlink, Socket};

/// The group of interfaces that are to be deleted ("kly" and a number that nobody uses by hand).
const GROUP: u32 = 0x6b6c_7901;
/// How long deletions are collected.
const COLLECT_MS: u64 = 250;

/// The background thread; it ends, after a last round, when this is dropped.
pub(crate) struct Reaper {
    wake: Sender<()>,
}

impl Reaper {
    /// Starts the thread.
    pub(crate) fn start(mut rtnetlink: Rtnetlink) -> std::io::Result<Self> {
        let (wake, woken) = channel();
        std::thread::Builder::new().name("interface-reaper".to_owned()).spawn(move || {
            while woken.recv().is_ok() {
                let is_last = loop {
                    match woken.recv_timeout(Duration::from_millis(COLLECT_MS)) {
                        Ok(()) => {}
                        Err(RecvTimeoutError::Timeout) => break false,
                        Err(RecvTimeoutError::Disconnected) => break true,
                    }
                };
                if let Err(error) = reap(rtnetlink.socket()) {
                    tracing::warn!(%error, "interfaces of detached pods stay until the next round or restart");
                }
                if is_last {
                    return;
                }
            }
        })?;
        Ok(Self { wake })
    }

    /// Marks an interface for deletion, in a batch that the caller sends.
    pub(crate) fn mark(batch: &mut RouteBatch, interface: &str) {
        batch.set_group(interface, GROUP);
    }

    /// Tells the thread that interfaces are marked.
    pub(crate) fn wake(&self) {
        // Without a thread nothing is lost: the next start removes what nobody owns.
        let _ = self.wake.send(());
    }
}

/// Deletes all marked interfaces now.
pub(crate) fn reap(socket: &mut Socket) -> Result<()> {
    let mut batch = RouteBatch::new();
    batch.delete_group(GROUP);
    match batch.send(socket) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
