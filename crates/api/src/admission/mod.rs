//! Admission: an ordered list of plug-ins that may change or refuse a write. None of them ever holds the store's writer.

mod default_classes;
mod namespaces;
mod node_restriction;
mod nodes;
mod plugin;
mod pods;
mod roles;
mod service_accounts;
mod token_secrets;

pub(crate) use namespaces::namespace_of;
pub(crate) use plugin::{Operation, Review, mutate, validate};
