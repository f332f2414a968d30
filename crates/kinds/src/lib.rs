//! The resource table: one row and one file per kind, and the schema data.
//!
//! Pure: no files, sockets, clock or randomness. Objects given to a row's hooks are hub objects.

mod admissionregistration;
mod apiextensions;
mod apiregistration;
mod apps;
mod authentication;
mod authorization;
mod autoscaling;
mod batch;
mod cells;
mod certificates;
mod coordination;
mod core;
mod discovery;
mod edit;
mod events;
mod flowcontrol;
mod hooks;
mod networking;
mod node;
pub mod openapi;
mod policy;
mod rbac;
mod resource;
mod row;
mod rows;
mod scheduling;
mod schema_data;
mod storage;
mod storagemigration;
mod table;
mod template;
pub mod validation;
mod write;

pub use core::{default_toleration_seconds, qos_class};
pub use hooks::{Grace, Hooks, Plain};
pub use row::{NameRule, Resource, Role, ScalePaths, SelectableField, Subresource, Version};
pub use schema_data::{kinds_with_types, schemas, type_id};
pub use table::{Group, Table, table};
pub use template::scale_columns;
