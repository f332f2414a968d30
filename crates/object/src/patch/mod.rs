//! Patches: JSON patch (RFC 6902), JSON merge patch (RFC 7386), strategic merge patch.

mod error;
mod json;
mod lists;
mod merge;
mod pointer;
mod strategic;
#[cfg(test)]
mod tests;

pub use error::PatchError;
pub use json::{OPERATIONS_MAX, json};
pub use merge::merge;
pub use strategic::strategic;
