//! ResourceClaim: a wish for devices.

use crate::Resource;

/// The row of ResourceClaim.
pub(super) fn row() -> Resource {
    Resource::new("resource.k8s.io", "v1", "ResourceClaim", "resourceclaims").status()
}
