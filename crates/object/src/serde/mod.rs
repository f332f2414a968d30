//! The bridge between value trees and typed Rust structs (k8s-openapi), without going through text.

mod from_tree;
mod to_tree;
mod tree;

pub use from_tree::{ConversionError, to_typed};
pub use to_tree::{from_typed, try_from_typed};
