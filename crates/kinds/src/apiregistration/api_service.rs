//! APIService: an aggregated API server.

use crate::Resource;

/// The row of APIService.
pub(super) fn row() -> Resource {
    Resource::new("apiregistration.k8s.io", "v1", "APIService", "apiservices").cluster().in_api_extensions().status()
}
