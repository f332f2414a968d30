//! ClusterRole: permissions for the whole cluster.

use crate::row::{NameRule, Resource};

/// The row of ClusterRole.
pub(super) fn row() -> Resource {
    Resource::new("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles")
        .cluster()
        .names(NameRule::PathSegment)
        .creatable_by_update()
}
