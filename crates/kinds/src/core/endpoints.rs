//! Endpoints: the addresses of a Service in the form before EndpointSlice.

use crate::Resource;

/// The row of Endpoints.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "Endpoints", "endpoints").short(&["ep"])
}
