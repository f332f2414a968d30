//! What roles and bindings of namespaces and of the cluster share.

use crate::edit::{default_to, items, items_mut};
use crate::validation::{immutable, not_supported, required};
use object::table::Column;
use object::{Cause, Value};

const RBAC: &str = "rbac.authorization.k8s.io";

pub(super) fn columns() -> Vec<Column> {
    vec![
        Column::name(),
        Column::new("Role", |binding, _| {
            let part = |name: &str| binding.str_at(&["roleRef", name]).unwrap_or_default();
            format!("{}/{}", part("kind"), part("name")).into()
        }),
        Column::age(),
        Column::new("Users", |binding, _| subjects(binding, "User")).wide(),
        Column::new("Groups", |binding, _| subjects(binding, "Group")).wide(),
        Column::new("ServiceAccounts", |binding, _| subjects(binding, "ServiceAccount")).wide(),
    ]
}

fn subjects(binding: &Value, kind: &str) -> Value {
    let shown = |subject: &Value| {
        let name = subject.str_at(&["name"]).unwrap_or_default();
        match subject.str_at(&["namespace"]).filter(|namespace| !namespace.is_empty()) {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.to_owned(),
        }
    };
    let of_kind = items(binding, &["subjects"]).iter().filter(|subject| subject.str_at(&["kind"]) == Some(kind));
    of_kind.map(shown).collect::<Vec<_>>().join(", ").into()
}

pub(super) fn default_binding(binding: &mut Value) {
    default_to(binding, &["roleRef", "apiGroup"], RBAC);
    for subject in items_mut(binding, &["subjects"]) {
        if matches!(subject.str_at(&["kind"]), Some("User" | "Group")) {
            default_to(subject, &["apiGroup"], RBAC);
        }
    }
}

/// What is wrong with a binding; one in a namespace may name roles of both kinds.
pub(super) fn validate(binding: &Value, namespaced: bool) -> Vec<Cause> {
    let mut causes = Vec::new();
    let null = Value::Null;
    let part = |name: &str| binding.at(&["roleRef", name]).unwrap_or(&null);
    if part("apiGroup").as_str() != Some(RBAC) {
        causes.push(not_supported("roleRef.apiGroup", part("apiGroup"), &[RBAC]));
    }
    let kinds: &[&str] = if namespaced { &["ClusterRole", "Role"] } else { &["ClusterRole"] };
    if !kinds.iter().any(|kind| part("kind").as_str() == Some(kind)) {
        causes.push(not_supported("roleRef.kind", part("kind"), kinds));
    }
    if part("name").as_str().unwrap_or_default().is_empty() {
        causes.push(required("roleRef.name", ""));
    }
    for (at, subject) in items(binding, &["subjects"]).iter().enumerate() {
        let field = |name: &str| format!("subjects[{at}].{name}");
        let text = |name: &str| subject.str_at(&[name]).unwrap_or_default();
        if text("name").is_empty() {
            causes.push(required(&field("name"), ""));
        }
        let group = subject.get("apiGroup").cloned().unwrap_or_else(|| "".into());
        match text("kind") {
            "ServiceAccount" => {
                if !text("apiGroup").is_empty() {
                    causes.push(not_supported(&field("apiGroup"), &group, &[""]));
                }
                if text("namespace").is_empty() && !namespaced {
                    causes.push(required(&field("namespace"), ""));
                }
            }
            "User" | "Group" => {
                if text("apiGroup") != RBAC {
                    causes.push(not_supported(&field("apiGroup"), &group, &[RBAC]));
                }
            }
            _ => {
                let kind = subject.get("kind").unwrap_or(&Value::Null);
                causes.push(not_supported(&field("kind"), kind, &["Group", "ServiceAccount", "User"]));
            }
        }
    }
    causes
}

pub(super) fn validate_update(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    immutable(&mut causes, new, old, &["roleRef"]);
    for cause in &mut causes {
        cause.message = cause.message.replace("field is immutable", "cannot change roleRef");
    }
    causes
}

/// What is wrong with the rules of a role; only the cluster's may name URLs.
pub(super) fn validate_rules(role: &Value, namespaced: bool) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (at, rule) in items(role, &["rules"]).iter().enumerate() {
        let field = |name: &str| format!("rules[{at}].{name}");
        if items(rule, &["verbs"]).is_empty() {
            causes.push(required(&field("verbs"), "verbs must contain at least one value"));
        }
        if !items(rule, &["nonResourceURLs"]).is_empty() {
            let urls = rule.get("nonResourceURLs").unwrap_or(&Value::Null);
            if namespaced {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                causes.push(crate::validation::invalid(&field("nonResourceURLs"), urls, detail));
            } else if !items(rule, &["apiGroups"]).is_empty() || !items(rule, &["resources"]).is_empty() {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                causes.push(crate::validation::invalid(&field("nonResourceURLs"), urls, detail));
            }
            continue;
        }
        if items(rule, &["apiGroups"]).is_empty() {
            causes.push(required(&field("apiGroups"), "resource rules must supply at least one api group"));
        }
        if items(rule, &["resources"]).is_empty() {
            causes.push(required(&field("resources"), "resource rules must supply at least one resource"));
        }
    }
    causes
}
