//! What is known of a type of object: the one description that every interpreter reads.

mod model;

pub use model::{Default, Field, ListKind, Schemas, Struct, Type, TypeId};
