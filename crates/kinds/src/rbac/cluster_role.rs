//! ClusterRole: permissions for the whole cluster.

use super::bindings;
use crate::Hooks;
use crate::row::{NameRule, Resource};
use object::table::Column;
use object::{Cause, Value};

/// The row of ClusterRole.
pub(super) fn row() -> Resource {
    Resource::new("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles")
        .cluster()
        .names(NameRule::PathSegment)
        .creatable_by_update()
        .with_columns(vec![
            Column::name(),
            Column::new("Created At", |role, _| crate::cells::text(role, &["metadata", "creationTimestamp"])),
        ])
        .with_hooks(ClusterRole)
}

struct ClusterRole;

impl Hooks for ClusterRole {
    fn validate(&self, role: &Value) -> Vec<Cause> {
        bindings::validate_rules(role, false)
    }
}
