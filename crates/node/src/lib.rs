//! The node agent: pod lifecycle, probes, volumes, eviction, kubelet-compatible endpoints.
