//! A container's environment, command and arguments, from literals, references and the services around it. Pure.

mod build;
mod expand;
mod fields;
mod service_links;

pub use build::{Needs, command_line, environment, needs};
pub use expand::expand;
pub use fields::{FieldContext, pod_field, resource_field};
pub use service_links::{LinkedService, service_variables};
