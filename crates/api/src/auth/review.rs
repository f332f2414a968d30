//! Reviews: questions about identities and rights that are asked as objects (authentication and authorization APIs).

use super::Objects;
use super::authenticate::unix_seconds;
use super::authorize::{Attributes, Authorizer};
use super::rules::Rule;
use super::token::{Tokens, audiences_value};
use super::user::{User, strings_at};
use object::{Cause, GroupVersionKind, Map, Status, Value};
use std::sync::Arc;

/// The reviews that can be answered, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reviewed {
    /// authorization.k8s.io SelfSubjectAccessReview.
    SelfAccess,
    /// authorization.k8s.io SubjectAccessReview.
    Access,
    /// authorization.k8s.io LocalSubjectAccessReview.
    LocalAccess,
    /// authorization.k8s.io SelfSubjectRulesReview.
    SelfRules,
    /// authentication.k8s.io SelfSubjectReview.
    SelfSubject,
    /// authentication.k8s.io TokenReview.
    Token,
}

impl Reviewed {
    /// The review with this plural resource name.
    #[must_use]
    pub fn of(resource: &str) -> Option<Self> {
        Some(match resource {
            "selfsubjectaccessreviews" => Reviewed::SelfAccess,
            "subjectaccessreviews" => Reviewed::Access,
            "localsubjectaccessreviews" => Reviewed::LocalAccess,
            "selfsubjectrulesreviews" => Reviewed::SelfRules,
            "selfsubjectreviews" => Reviewed::SelfSubject,
            "tokenreviews" => Reviewed::Token,
            _ => return None,
        })
    }
}

/// Answers reviews.
pub struct Reviewer {
    /// Who decides.
    pub authorizer: Arc<Authorizer>,
    /// Who knows tokens.
    pub tokens: Arc<Tokens>,
    /// What tokens refer to.
    pub objects: Arc<dyn Objects>,
}

impl Reviewer {
    /// The review with its status filled in; `namespace` is the one of the request's path.
    ///
    /// # Errors
    /// 422 for a review that asks for nothing or for too much, 400 for a namespace that differs from the path's.
    pub fn answer(&self, kind: Reviewed, user: &User, namespace: &str, mut review: Value) -> Result<Value, Status> {
        let status = match kind {
            Reviewed::SelfAccess => self.access("SelfSubjectAccessReview", user, &review)?,
            Reviewed::Access => self.access("SubjectAccessReview", &subject(&review)?, &review)?,
            Reviewed::LocalAccess => {
                if review.str_at(&["spec", "resourceAttributes", "namespace"]).unwrap_or_default() != namespace {
                    return Err(Status::bad_request("spec.resourceAttributes.namespace must match metadata.namespace"));
                }
                self.access("LocalSubjectAccessReview", &subject(&review)?, &review)?
            }
            Reviewed::SelfRules => {
                let wanted = review.str_at(&["spec", "namespace"]).unwrap_or_default();
                if wanted.is_empty() {
                    return Err(Status::bad_request("no namespace on request"));
                }
                rules_status(&self.authorizer.rules(user, wanted), user)
            }
            Reviewed::SelfSubject => Value::Object([("userInfo", user.to_value())].into_iter().collect()),
            Reviewed::Token => self.token(&review),
        };
        review.set(&["status"], status);
        Ok(review)
    }

    fn access(&self, kind: &str, user: &User, review: &Value) -> Result<Value, Status> {
        let resource = review.at(&["spec", "resourceAttributes"]).filter(|part| !part.is_null());
        let path = review.at(&["spec", "nonResourceAttributes"]).filter(|part| !part.is_null());
        let request = match (resource, path) {
            (Some(part), None) => Attributes {
                user,
                verb: part.str_at(&["verb"]).unwrap_or_default(),
                group: part.str_at(&["group"]).unwrap_or_default(),
                version: part.str_at(&["version"]).unwrap_or_default(),
                resource: part.str_at(&["resource"]).unwrap_or_default(),
                subresource: part.str_at(&["subresource"]).unwrap_or_default(),
                namespace: part.str_at(&["namespace"]).unwrap_or_default(),
                name: part.str_at(&["name"]).unwrap_or_default(),
                fields: part.str_at(&["fieldSelector", "rawSelector"]).unwrap_or_default(),
                path: "",
                is_resource: true,
            },
            (None, Some(part)) => Attributes {
                user,
                verb: part.str_at(&["verb"]).unwrap_or_default(),
                path: part.str_at(&["path"]).unwrap_or_default(),
                ..Attributes::default()
            },
            (both, _) => {
                let what = if both.is_some() {
                    "cannot be specified in combination with resourceAttributes"
                } else {
                    "exactly one of nonResourceAttributes or resourceAttributes must be specified"
                };
                let field = if both.is_some() { "spec.nonResourceAttributes" } else { "spec.resourceAttributes" };
                return Err(invalid(kind, field, what));
            }
        };
        let decision = self.authorizer.authorize(&request);
        let mut status = Map::new();
        status.insert("allowed", decision.allowed);
        if !decision.reason.is_empty() {
            status.insert("reason", decision.reason);
        }
        Ok(Value::Object(status))
    }

    fn token(&self, review: &Value) -> Value {
        let mut audiences = strings_at(review, &["spec", "audiences"]);
        if audiences.is_empty() {
            audiences.push(self.tokens.audience().to_owned());
        }
        let token = review.str_at(&["spec", "token"]).unwrap_or_default();
        let mut status = Map::new();
        match self.tokens.verify(token, &audiences, self.objects.as_ref(), unix_seconds()) {
            Some((user, good_for, _)) => {
                status.insert("authenticated", true);
                status.insert("user", user.to_value());
                status.insert("audiences", audiences_value(&good_for));
            }
            None => {
                status.insert("user", Map::new());
                status.insert("error", "invalid bearer token");
            }
        }
        Value::Object(status)
    }
}

fn invalid(kind: &str, field: &str, what: &str) -> Status {
    let kind = GroupVersionKind::parse("authorization.k8s.io/v1", kind);
    let cause = Cause {
        reason: "FieldValueInvalid".into(),
        message: format!("Invalid value: null: {what}"),
        field: field.to_owned(),
    };
    Status::invalid(&kind, "", vec![cause])
}

/// The user that a SubjectAccessReview asks about.
fn subject(review: &Value) -> Result<User, Status> {
    let name = review.str_at(&["spec", "user"]).unwrap_or_default();
    let groups = strings_at(review, &["spec", "groups"]);
    if name.is_empty() && groups.is_empty() {
        return Err(invalid("SubjectAccessReview", "spec.user", "at least one of user or group must be specified"));
    }
    let uid = review.str_at(&["spec", "uid"]).unwrap_or_default();
    Ok(User { name: name.to_owned(), uid: uid.to_owned(), groups, ..User::default() })
}

fn rules_status(rules: &[Rule], user: &User) -> Value {
    let pick = |resources: bool| {
        let chosen = rules.iter().filter(|rule| rule.paths.is_empty() == resources);
        Value::Array(chosen.map(Rule::to_value).collect())
    };
    let mut status = Map::new();
    status.insert("resourceRules", pick(true));
    status.insert("nonResourceRules", pick(false));
    // What a node may do depends on its pods and cannot be listed.
    status.insert("incomplete", user.as_node().is_some());
    if user.as_node().is_some() {
        status.insert("evaluationError", "node authorizer does not support user rule resolution");
    }
    Value::Object(status)
}
