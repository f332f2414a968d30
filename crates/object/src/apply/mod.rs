//! Server-side apply: who owns which field, what a write takes, and where two appliers disagree.

mod compare;
mod error;
mod fit;
mod managers;
mod merge;
mod operation;
mod paths;
mod set;
#[cfg(test)]
mod tests;
mod update;

pub use error::Error;
pub use fit::{fit, printed};
pub use operation::{Apply, apply};
pub use set::Set;
pub use update::{Writer, track_update};
