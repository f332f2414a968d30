//! What the node tells its data plane: Services and their endpoints, for load balancing, DNS and environment variables.

mod follow;
mod translate;

pub use follow::{Feed, Sinks};
pub use translate::{ServiceObjects, dns_service, linked_service, service_state};
