//! Images: names, registries, archives, layers on disk.

mod archive;
mod config;
mod error;
mod install;
mod pull;
mod reference;
mod registry;
mod store;
mod transport;
mod unpack;

pub use config::ImageConfig;
pub use error::ImageError;
pub use pull::{Credentials, Progress, PullOptions};
pub use reference::Reference;
pub use store::{Image, Images};
