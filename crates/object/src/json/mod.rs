//! JSON to and from the value tree.

mod decode;
mod encode;
mod plain;

pub use crate::codec::{DUPLICATES_MAX, DecodeError, Decoded, Limits};
pub use decode::decode;
pub use encode::{encode, encode_into};
