//! CustomResourceDefinition: a kind added at run time.

use crate::Hooks;
use crate::Resource;
use crate::edit::default_to;
use crate::validation::{has_text, immutable, invalid_text, one_of, required};
use object::table::Column;
use object::{Cause, Value};

/// The row of CustomResourceDefinition.
pub(super) fn row() -> Resource {
    Resource::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions")
        .cluster()
        .short(&["crd", "crds"])
        .in_api_extensions()
        .generation(&["spec"])
        .status()
        .with_columns(vec![
            Column::name(),
            Column::new("Created At", |definition, _| {
                crate::cells::text(definition, &["metadata", "creationTimestamp"])
            }),
        ])
        .with_hooks(CustomResourceDefinition)
}

struct CustomResourceDefinition;

impl Hooks for CustomResourceDefinition {
    fn default(&self, definition: &mut Value) {
        if let Some(kind) = definition.str_at(&["spec", "names", "kind"]).map(str::to_owned) {
            default_to(definition, &["spec", "names", "singular"], kind.to_lowercase());
            default_to(definition, &["spec", "names", "listKind"], format!("{kind}List"));
        }
        default_to(definition, &["spec", "conversion", "strategy"], "None");
    }

    fn validate(&self, definition: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        let text = |path: &[&str]| definition.str_at(path).unwrap_or_default();
        for (path, field) in [
            (&["spec", "group"][..], "spec.group"),
            (&["spec", "names", "plural"], "spec.names.plural"),
            (&["spec", "names", "kind"], "spec.names.kind"),
        ] {
            if !has_text(definition, path) {
                causes.push(required(field, ""));
            }
        }
        one_of(&mut causes, definition, &["spec", "scope"], "spec.scope", &["Cluster", "Namespaced"]);
        let wanted = format!("{}.{}", text(&["spec", "names", "plural"]), text(&["spec", "group"]));
        if object::meta::name(definition) != wanted {
            let detail = "must be spec.names.plural+\".\"+spec.group";
            causes.push(invalid_text("metadata.name", object::meta::name(definition), detail));
        }
        let versions = crate::edit::items(definition, &["spec", "versions"]);
        let stored = versions.iter().filter(|version| crate::cells::flag(version, &["storage"])).count();
        if stored != 1 {
            let detail = "must have exactly one version marked as storage version";
            let value = definition.at(&["spec", "versions"]).unwrap_or(&Value::Null);
            causes.push(crate::validation::invalid("spec.versions", value, detail));
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        for path in [&["spec", "group"][..], &["spec", "scope"], &["spec", "names", "plural"]] {
            immutable(&mut causes, new, old, path);
        }
        causes
    }
}
