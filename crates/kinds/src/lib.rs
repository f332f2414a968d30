//! The resource table: one row and one file per kind, and the schema data.

pub mod openapi;
mod schema_data;

pub use schema_data::{kinds_with_types, schemas, type_id};
