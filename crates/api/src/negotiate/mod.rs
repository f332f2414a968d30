//! Between bytes and objects: which encoding, which shape, and the work of encoding and decoding.

mod accept;
mod decode;
mod encode;
mod frames;

pub(crate) use accept::{Accepted, Encoding, Offers, Shape, negotiate};
pub(crate) use decode::{decode_body, decode_patch};
pub(crate) use encode::{Codec, Payload};
pub(crate) use frames::Frames;
