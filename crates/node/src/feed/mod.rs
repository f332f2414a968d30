//! What the node tells its data plane: Services and their endpoints, for load balancing, DNS and environment variables;
//! other nodes, for routes to their pods; resolvers for names outside the cluster.

mod dns_config;
mod follow;
mod health;
mod peers;
mod topology;
mod translate;

pub use dns_config::{keep_dns_config, outside};
pub use follow::{Feed, Sinks};
pub use peers::{keep_peers, peer};
pub use topology::Place;
pub use translate::{ServiceObjects, dns_service, linked_service, service_state};
