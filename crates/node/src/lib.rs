//! The node agent: pod lifecycle, probes, volumes, eviction, kubelet-compatible endpoints.

pub mod agent;
pub mod container;
pub mod environment;
pub mod lifecycle;
pub mod quantity;
pub mod streaming;
pub mod volumes;
