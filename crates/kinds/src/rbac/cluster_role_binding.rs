//! ClusterRoleBinding: gives a ClusterRole to subjects in the whole cluster.

use super::bindings;
use crate::Hooks;
use crate::row::{NameRule, Resource};
use object::{Cause, Value};

/// The row of ClusterRoleBinding.
pub(super) fn row() -> Resource {
    Resource::new("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings")
        .cluster()
        .names(NameRule::PathSegment)
        .creatable_by_update()
        .with_columns(bindings::columns())
        .with_hooks(ClusterRoleBinding)
}

struct ClusterRoleBinding;

impl Hooks for ClusterRoleBinding {
    fn default(&self, binding: &mut Value) {
        bindings::default_binding(binding);
    }

    fn validate(&self, binding: &Value) -> Vec<Cause> {
        bindings::validate(binding, false)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        bindings::validate_update(new, old)
    }
}
