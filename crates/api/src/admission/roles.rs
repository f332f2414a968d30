//! RBAC's escalation check: nobody hands out more than it has.

use super::plugin::{Operation, Plugin, Review};
use crate::auth;
use crate::core::StoredObjects;
use async_trait::async_trait;
use object::{Status, Value};
use std::sync::Arc;

const GROUP: &str = "rbac.authorization.k8s.io";

/// The plug-in.
pub(crate) struct Escalation;

#[async_trait]
impl Plugin for Escalation {
    fn handles(&self, review: &Review<'_>) -> bool {
        review.call.scope.row.group == GROUP && matches!(review.operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, review: &Review<'_>, object: &Value) -> Result<(), Status> {
        let (core, user) = (review.call.core, review.call.user);
        let resource = review.call.scope.row.plural.as_str();
        let same = |member: &str| review.old.is_some_and(|old| old.get(member) == object.get(member));
        let why = match resource {
            "roles" | "clusterroles" if !(same("rules") && same("aggregationRule")) => {
                auth::check_role(&core.authorizer, user, resource, object)
            }
            "rolebindings" | "clusterrolebindings" if !(same("subjects") && same("roleRef")) => {
                auth::check_binding(&core.authorizer, &StoredObjects(Arc::clone(&core.store)), user, object)
            }
            _ => None,
        };
        why.map_or(Ok(()), |why| Err(review.forbidden(&why)))
    }
}
