//! YAML to and from the value tree, read as upstream's clients and servers read it.

mod decode;
mod encode;
mod scalar;

pub use crate::codec::{DecodeError, Decoded, Limits};
pub use decode::decode;
pub use encode::encode;
