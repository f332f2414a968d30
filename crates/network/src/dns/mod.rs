//! Cluster DNS: the zone of Services in a hash map, everything else forwarded to the host's resolvers.

mod answer;
mod cache;
mod error;
mod forward;
mod forwards;
mod name;
pub mod process;
mod resolv_conf;
mod server;
mod state;
mod wire;
mod zone;

pub use error::Error;
pub use name::{Name, NameError};
pub use resolv_conf::{HostResolvers, host_resolvers};
pub use server::{Dns, Handle, Options, Outside, Statistics};
pub use state::{DnsEndpoint, DnsKind, DnsPort, DnsService};
pub use zone::Zone;
