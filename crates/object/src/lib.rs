//! Objects that know no kind: the value tree, codecs, schema interpreters, selectors, quantities, patches, apply, tables.
//!
//! Pure: no files, sockets, clock or randomness.

pub mod resource;
pub mod schema;
pub mod status;
mod value;

pub use resource::{GroupVersionKind, GroupVersionResource};
pub use status::{Cause, Status};
pub use value::{Map, Str, Value};
