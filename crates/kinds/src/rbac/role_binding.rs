//! RoleBinding: gives a role to subjects in one namespace.

use crate::row::{NameRule, Resource};

/// The row of RoleBinding.
pub(super) fn row() -> Resource {
    Resource::new("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings")
        .names(NameRule::PathSegment)
        .creatable_by_update()
}
