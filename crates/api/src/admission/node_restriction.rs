//! NodeRestriction: a node writes its own Node, Lease and CSINode, and its own pods, nothing else of these kinds.
//!
//! Source: upstream's plug-in of the same name, with its words. That a node asks only for tokens of its pods'
//! ServiceAccounts is not checked here yet.

use super::plugin::{Operation, Plugin, Review};
use crate::core::decoded;
use async_trait::async_trait;
use object::{Map, Status, Value};
use std::collections::BTreeSet;

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Labels that an agent may set on its Node among those that belong to Kubernetes (KEP-279).
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "node.kubernetes.io/windows-build",
];
/// And whatever begins so.
const OWN_LABEL_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

/// The plug-in.
pub(crate) struct NodeRestriction;

#[async_trait]
impl Plugin for NodeRestriction {
    fn handles(&self, review: &Review<'_>) -> bool {
        matches!(review.bucket(), "nodes" | "pods" | "leases.coordination.k8s.io" | "csinodes.storage.k8s.io")
            && review.call.user.as_node().is_some()
    }

    async fn validate(&self, review: &Review<'_>, object: &Value) -> Result<(), Status> {
        let Some(node) = review.call.user.as_node() else { return Ok(()) };
        let why = match review.bucket() {
            "nodes" => about_node(review, node, object),
            "pods" => about_pod(review, node, object),
            "leases.coordination.k8s.io" if review.call.scope.namespace != LEASE_NAMESPACE => {
                Some(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"))
            }
            "leases.coordination.k8s.io" if review.name != node => {
                Some("can only access node lease with the same name as the requesting node".to_owned())
            }
            "csinodes.storage.k8s.io" if review.name != node => {
                Some("can only access CSINode with the same name as the requesting node".to_owned())
            }
            _ => None,
        };
        why.map_or(Ok(()), |why| Err(review.forbidden(&why)))
    }
}

fn labels(object: &Value) -> Map {
    object.at(&["metadata", "labels"]).and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Whether a label is Kubernetes' own and none that agents set.
fn is_foreign(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else { return false };
    let below = |parent: &str| domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
    if !below("kubernetes.io") && !below("k8s.io") {
        return false;
    }
    // node-restriction.kubernetes.io is for administrators, whatever else holds.
    below("node-restriction.kubernetes.io")
        || !(OWN_LABELS.contains(&label) || OWN_LABEL_DOMAINS.iter().any(|own| below(own)))
}

fn about_node(review: &Review<'_>, node: &str, object: &Value) -> Option<String> {
    if review.name != node {
        return Some(format!("node {node:?} is not allowed to modify node {:?}", review.name));
    }
    let listed = |labels: BTreeSet<String>| labels.into_iter().collect::<Vec<_>>().join(", ");
    match (review.operation, review.old) {
        (Operation::Create, _) => {
            let forbidden: BTreeSet<String> =
                labels(object).iter().map(|(key, _)| key.to_string()).filter(|key| is_foreign(key)).collect();
            (!forbidden.is_empty())
                .then(|| format!("node {node:?} is not allowed to set the following labels: {}", listed(forbidden)))
        }
        (Operation::Update, Some(old)) => {
            if old.at(&["spec", "taints"]) != object.at(&["spec", "taints"]) {
                return Some(format!("node {node:?} is not allowed to modify taints"));
            }
            let (before, after) = (labels(old), labels(object));
            let keys = before.iter().chain(after.iter()).map(|(key, _)| key.to_string());
            let changed = keys.filter(|key| before.get(key.as_str()) != after.get(key.as_str()));
            let forbidden: BTreeSet<String> = changed.filter(|key| is_foreign(key)).collect();
            (!forbidden.is_empty()).then(|| format!("is not allowed to modify labels: {}", listed(forbidden)))
        }
        _ => None,
    }
}

fn about_pod(review: &Review<'_>, node: &str, object: &Value) -> Option<String> {
    let scope = &review.call.scope;
    let on = |pod: &Value| pod.str_at(&["spec", "nodeName"]).map(str::to_owned);
    match (review.operation, scope.subresource) {
        (Operation::Create, "") => {
            if object.at(&["metadata", "annotations", MIRROR]).is_none() {
                return Some(format!(
                    "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
                ));
            }
            (on(object).as_deref() != Some(node))
                .then(|| format!("node {node:?} can only create pods with spec.nodeName set to itself"))
        }
        (Operation::Create, _) => stored(review)
            .filter(|pod| on(pod).as_deref() != Some(node))
            .map(|_| format!("node {node:?} can only evict pods with spec.nodeName set to itself")),
        (Operation::Update, "status") => (review.old.and_then(on).as_deref() != Some(node))
            .then(|| format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself")),
        (Operation::Update, _) => {
            Some(format!("unexpected operation UPDATE, node {node:?} can only create and delete mirror pods"))
        }
        (Operation::Delete, _) => stored(review)
            .filter(|pod| on(pod).as_deref() != Some(node))
            .map(|_| format!("node {node:?} can only delete pods with spec.nodeName set to itself")),
    }
}

/// The object as the store has it.
fn stored(review: &Review<'_>) -> Option<std::sync::Arc<Value>> {
    let entry = review.call.core.store.get(&review.call.scope.key(&review.name))?;
    Some(decoded(&entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_belong_to_kubernetes_are_told_from_others() {
        for own in
            ["team", "example.org/x", "kubernetes.io/hostname", "node.kubernetes.io/x", "a.kubelet.kubernetes.io/y"]
        {
            assert!(!is_foreign(own), "{own}");
        }
        for foreign in [
            "node-restriction.kubernetes.io/x",
            "a.node-restriction.kubernetes.io/x",
            "node-role.kubernetes.io/control-plane",
            "kubernetes.io/other",
            "x.k8s.io/y",
        ] {
            assert!(is_foreign(foreign), "{foreign}");
        }
    }
}
