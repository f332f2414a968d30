//! NamespaceLifecycle: nothing is created in a namespace that is missing or ends, and some namespaces never end.

use super::plugin::{Operation, Plugin, Review};
use crate::core::{Call, decoded};
use async_trait::async_trait;
use object::{Cause, GroupVersionResource, Status, Value, meta};
use std::sync::Arc;
use store::Entry;

/// Namespaces that upstream does not let anyone delete.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The namespace that a new object goes into, alive; None for cluster scope.
pub(crate) fn namespace_of(call: &Call<'_>, name: &str) -> Result<Option<Arc<Entry>>, Status> {
    if !call.scope.row.namespaced {
        return Ok(None);
    }
    let namespace = call.scope.namespace;
    let Some(entry) = call.core.lookup("namespaces", namespace) else {
        return Err(Status::not_found(&GroupVersionResource::new("", "v1", "namespaces"), namespace));
    };
    if meta::is_deleting(&decoded(&entry)) {
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut status = Status::forbidden(&call.scope.gvr(), name, &why);
        status.causes = vec![Cause {
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".to_owned(),
        }];
        return Err(status);
    }
    Ok(Some(entry))
}

/// The plug-in.
pub(crate) struct Lifecycle;

#[async_trait]
impl Plugin for Lifecycle {
    fn handles(&self, review: &Review<'_>) -> bool {
        match review.operation {
            Operation::Create => review.call.scope.row.namespaced || review.bucket() == "namespaces",
            Operation::Delete => review.bucket() == "namespaces",
            Operation::Update => false,
        }
    }

    async fn mutate(&self, review: &Review<'_>, object: &mut Value) -> Result<(), Status> {
        if review.bucket() == "namespaces" {
            let name = review.name.as_str();
            object.set(&["metadata", "labels", meta::labels::NAMESPACE_NAME], name.into());
            if object.at(&["spec", "finalizers"]).is_none_or(Value::is_null) {
                object.set(&["spec", "finalizers"], vec![Value::from(meta::finalizers::KUBERNETES)].into());
            }
            return Ok(());
        }
        namespace_of(review.call, &review.name).map(|_| ())
    }

    async fn validate(&self, review: &Review<'_>, _object: &Value) -> Result<(), Status> {
        if review.operation == Operation::Delete && IMMORTAL.contains(&review.name.as_str()) {
            return Err(review.forbidden("this namespace may not be deleted"));
        }
        Ok(())
    }
}
