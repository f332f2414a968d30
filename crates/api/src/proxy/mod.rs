//! Requests that are passed on: to a node's agent (logs, exec, attach, port-forward), to pods, to services.

mod application;
mod connector;
mod forward;
pub mod html_links;
mod log_options;
mod targets;
pub(crate) mod tunnel;

pub use connector::{Connection, NoNodes, NodeConnector};
pub(crate) use forward::handle;
pub(crate) use tunnel::Tunnels;
