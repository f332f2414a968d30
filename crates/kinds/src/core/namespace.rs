//! Namespace: a scope for names.

use crate::row::{NameRule, Resource, Role};
use object::GroupVersionKind;

/// The row of Namespace.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "Namespace", "namespaces")
        .cluster()
        .short(&["ns"])
        .with_verbs(&["create", "delete", "get", "list", "patch", "update", "watch"])
        .names(NameRule::Label)
        .status()
        .with_subresource("finalize", Role::Finalize, GroupVersionKind::parse("v1", "Namespace"), &["update"])
        .selectable("status.phase")
}
