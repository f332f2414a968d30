//! A pod: its shim, its containers, and what the node does with them.

mod attach;
mod exec;
mod handle;
mod remove;
mod start;
mod status;
mod stream;

pub use attach::Attached;
pub use exec::Exec;
pub use handle::{Events, Pod};
pub(crate) use remove::remove_directory;
pub use stream::Stream;
