//! Role: permissions in one namespace.

use crate::row::{NameRule, Resource};

/// The row of Role.
pub(super) fn row() -> Resource {
    Resource::new("rbac.authorization.k8s.io", "v1", "Role", "roles").names(NameRule::PathSegment).creatable_by_update()
}
