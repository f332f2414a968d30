//! The API server: serve, authn, authz, admission, write, read, watch, discovery, openapi.

mod address;
mod admission;
pub mod auth;
mod bootstrap;
mod core;
mod heartbeat;
mod housekeeping;
mod listen;
mod local;
mod negotiate;
pub mod pki;
mod proxy;
mod random;
mod read;
mod serve;
mod server;
mod watch;
mod write;

pub use heartbeat::{Picture, Presence, Seen, Silence};
pub use listen::{client_address, listen};
pub use local::tree;
pub use proxy::{Connection, NoNodes, NodeConnector, html_links};
pub use server::{Error, Options, Removals, Server};
pub use write::address_range::AddressRange;
