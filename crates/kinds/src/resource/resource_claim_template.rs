//! ResourceClaimTemplate: makes a ResourceClaim for each pod.

use crate::Resource;

/// The row of ResourceClaimTemplate.
pub(super) fn row() -> Resource {
    Resource::new("resource.k8s.io", "v1", "ResourceClaimTemplate", "resourceclaimtemplates")
}
