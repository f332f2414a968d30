//! Registers descriptors with the asynchronous runtime: the one `unsafe` that this takes.

use std::{io, os::fd::OwnedFd};

use tokio::io::unix::AsyncFd;

/// Watches a descriptor for reading and writing. It must be non-blocking.
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is valid, and nobody can replace or close it while the AsyncFd owns it.
    unsafe { AsyncFd::register(descriptor) }.map_err(io::Error::from)
}
