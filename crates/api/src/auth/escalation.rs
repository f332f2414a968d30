//! Nobody hands out more than it has: checks on writes of roles and bindings (upstream's escalation prevention).

use super::Objects;
use super::authorize::{Attributes, Authorizer};
use super::policy::aggregated_rules;
use super::rules::{Rule, uncovered};
use super::user::User;
use object::Value;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Why `user` may not write a Role or ClusterRole with these rules; None where it may.
#[must_use]
pub fn check_role(authorizer: &Authorizer, user: &User, resource: &str, role: &Value) -> Option<String> {
    let namespace = role.str_at(&["metadata", "namespace"]).unwrap_or_default();
    let name = role.str_at(&["metadata", "name"]).unwrap_or_default();
    if may(authorizer, user, "escalate", resource, namespace, name) {
        return None;
    }
    refuse(authorizer, user, namespace, &Rule::list(role))
}

/// Why `user` may not write a RoleBinding or ClusterRoleBinding; None where it may. A role that is not there yet
/// needs the right to bind it.
#[must_use]
pub fn check_binding(authorizer: &Authorizer, objects: &dyn Objects, user: &User, binding: &Value) -> Option<String> {
    let namespace = binding.str_at(&["metadata", "namespace"]).unwrap_or_default();
    let role_name = binding.str_at(&["roleRef", "name"]).unwrap_or_default();
    let cluster = binding.str_at(&["roleRef", "kind"]) == Some("ClusterRole");
    let resource = if cluster { "clusterroles" } else { "roles" };
    if may(authorizer, user, "bind", resource, namespace, role_name) {
        return None;
    }
    let bucket = format!("{resource}.{GROUP}");
    let role = if cluster {
        objects.get(&bucket, role_name)
    } else {
        objects.get(&bucket, &format!("{namespace}/{role_name}"))
    };
    let Some(role) = role else { return Some(format!("{resource}.{GROUP} \"{role_name}\" not found")) };
    let rules = if cluster { aggregated_rules(&role, &objects.list(&bucket)) } else { Rule::list(&role) };
    refuse(authorizer, user, namespace, &rules)
}

fn may(authorizer: &Authorizer, user: &User, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
    let request = Attributes {
        user,
        verb,
        group: GROUP,
        version: "v1",
        resource,
        namespace,
        name,
        is_resource: true,
        ..Attributes::default()
    };
    authorizer.authorize(&request).allowed
}

fn refuse(authorizer: &Authorizer, user: &User, namespace: &str, wanted: &[Rule]) -> Option<String> {
    let missing = uncovered(&authorizer.rules(user, namespace), wanted);
    if missing.is_empty() {
        return None;
    }
    let mut shown: Vec<String> = missing.iter().map(show).collect();
    shown.sort();
    shown.dedup();
    Some(format!(
        "user \"{}\" (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        quoted(&user.groups),
        shown.join("\n")
    ))
}

fn quoted(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| format!("\"{item}\"")).collect();
    format!("[{}]", items.join(" "))
}

fn show(rule: &Rule) -> String {
    let parts = [
        ("APIGroups", &rule.groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.names),
        ("NonResourceURLs", &rule.paths),
        ("Verbs", &rule.verbs),
    ];
    let list = |items: &[String]| items.iter().map(|item| format!("\"{item}\"")).collect::<Vec<_>>().join(", ");
    let shown: Vec<String> = parts
        .iter()
        .filter(|(_, items)| !items.is_empty())
        .map(|(name, items)| format!("{name}:[{}]", list(items)))
        .collect();
    format!("{{{}}}", shown.join(", "))
}
