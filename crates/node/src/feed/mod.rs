//! What the node tells its data plane: Services and their endpoints, for load balancing, DNS and environment variables;
//! addresses of load balancers, to be announced; other nodes, for routes to their pods; resolvers for names outside the cluster; network policies with the pods and namespaces that
//! they select.

mod announcements;
mod beside;
mod checkpoint;
mod dns_config;
mod follow;
mod health;
mod peers;
mod policies;
mod policy_feed;
mod topology;
mod translate;
mod vigil;

pub use announcements::Announcing;
pub use beside::{Beside, CLUSTER_DNS, ENCRYPTION, Words, tell_health};
pub use dns_config::{keep_dns_config, outside};
pub use follow::{Feed, Sinks};
pub(crate) use peers::keep_peers;
pub use peers::{ENCRYPTION_FORM, ENCRYPTION_KEY, Encryption, encryption_annotation, peer};
pub(crate) use policies::pod_state;
pub use policies::policy;
pub use policy_feed::PolicyFeed;
pub use topology::Place;
pub use translate::{ServiceObjects, View, dns_service, linked_service, service_state};
pub(crate) use vigil::keep_vigil;
