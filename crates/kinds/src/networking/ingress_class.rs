//! IngressClass: who implements an Ingress.

use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::validation::{forbidden, immutable, not_supported, required};
use object::table::Column;
use object::{Cause, Value};

/// The row of IngressClass.
pub(super) fn row() -> Resource {
    Resource::new("networking.k8s.io", "v1", "IngressClass", "ingressclasses")
        .cluster()
        .generation(&["spec"])
        .with_columns(vec![
            Column::name(),
            Column::new("Controller", |class, _| cells::text(class, &["spec", "controller"])),
            Column::new("Parameters", |class, _| {
                match class.at(&["spec", "parameters"]).filter(|one| !one.is_null()) {
                    None => "<none>".into(),
                    Some(parameters) => {
                        let group =
                            parameters.str_at(&["apiGroup"]).map(|group| format!(".{group}")).unwrap_or_default();
                        let part = |name: &str| parameters.str_at(&[name]).unwrap_or_default();
                        format!("{}{group}/{}", part("kind"), part("name")).into()
                    }
                }
            }),
            Column::age(),
        ])
        .with_hooks(IngressClass)
}

struct IngressClass;

impl Hooks for IngressClass {
    fn default(&self, class: &mut Value) {
        if class.at(&["spec", "parameters"]).is_some_and(|one| !one.is_null()) {
            crate::edit::default_to(class, &["spec", "parameters", "scope"], "Cluster");
        }
    }

    fn validate(&self, class: &Value) -> Vec<Cause> {
        let Some(parameters) = class.at(&["spec", "parameters"]).filter(|one| !one.is_null()) else {
            return Vec::new();
        };
        let namespace = parameters.str_at(&["namespace"]);
        let field = "spec.parameters.namespace";
        match parameters.str_at(&["scope"]) {
            Some("Namespace") if namespace.is_none_or(str::is_empty) => {
                vec![required(field, "`parameters.scope` is set to 'Namespace'")]
            }
            Some("Cluster") if namespace.is_some() => {
                vec![forbidden(field, "`parameters.scope` is set to 'Cluster'")]
            }
            Some("Namespace" | "Cluster") => Vec::new(),
            _ => {
                let scope = parameters.get("scope").unwrap_or(&Value::Null);
                vec![not_supported("spec.parameters.scope", scope, &["Cluster", "Namespace"])]
            }
        }
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        immutable(&mut causes, new, old, &["spec", "controller"]);
        causes
    }
}
