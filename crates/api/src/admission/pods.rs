//! Priority and DefaultTolerationSeconds: what every pod gets that says nothing of its own.

use super::plugin::{Operation, Plugin, Review};
use crate::core::decoded;
use async_trait::async_trait;
use object::{Map, Status, Value, meta};

/// The classes that exist without an object.
const SYSTEM: [(&str, i64); 2] = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
const PRIORITY_CLASSES: &str = "priorityclasses.scheduling.k8s.io";
const PREEMPTS: &str = "PreemptLowerPriority";

fn is_new_pod(review: &Review<'_>) -> bool {
    review.bucket() == "pods" && review.operation == Operation::Create && review.call.scope.subresource.is_empty()
}

/// Resolves priorityClassName.
pub(crate) struct Priority;

#[async_trait]
impl Plugin for Priority {
    fn handles(&self, review: &Review<'_>) -> bool {
        is_new_pod(review)
    }

    async fn mutate(&self, review: &Review<'_>, object: &mut Value) -> Result<(), Status> {
        let name = object.str_at(&["spec", "priorityClassName"]).unwrap_or_default().to_owned();
        let (name, priority, policy) = if name.is_empty() {
            default_class(review)
        } else if let Some((_, priority)) = SYSTEM.iter().find(|class| class.0 == name) {
            (name, *priority, PREEMPTS.to_owned())
        } else {
            let Some(entry) = review.call.core.lookup(PRIORITY_CLASSES, &name) else {
                return Err(review.forbidden(&format!("no PriorityClass with name {name} was found")));
            };
            let class = decoded(&entry);
            (name, class.i64_at(&["value"]).unwrap_or(0), policy_of(&class))
        };
        if let Some(given) = object.i64_at(&["spec", "priority"]).filter(|given| *given != priority) {
            return Err(review.forbidden(&format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
                 computed {priority} from the given PriorityClass name"
            )));
        }
        if !name.is_empty() {
            object.set(&["spec", "priorityClassName"], name.into());
        }
        object.set(&["spec", "priority"], priority.into());
        if object.str_at(&["spec", "preemptionPolicy"]).is_none_or(str::is_empty) {
            object.set(&["spec", "preemptionPolicy"], policy.into());
        }
        Ok(())
    }
}

fn policy_of(class: &Value) -> String {
    class.str_at(&["preemptionPolicy"]).unwrap_or(PREEMPTS).to_owned()
}

/// The class with globalDefault; of several the lowest, as upstream.
fn default_class(review: &Review<'_>) -> (String, i64, String) {
    let listed = review.call.core.store.list(PRIORITY_CLASSES, "", None, None, None);
    let classes = listed.map(|list| list.entries).unwrap_or_default();
    let is_default = |class: &Value| class.get("globalDefault").and_then(Value::as_bool) == Some(true);
    let defaults = classes.iter().map(|entry| decoded(entry)).filter(|class| is_default(class));
    match defaults.min_by_key(|class| class.i64_at(&["value"]).unwrap_or(0)) {
        Some(class) => (meta::name(&class).to_owned(), class.i64_at(&["value"]).unwrap_or(0), policy_of(&class)),
        None => (String::new(), 0, PREEMPTS.to_owned()),
    }
}

/// Lets pods stay five minutes on a node that is gone.
pub(crate) struct Tolerations;

#[async_trait]
impl Plugin for Tolerations {
    fn handles(&self, review: &Review<'_>) -> bool {
        is_new_pod(review)
    }

    async fn mutate(&self, _review: &Review<'_>, object: &mut Value) -> Result<(), Status> {
        let mut tolerations =
            object.at(&["spec", "tolerations"]).and_then(Value::as_array).unwrap_or_default().to_vec();
        for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            let covers = |one: &Value| {
                let own = one.str_at(&["key"]).unwrap_or_default();
                let effect = one.str_at(&["effect"]).unwrap_or_default();
                (own == key || own.is_empty()) && (effect == "NoExecute" || effect.is_empty())
            };
            if !tolerations.iter().any(covers) {
                let mut toleration: Map =
                    [("key", key), ("operator", "Exists"), ("effect", "NoExecute")].into_iter().collect();
                toleration.insert("tolerationSeconds", 300_i64);
                tolerations.push(toleration.into());
            }
        }
        object.set(&["spec", "tolerations"], tolerations.into());
        Ok(())
    }
}
