//! Namespace: a scope for names.

use crate::Hooks;
use crate::cells;
use crate::row::{NameRule, Resource, Role};
use object::GroupVersionKind;
use object::Value;
use object::table::Column;

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
        .with_columns(vec![
            Column::name(),
            Column::new("Status", |namespace, _| cells::text(namespace, &["status", "phase"])),
            Column::age(),
        ])
        .with_hooks(Namespace)
}

struct Namespace;

impl Hooks for Namespace {
    fn default(&self, namespace: &mut Value) {
        if let Some(name) = namespace.str_at(&["metadata", "name"]).filter(|name| !name.is_empty()).map(str::to_owned) {
            namespace.set(&["metadata", "labels", object::meta::labels::NAMESPACE_NAME], name.into());
        }
    }

    fn prepare_create(&self, namespace: &mut Value) {
        namespace.set(&["status", "phase"], "Active".into());
        // The namespace controller takes this one away when nothing is left inside.
        let mut finalizers = crate::edit::items(namespace, &["spec", "finalizers"]).to_vec();
        let kubernetes = Value::from(object::meta::finalizers::KUBERNETES);
        if !finalizers.contains(&kubernetes) {
            finalizers.push(kubernetes);
        }
        namespace.set(&["spec", "finalizers"], Value::Array(finalizers));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        // Only the finalize subresource changes them.
        match old.at(&["spec", "finalizers"]) {
            Some(finalizers) => new.set(&["spec", "finalizers"], finalizers.clone()),
            None => drop(new.remove(&["spec", "finalizers"])),
        }
    }
}
