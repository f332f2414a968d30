//! What the node tells its data plane: Services and their endpoints, for load balancing, DNS and environment variables;
//! other nodes, for routes to their pods; network policies with the pods and namespaces that they select.

mod follow;
mod peers;
mod policies;
mod policy_feed;
mod translate;

pub use follow::{Feed, Sinks};
pub use peers::{keep_peers, peer};
pub(crate) use policies::pod_state;
pub use policies::policy;
pub use policy_feed::PolicyFeed;
pub use translate::{ServiceObjects, dns_service, linked_service, service_state};
