//! Pure controllers: plan(view, key, memory, now) gives actions.
//!
//! No controller imports another; what two of them need stands in `meta`, `pods` or `replicas`.

mod action;
mod controller;
mod history;
mod meta;
mod pods;
mod presence;
mod replicas;
mod service_pods;
mod view;

pub mod certificates;
pub mod cron_job;
pub mod daemon_set;
pub mod deployment;
pub mod disruption;
pub mod endpoint_slice;
pub mod endpoint_slice_mirroring;
pub mod endpoints;
pub mod fast_failover;
pub mod garbage;
pub mod job;
pub mod load_balancer;
pub mod namespace;
pub mod node_lifecycle;
pub mod node_ranges;
pub mod pod_garbage;
pub mod replica_set;
pub mod replication_controller;
pub mod root_ca;
pub mod service_account;
pub mod service_cidr;
pub mod stateful_set;
pub mod taint_eviction;
pub mod token_secrets;

pub use action::{Action, Create, Event, EventType, Failure, Plan, Precondition, Propagation, Resource, Target};
pub use controller::{Change, Controller};
pub use presence::{Picture, Presence, Seen, Silence};
pub use view::{Key, MetadataEntry, MetadataIndex, Mirror, Other, Settings, Typed, View};
