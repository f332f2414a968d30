//! CNI plug-ins in place of the built-in pod network: what a node's configuration asks for is done by programs of others.

mod config;
mod error;
mod invoke;
mod outcome;
mod plugins;
mod record;

pub use config::{NetworkList, Plugin};
pub use error::Error;
pub use outcome::{Addresses, PluginError};
pub use plugins::{Attachment, Options, PURGE_HINT, Plugins, PortMapping};
