//! Pure scheduling: place(snapshot, pods) gives bindings or the reason why not.
//!
//! No clock, no randomness, no I/O: the tie-breaking seed arrives as a parameter, and whoever calls [`place`] commits.

mod batch;
mod class;
mod domains;
mod explain;
mod node_info;
mod place;
mod pod_info;
pub mod predicate;
pub mod quantity;
mod resources;
mod score;
pub mod selector;
mod snapshot;
mod topology;

pub use place::{Decision, Parameters, place};
pub use pod_info::is_terminal;
pub use resources::{Resources, allocatable, pod_requests};
pub use snapshot::Snapshot;
