//! TaintNodesByCondition: a node starts unready, so that nothing lands on it before it has said that it is.

use super::plugin::{Operation, Plugin, Review};
use async_trait::async_trait;
use object::{Map, Status, Value};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// The plug-in.
pub(crate) struct Taints;

#[async_trait]
impl Plugin for Taints {
    fn handles(&self, review: &Review<'_>) -> bool {
        review.bucket() == "nodes" && review.operation == Operation::Create
    }

    async fn mutate(&self, _review: &Review<'_>, object: &mut Value) -> Result<(), Status> {
        let mut taints = object.at(&["spec", "taints"]).and_then(Value::as_array).unwrap_or_default().to_vec();
        let there = |taint: &Value| {
            taint.str_at(&["key"]) == Some(NOT_READY) && taint.str_at(&["effect"]) == Some("NoSchedule")
        };
        if !taints.iter().any(there) {
            let taint: Map = [("key", NOT_READY), ("effect", "NoSchedule")].into_iter().collect();
            taints.push(taint.into());
            object.set(&["spec", "taints"], taints.into());
        }
        Ok(())
    }
}
