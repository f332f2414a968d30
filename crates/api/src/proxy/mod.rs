//! Requests that are passed on: to a node's agent (logs, exec, attach, port-forward), to pods, to services.

mod connector;
mod forward;
mod log_options;
mod targets;
pub(crate) mod tunnel;

pub use connector::{Connection, NoNodes, NodeConnector};
pub(crate) use forward::handle;
pub(crate) use tunnel::Tunnels;
