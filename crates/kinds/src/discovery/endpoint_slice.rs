//! EndpointSlice: the addresses of a Service.

use crate::Resource;

/// The row of EndpointSlice.
pub(super) fn row() -> Resource {
    Resource::new("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices").generation(&[
        "addressType",
        "endpoints",
        "ports",
    ])
}
