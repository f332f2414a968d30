//! Upstream's default roles and bindings, from the table in `default_policy.txt`.

use super::rules::Rule;
use object::{Map, Value};
use std::sync::LazyLock;

const GROUP: &str = "rbac.authorization.k8s.io";
const TEXT: &str = include_str!("default_policy.txt");

/// One block of the table.
#[derive(Debug, Default)]
struct Entry<'a> {
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
    labels: Vec<(&'a str, &'a str)>,
    aggregates: Vec<&'a str>,
    rules: Vec<Rule>,
    role: &'a str,
    subjects: Vec<(&'a str, &'a str)>,
}

fn entries() -> Vec<Entry<'static>> {
    let mut entries: Vec<Entry<'static>> = Vec::new();
    for line in TEXT.lines() {
        let line = line.split_once(" # ").map_or(line, |(code, _)| code).trim_end();
        let words: Vec<&'static str> = line.split_whitespace().collect();
        let Some(first) = words.first().filter(|word| !word.starts_with('#')) else { continue };
        if !line.starts_with(' ') {
            let (namespace, name) = words
                .get(1)
                .and_then(|full| full.split_once("//"))
                .unwrap_or(("", words.get(1).copied().unwrap_or_default()));
            entries.push(Entry { kind: first, namespace, name, ..Entry::default() });
            let Some(entry) = entries.last_mut() else { continue };
            for word in &words[2..] {
                match word.split_once('=') {
                    Some(("aggregate", to)) => entry.aggregates.push(to),
                    Some((key, value)) => entry.labels.push((key, value)),
                    None => {}
                }
            }
            continue;
        }
        let Some(entry) = entries.last_mut() else { continue };
        match *first {
            "role" => entry.role = words.get(1).copied().unwrap_or_default(),
            "user" | "group" | "serviceaccount" => {
                entry.subjects.extend(words[1..].iter().map(|subject| (*first, *subject)));
            }
            _ => entry.rules.push(rule(&words)),
        }
    }
    entries
}

/// `verbs groups resources [names]`, or `verbs path:/healthz,/version`.
fn rule(words: &[&str]) -> Rule {
    let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    let verbs = list(words.first().copied().unwrap_or_default());
    let second = words.get(1).copied().unwrap_or_default();
    if let Some(paths) = second.strip_prefix("path:") {
        return Rule { verbs, paths: list(paths), ..Rule::default() };
    }
    let groups =
        second.split(',').map(|group| if group == "core" { String::new() } else { group.to_owned() }).collect();
    let resources = list(words.get(2).copied().unwrap_or_default());
    Rule {
        verbs,
        groups,
        resources,
        names: words.get(3).map(|names| list(names)).unwrap_or_default(),
        paths: Vec::new(),
    }
}

/// The rules of one default ClusterRole.
pub(super) fn role_rules(name: &str) -> Vec<Rule> {
    entries()
        .into_iter()
        .find(|entry| entry.kind == "clusterrole" && entry.name == name)
        .map(|entry| entry.rules)
        .unwrap_or_default()
}

/// All default ClusterRoles, Roles and their bindings, as objects to create where they are missing, and to compare with where they are not.
/// Aggregated roles hold the rules that their parts give from the start.
#[must_use]
pub fn default_objects() -> Vec<Value> {
    static OBJECTS: LazyLock<Vec<Value>> = LazyLock::new(|| {
        let entries = entries();
        entries.iter().map(|entry| to_object(entry, &entries)).collect()
    });
    OBJECTS.clone()
}

