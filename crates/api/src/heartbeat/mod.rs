//! Heartbeats of nodes: what is seen, and what is concluded from it (docs/decisions/0010-node-loss-and-fencing.md).

mod connection;
mod observe;
mod tcp_info;
mod watcher;

pub(crate) use client::HEARTBEAT_PATH as PATH;
pub(crate) use connection::accept;
pub use observe::{Picture, Presence, Seen, Silence};
pub(crate) use watcher::{Heartbeats, run};
