//! Role: permissions in one namespace.

use super::bindings;
use crate::Hooks;
use crate::row::{NameRule, Resource};
use object::table::Column;
use object::{Cause, Value};

/// The row of Role.
pub(super) fn row() -> Resource {
    Resource::new("rbac.authorization.k8s.io", "v1", "Role", "roles")
        .names(NameRule::PathSegment)
        .creatable_by_update()
        .with_columns(vec![
            Column::name(),
            Column::new("Created At", |role, _| crate::cells::text(role, &["metadata", "creationTimestamp"])),
        ])
        .with_hooks(Role)
}

struct Role;

impl Hooks for Role {
    fn validate(&self, role: &Value) -> Vec<Cause> {
        bindings::validate_rules(role, true)
    }
}
