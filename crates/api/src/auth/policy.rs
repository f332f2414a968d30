//! Roles and bindings compiled so that a decision looks only at the caller's own rules.

use super::Objects;
use super::authorize::Attributes;
use super::rules::Rule;
use super::user::User;
use object::selector::labels;
use object::{Value, meta};
use std::collections::HashMap;
use std::sync::Arc;

const ROLES: &str = "roles.rbac.authorization.k8s.io";
const CLUSTER_ROLES: &str = "clusterroles.rbac.authorization.k8s.io";
const ROLE_BINDINGS: &str = "rolebindings.rbac.authorization.k8s.io";
const CLUSTER_ROLE_BINDINGS: &str = "clusterrolebindings.rbac.authorization.k8s.io";

/// The buckets whose changes make a policy stale.
pub const BUCKETS: [&str; 4] = [ROLES, CLUSTER_ROLES, ROLE_BINDINGS, CLUSTER_ROLE_BINDINGS];

/// What one binding gives.
#[derive(Debug)]
struct Grant {
    /// None for the whole cluster.
    namespace: Option<String>,
    rules: Arc<Vec<Rule>>,
    /// `ClusterRoleBinding "x" of ClusterRole "y"`, for the reason of a decision.
    source: String,
    subject: String,
}

/// A compiled policy: grants by user name and by group.
#[derive(Debug, Default)]
pub struct Policy {
    users: HashMap<String, Vec<Arc<Grant>>>,
    groups: HashMap<String, Vec<Arc<Grant>>>,
}

struct Roles {
    cluster: HashMap<String, Arc<Vec<Rule>>>,
    namespaced: HashMap<(String, String), Arc<Vec<Rule>>>,
}

impl Policy {
    /// Compiles all roles and bindings.
    #[must_use]
    pub fn compile(objects: &dyn Objects) -> Self {
        let cluster_roles = objects.list(CLUSTER_ROLES);
        let roles = Roles {
            cluster: cluster_roles
                .iter()
                .map(|role| (name(role).to_owned(), Arc::new(aggregated_rules(role, &cluster_roles))))
                .collect(),
            namespaced: objects
                .list(ROLES)
                .iter()
                .map(|role| ((namespace(role).to_owned(), name(role).to_owned()), Arc::new(Rule::list(role))))
                .collect(),
        };
        let mut policy = Policy::default();
        for binding in objects.list(CLUSTER_ROLE_BINDINGS) {
            policy.add(&binding, None, &roles);
        }
        for binding in objects.list(ROLE_BINDINGS) {
            policy.add(&binding, Some(namespace(&binding)), &roles);
        }
        policy
    }

    fn add(&mut self, binding: &Value, scope: Option<&str>, roles: &Roles) {
        let role = binding.str_at(&["roleRef", "name"]).unwrap_or_default();
        let role_kind = binding.str_at(&["roleRef", "kind"]).unwrap_or_default();
        let rules = match (role_kind, scope) {
            ("ClusterRole", _) => roles.cluster.get(role),
            ("Role", Some(namespace)) => roles.namespaced.get(&(namespace.to_owned(), role.to_owned())),
            _ => None,
        };
        let Some(rules) = rules else { return }; // a binding to a role that is not there gives nothing, until it is
        let (kind, binding_name) = match scope {
            None => ("ClusterRoleBinding", name(binding).to_owned()),
            Some(namespace) => ("RoleBinding", format!("{}/{namespace}", name(binding))),
        };
        for subject in binding.get("subjects").and_then(Value::as_array).unwrap_or_default() {
            let subject_name = subject.str_at(&["name"]).unwrap_or_default();
            let (map, key, shown) = match subject.str_at(&["kind"]).unwrap_or_default() {
                "Group" => (&mut self.groups, subject_name.to_owned(), format!("Group \"{subject_name}\"")),
                "ServiceAccount" => {
                    let namespace = subject.str_at(&["namespace"]).or(scope).unwrap_or_default();
                    let key = format!("system:serviceaccount:{namespace}:{subject_name}");
                    (&mut self.users, key, format!("ServiceAccount \"{subject_name}/{namespace}\""))
                }
                _ => (&mut self.users, subject_name.to_owned(), format!("User \"{subject_name}\"")),
            };
            let grant = Arc::new(Grant {
                namespace: scope.map(str::to_owned),
                rules: Arc::clone(rules),
                source: format!("{kind} \"{binding_name}\" of {role_kind} \"{role}\""),
                subject: shown,
            });
            map.entry(key).or_default().push(grant);
        }
    }

    fn grants<'a>(&'a self, user: &'a User, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Grant>> {
        let own = self.users.get(&user.name).into_iter();
        let shared = user.groups.iter().filter_map(|group| self.groups.get(group));
        own.chain(shared).flatten().filter(move |grant| {
            grant.namespace.as_deref().is_none_or(|scope| !namespace.is_empty() && scope == namespace)
        })
    }

    /// The reason, where a rule allows the request.
    #[must_use]
    pub fn allowing(&self, request: &Attributes<'_>) -> Option<String> {
        let namespace = if request.is_resource { request.namespace } else { "" };
        let mut grants = self.grants(request.user, namespace);
        let grant = grants.find(|grant| grant.rules.iter().any(|rule| rule.allows(request)))?;
        Some(format!("RBAC: allowed by {} to {}", grant.source, grant.subject))
    }

    /// All rules of `user` in `namespace`, those of the whole cluster included.
    #[must_use]
    pub fn rules(&self, user: &User, namespace: &str) -> Vec<Rule> {
        self.grants(user, namespace).flat_map(|grant| grant.rules.iter().cloned()).collect()
    }
}

/// A cluster role's own rules, or those of the roles that its aggregationRule selects.
pub(super) fn aggregated_rules(role: &Value, all: &[Arc<Value>]) -> Vec<Rule> {
    let selectors = role.at(&["aggregationRule", "clusterRoleSelectors"]).and_then(Value::as_array);
    let Some(selectors) = selectors else { return Rule::list(role) };
    let mut rules: Vec<Rule> = Vec::new();
    for other in all {
        if name(other) == name(role) || !selectors.iter().any(|selector| selects(selector, other)) {
            continue;
        }
        for rule in Rule::list(other) {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
    }
    rules
}

/// Whether a LabelSelector selects an object; one that cannot be read selects nothing.
fn selects(selector: &Value, object: &Value) -> bool {
    labels::Selector::from_label_selector(selector).is_ok_and(|one| one.matches_labels(meta::labels(object)))
}

fn name(object: &Value) -> &str {
    object.str_at(&["metadata", "name"]).unwrap_or_default()
}

fn namespace(object: &Value) -> &str {
    object.str_at(&["metadata", "namespace"]).unwrap_or_default()
}
