//! RoleBinding: gives a role to subjects in one namespace.

use super::bindings;
use crate::Hooks;
use crate::row::{NameRule, Resource};
use object::{Cause, Value};

/// The row of RoleBinding.
pub(super) fn row() -> Resource {
    Resource::new("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings")
        .names(NameRule::PathSegment)
        .creatable_by_update()
        .with_columns(bindings::columns())
        .with_hooks(RoleBinding)
}

struct RoleBinding;

impl Hooks for RoleBinding {
    fn default(&self, binding: &mut Value) {
        bindings::default_binding(binding);
    }

    fn validate(&self, binding: &Value) -> Vec<Cause> {
        bindings::validate(binding, true)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        bindings::validate_update(new, old)
    }
}
