//! The question whether a caller may do something, and who answers it: masters, node agents, RBAC.

use super::Objects;
use super::default_policy;
use super::policy::Policy;
use super::rules::Rule;
use super::user::{MASTERS, User};
use std::sync::{Arc, LazyLock, RwLock};

/// What a caller wants to do.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Who.
    pub user: &'a User,
    /// `get`, `list`, `create`, ...; the lower-case HTTP method for paths.
    pub verb: &'a str,
    /// API group; empty for core.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Resource.
    pub resource: &'a str,
    /// Subresource, or empty.
    pub subresource: &'a str,
    /// Namespace, or empty.
    pub namespace: &'a str,
    /// Object name, or empty.
    pub name: &'a str,
    /// The request's path, where it is about no resource.
    pub path: &'a str,
    /// Whether the request is about a resource.
    pub is_resource: bool,
}

impl Default for Attributes<'_> {
    fn default() -> Self {
        static NOBODY: LazyLock<User> = LazyLock::new(User::anonymous);
        Attributes {
            user: &NOBODY,
            verb: "",
            group: "",
            version: "",
            resource: "",
            subresource: "",
            namespace: "",
            name: "",
            path: "",
            is_resource: false,
        }
    }
}

impl Attributes<'_> {
    /// What stands after `is forbidden: ` when the answer is no, as upstream words it.
    #[must_use]
    pub fn refusal(&self) -> String {
        let user = &self.user.name;
        if !self.is_resource {
            return format!("User \"{user}\" cannot {} path \"{}\"", self.verb, self.path);
        }
        let resource = match self.subresource {
            "" => self.resource.to_owned(),
            part => format!("{}/{part}", self.resource),
        };
        let scope = match self.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        format!("User \"{user}\" cannot {} resource \"{resource}\" in API group \"{}\" {scope}", self.verb, self.group)
    }
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why, as upstream words it; empty for most refusals.
    pub reason: String,
}

/// Answers for the whole server. The policy is compiled when roles or bindings change, and shared.
#[derive(Default)]
pub struct Authorizer {
    policy: RwLock<Arc<Policy>>,
}

impl Authorizer {
    /// Compiles the policy anew; call it when an object of [`super::BUCKETS`] has changed.
    pub fn refresh(&self, objects: &dyn Objects) {
        let policy = Arc::new(Policy::compile(objects));
        *self.policy.write().unwrap_or_else(std::sync::PoisonError::into_inner) = policy;
    }

    /// The policy of the moment.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Decides.
    #[must_use]
    pub fn authorize(&self, request: &Attributes<'_>) -> Decision {
        if request.user.in_group(MASTERS) {
            return Decision { allowed: true, reason: String::new() };
        }
        if request.user.as_node().is_some() && node_rules().iter().any(|rule| rule.allows(request)) {
            return Decision { allowed: true, reason: String::new() };
        }
        match self.policy().allowing(request) {
            Some(reason) => Decision { allowed: true, reason },
            None => Decision::default(),
        }
    }

    /// Every rule that `user` has in `namespace` (with those of the cluster); all for masters.
    #[must_use]
    pub fn rules(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let all = || vec!["*".to_owned()];
        if user.in_group(MASTERS) {
            let resources = Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() };
            return vec![resources, Rule { verbs: all(), paths: all(), ..Rule::default() }];
        }
        let mut rules = self.policy().rules(user, namespace);
        if user.as_node().is_some() {
            rules.extend(node_rules().iter().cloned());
        }
        rules
    }
}

/// The Node authorizer in its first form: the rules of the role `system:node`, not yet narrowed to what the node's own
/// pods refer to.
fn node_rules() -> &'static [Rule] {
    static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| default_policy::role_rules("system:node"));
    &RULES
}
