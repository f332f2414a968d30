//! The plug-in seam and the list that says which run, in which order. Webhooks will be entries of the same list.

use super::{default_classes, namespaces, node_restriction, nodes, pods, roles, service_accounts, token_secrets};
use crate::core::Call;
use async_trait::async_trait;
use object::{Status, Value};

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
}

/// A write as plug-ins see it.
pub(crate) struct Review<'a> {
    pub(crate) call: &'a Call<'a>,
    pub(crate) operation: Operation,
    pub(crate) name: String,
    /// The state before, for updates.
    pub(crate) old: Option<&'a Value>,
}

impl<'a> Review<'a> {
    pub(crate) fn new(call: &'a Call<'a>, operation: Operation, name: String, old: Option<&'a Value>) -> Self {
        Review { call, operation, name, old }
    }

    /// The store's bucket: what plug-ins select by.
    pub(crate) fn bucket(&self) -> &str {
        &self.call.scope.row.bucket
    }

    /// 403 with the object's name.
    pub(crate) fn forbidden(&self, why: &str) -> Status {
        Status::forbidden(&self.call.scope.gvr(), &self.name, why)
    }
}

/// A rule of admission. Objects are hub objects.
#[async_trait]
pub(crate) trait Plugin: Send + Sync {
    /// Whether it has anything to say about this write; asked first, so that most writes pay nothing.
    fn handles(&self, review: &Review<'_>) -> bool;

    /// Changes the object.
    async fn mutate(&self, _review: &Review<'_>, _object: &mut Value) -> Result<(), Status> {
        Ok(())
    }

    /// Refuses the write.
    async fn validate(&self, _review: &Review<'_>, _object: &Value) -> Result<(), Status> {
        Ok(())
    }
}

/// Upstream's order: what refuses whole namespaces first, what adds to pods afterwards.
const PLUGINS: &[&dyn Plugin] = &[
    &namespaces::Lifecycle,
    &nodes::Taints,
    &node_restriction::NodeRestriction,
    &service_accounts::ServiceAccounts,
    &token_secrets::TokenSecrets,
    &pods::Priority,
    &pods::Tolerations,
    &default_classes::DefaultStorageClass,
    &default_classes::DefaultIngressClass,
    &roles::Escalation,
];

/// Lets every plug-in change the object, in order.
pub(crate) async fn mutate(review: &Review<'_>, object: &mut Value) -> Result<(), Status> {
    for plugin in PLUGINS {
        if plugin.handles(review) {
            plugin.mutate(review, object).await?;
        }
    }
    Ok(())
}

/// Lets every plug-in refuse the finished object, in order.
pub(crate) async fn validate(review: &Review<'_>, object: &Value) -> Result<(), Status> {
    for plugin in PLUGINS {
        if plugin.handles(review) {
            plugin.validate(review, object).await?;
        }
    }
    Ok(())
}
