//! Protobuf to and from the value tree, driven by a schema's field numbers: no generated type per kind.

mod decode;
mod encode;
pub mod envelope;
mod json_schema;
mod wire;

pub use crate::codec::{DecodeError, Limits};
pub use decode::decode;
pub use encode::{EncodeError, encode, encode_into};
pub use wire::{push_bytes, push_tag, push_varint};
