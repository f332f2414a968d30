//! ClusterRoleBinding: gives a ClusterRole to subjects in the whole cluster.

use crate::row::{NameRule, Resource};

/// The row of ClusterRoleBinding.
pub(super) fn row() -> Resource {
    Resource::new("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings")
        .cluster()
        .names(NameRule::PathSegment)
        .creatable_by_update()
}
