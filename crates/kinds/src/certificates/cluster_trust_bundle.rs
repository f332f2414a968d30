//! ClusterTrustBundle: certificates of authorities to trust.

use crate::row::{NameRule, Resource};

/// The row of ClusterTrustBundle.
pub(super) fn row() -> Resource {
    Resource::new("certificates.k8s.io", "v1", "ClusterTrustBundle", "clustertrustbundles")
        .cluster()
        .names(NameRule::PathSegment)
        .selectable("spec.signerName")
}
