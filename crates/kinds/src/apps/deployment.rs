//! Deployment: replicas that are rolled from one template to the next.

use crate::Resource;

/// The row of Deployment.
pub(super) fn row() -> Resource {
    Resource::new("apps", "v1", "Deployment", "deployments")
        .short(&["deploy"])
        .in_all()
        .generation(&["spec"])
        .status()
        .scale(&["spec", "selector"])
}