fn to_object(entry: &Entry<'_>, all: &[Entry<'_>]) -> Value {
    let kind = match entry.kind {
        "clusterrole" => "ClusterRole",
        "role" => "Role",
        "clusterrolebinding" => "ClusterRoleBinding",
        _ => "RoleBinding",
    };
    let mut object = Value::Null;
    object.set(&["apiVersion"], format!("{GROUP}/v1").into());
    object.set(&["kind"], kind.into());
    object.set(&["metadata", "name"], entry.name.into());
    if !entry.namespace.is_empty() {
        object.set(&["metadata", "namespace"], entry.namespace.into());
    }
    object.set(&["metadata", "labels", "kubernetes.io/bootstrapping"], "rbac-defaults".into());
    for (key, value) in &entry.labels {
        let key = format!("{GROUP}/{key}");
        object.set(&["metadata", "labels", &key], (*value).into());
    }
    object.set(&["metadata", "annotations", super::reconcile::AUTOUPDATE], "true".into());
    if kind.ends_with("Role") {
        let mut rules = entry.rules.clone();
        if !entry.aggregates.is_empty() {
            let selectors = entry.aggregates.iter().map(|label| {
                let mut selector = Value::Null;
                let key = format!("{GROUP}/{label}");
                selector.set(&["matchLabels", &key], "true".into());
                selector
            });
            object.set(&["aggregationRule", "clusterRoleSelectors"], Value::Array(selectors.collect()));
            let parts = all.iter().filter(|other| other.labels.iter().any(|(key, _)| entry.aggregates.contains(key)));
            for rule in parts.flat_map(|part| &part.rules) {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
        object.set(&["rules"], Value::Array(rules.iter().map(Rule::to_value).collect()));
        return object;
    }
    let (role_kind, role) =
        entry.role.split_once(':').filter(|(kind, _)| *kind == "Role").unwrap_or(("ClusterRole", entry.role));
    let reference: Map = [("apiGroup", GROUP), ("kind", role_kind), ("name", role)].into_iter().collect();
    object.set(&["roleRef"], reference.into());
    let subjects = entry.subjects.iter().map(|(kind, name)| subject(kind, name));
    let subjects: Vec<Value> = subjects.collect();
    if !subjects.is_empty() {
        object.set(&["subjects"], Value::Array(subjects));
    }
    object
}

fn subject(kind: &str, name: &str) -> Value {
    let members: Map = match (kind, name.split_once("//")) {
        ("serviceaccount", Some((namespace, name))) => {
            [("kind", "ServiceAccount"), ("namespace", namespace), ("name", name)].into_iter().collect()
        }
        ("group", _) => [("apiGroup", GROUP), ("kind", "Group"), ("name", name)].into_iter().collect(),
        _ => [("apiGroup", GROUP), ("kind", "User"), ("name", name)].into_iter().collect(),
    };
    Value::Object(members)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::auth::{Attributes, Authorizer, Objects, User};
    use std::sync::Arc;

    struct Defaults;
    impl Objects for Defaults {
        fn get(&self, _: &str, _: &str) -> Option<Arc<Value>> {
            None
        }
        fn list(&self, bucket: &str) -> Vec<Arc<Value>> {
            let plural = |object: &Value| format!("{}s.{GROUP}", object.str_at(&["kind"]).unwrap().to_lowercase());
            default_objects().into_iter().filter(|object| plural(object) == bucket).map(Arc::new).collect()
        }
    }

    #[test]
    fn every_binding_leads_to_a_role_and_every_rule_is_whole() {
        let entries = entries();
        for entry in &entries {
            assert!(!entry.name.is_empty(), "{entry:?}");
            if entry.kind.ends_with("binding") {
                let role = entry.role.strip_prefix("Role:").unwrap_or(entry.role);
                assert!(
                    entries.iter().any(|other| other.name == role && !other.kind.ends_with("binding")),
                    "{entry:?}"
                );
            }
            for rule in &entry.rules {
                assert!(!rule.verbs.is_empty() && (rule.paths.is_empty() != rule.resources.is_empty()), "{entry:?}");
            }
        }
    }

    #[test]
    fn default_policy_decides_as_upstream() {
        let authorizer = Authorizer::default();
        authorizer.refresh(&Defaults);
        let account = |name| User::service_account("kube-system", name, "");
        let cases = [
            (User::anonymous(), "get", "", "", "/healthz", true),
            (User::anonymous(), "get", "", "", "/metrics", false),
            (User::anonymous(), "get", "", "pods", "", false),
            (User::authenticated("jane", ["x"]), "get", "", "", "/apis/apps/v1", true),
            (
                User::authenticated("jane", ["x"]),
                "create",
                "authorization.k8s.io",
                "selfsubjectaccessreviews",
                "",
                true,
            ),
            (User::authenticated("jane", ["x"]), "list", "", "secrets", "", false),
            (User::authenticated("root", ["system:masters"]), "delete", "", "nodes", "", true),
            (account("replicaset-controller"), "create", "", "pods", "", true),
            (account("replicaset-controller"), "create", "", "secrets", "", false),
            (account("deployment-controller"), "update", "apps", "replicasets", "", true),
            (User::authenticated("system:kube-scheduler", ["x"]), "create", "", "pods/binding", "", true),
            (User::authenticated("system:node:a", ["system:nodes"]), "update", "", "nodes/status", "", true),
        ];
        for (user, verb, group, resource, path, expected) in cases {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let request = Attributes {
                user: &user,
                verb,
                group,
                resource,
                subresource,
                path,
                is_resource: path.is_empty(),
                ..Attributes::default()
            };
            assert_eq!(authorizer.authorize(&request).allowed, expected, "{} {verb} {resource} {path}", user.name);
        }
    }

    #[test]
    fn aggregated_roles_hold_their_parts() {
        let objects = default_objects();
        let edit = objects.iter().find(|object| object.str_at(&["metadata", "name"]) == Some("edit")).unwrap();
        let rules = Rule::list(edit);
        let request = Attributes { verb: "create", resource: "pods", is_resource: true, ..Attributes::default() };
        assert!(rules.iter().any(|rule| rule.allows(&request)));
        assert!(edit.at(&["aggregationRule"]).is_some());
    }
}
