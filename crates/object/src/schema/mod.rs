//! What is known of a type of object: the one description that every interpreter reads.

mod check;
mod defaults;
mod model;
mod normalise;
mod prune;

pub use check::{check, check_types, json_kind};
pub use defaults::apply_defaults;
pub use model::{Default, Field, ListKind, Schemas, Struct, Type, TypeId};
pub use normalise::{normalise, normalise_with};
pub use prune::prune;
