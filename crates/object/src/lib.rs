//! Objects that know no kind: the value tree, codecs, schema interpreters, selectors, quantities, patches, apply, tables.
//!
//! Pure: no files, sockets, clock or randomness.

pub mod apply;
mod codec;
pub mod json;
pub mod meta;
pub mod names;
pub mod patch;
pub mod percent;
pub mod proto;
pub mod quantity;
pub mod resource;
pub mod schema;
pub mod selector;
pub mod serde;
pub mod status;
pub mod table;
#[cfg(test)]
mod testing;
pub mod time;
mod value;
pub mod yaml;

pub use codec::{DecodeError, Decoded, Limits};
pub use resource::{GroupVersionKind, GroupVersionResource};
pub use status::{Cause, Status};
pub use value::{Map, Str, Value};
