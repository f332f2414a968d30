//! The server in the background: under systemd where that runs, as a daemon elsewhere; and word of being ready.

pub(crate) mod daemon;
pub(crate) mod notify;
pub(crate) mod systemd;

mod start;

pub(crate) use start::start;
