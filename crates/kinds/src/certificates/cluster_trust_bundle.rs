//! ClusterTrustBundle: certificates of authorities to trust.

use crate::cells;
use crate::row::{NameRule, Resource};
use object::table::Column;

/// The row of ClusterTrustBundle.
pub(super) fn row() -> Resource {
    Resource::new("certificates.k8s.io", "v1", "ClusterTrustBundle", "clustertrustbundles")
        .cluster()
        .names(NameRule::PathSegment)
        .selectable("spec.signerName")
        .with_columns(vec![
            Column::name(),
            Column::new("SignerName", |bundle, _| cells::text_or(bundle, &["spec", "signerName"], "<none>")),
        ])
}
