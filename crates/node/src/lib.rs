//! The node agent: pod lifecycle, probes, volumes, eviction, kubelet-compatible endpoints.

pub mod adapters;
pub mod agent;
mod bandwidth;
pub mod container;
pub mod environment;
pub mod feed;
pub mod lifecycle;
pub mod machine;
mod node;
pub mod quantity;
pub mod streaming;
pub mod volumes;

pub use machine::Contact;
pub use node::{Node, Options};
