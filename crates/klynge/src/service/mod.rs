//! The server in the background: under systemd where that runs, as a daemon elsewhere; and word of being ready.

pub(crate) mod daemon;
pub(crate) mod notify;
mod start;
pub(crate) mod systemd;

pub(crate) use start::{READY_TIMEOUT, start};
