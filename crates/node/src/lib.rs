//! The node agent: pod lifecycle, probes, volumes, eviction, kubelet-compatible endpoints.

pub mod environment;
pub mod lifecycle;
pub mod quantity;
pub mod streaming;
pub mod volumes;
