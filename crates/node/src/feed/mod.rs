//! What the node tells its data plane: Services and their endpoints, for load balancing, DNS and environment variables;
//! other nodes, for routes to their pods; resolvers for names outside the cluster; network policies with the pods and namespaces that
//! they select.

mod checkpoint;
mod dns_config;
mod follow;
mod health;
mod peers;
mod policies;
mod policy_feed;
mod topology;
mod translate;

pub use dns_config::{keep_dns_config, outside};
pub use follow::{Feed, Sinks};
pub use peers::{ENCRYPTION_KEY, encryption_annotation, keep_peers, peer};
pub(crate) use policies::pod_state;
pub use policies::policy;
pub use policy_feed::PolicyFeed;
pub use topology::Place;
pub use translate::{ServiceObjects, dns_service, linked_service, service_state};
