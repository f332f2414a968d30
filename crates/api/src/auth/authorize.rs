//! The question whether a caller may do something, and who answers it: masters, node agents, RBAC.

use super::Objects;
use super::node_authorizer;
use super::node_graph::NodeGraph;
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
    /// The field selector of a list, watch or deletecollection as the caller wrote it, or empty.
    pub fields: &'a str,
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
            fields: "",
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
    /// What nodes' pods refer to; without it nodes are related to nothing.
    graph: Option<NodeGraph>,
}

impl Authorizer {
    /// An authorizer without a policy yet, that knows which pods run where.
    #[must_use]
    pub fn new(graph: NodeGraph) -> Self {
        Authorizer { policy: RwLock::default(), graph: Some(graph) }
    }

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
        let mut decision = Decision::default();
        if let Some(node) = request.user.as_node() {
            decision = node_authorizer::authorize(self.graph.as_ref(), node, request);
            if decision.allowed {
                return decision;
            }
        }
        match self.policy().allowing(request) {
            Some(reason) => Decision { allowed: true, reason },
            None => decision,
        }
    }

    /// Every rule that `user` has in `namespace` by its roles (with those of the cluster); all for masters.
    #[must_use]
    pub fn rules(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let all = || vec!["*".to_owned()];
        if user.in_group(MASTERS) {
            let resources = Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() };
            return vec![resources, Rule { verbs: all(), paths: all(), ..Rule::default() }];
        }
        self.policy().rules(user, namespace)
    }
}
