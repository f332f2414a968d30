//! NodeRestriction: a node writes its own Node, Lease and CSINode, and its own pods, nothing else of these kinds; it asks for tokens
//! that are bound to its own pods, for audiences that they name.
//!
//! Source: upstream's plug-in of the same name, with its words.

use super::plugin::{Operation, Plugin, Review};
use crate::auth::Attributes;
use crate::core::decoded;
use async_trait::async_trait;
use object::{GroupVersionResource, Map, Status, Value};
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
        let subject = matches!(
            review.bucket(),
            "nodes" | "pods" | "serviceaccounts" | "leases.coordination.k8s.io" | "csinodes.storage.k8s.io"
        );
        subject && review.call.user.as_node().is_some()
    }

    async fn validate(&self, review: &Review<'_>, object: &Value) -> Result<(), Status> {
        let Some(node) = review.call.user.as_node() else { return Ok(()) };
        let why = match review.bucket() {
            "serviceaccounts" if review.call.scope.subresource == "token" => about_token(review, node, object)?,
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

/// A TokenRequest: bound to a pod of this node, for the API's own audience or one that the pod's volumes name (KEP-4193, and
/// ServiceAccountNodeAudienceRestriction).
fn about_token(review: &Review<'_>, node: &str, request: &Value) -> Result<Option<String>, Status> {
    let bound = |member| request.str_at(&["spec", "boundObjectRef", member]).unwrap_or_default();
    let (name, uid) = (bound("name"), bound("uid"));
    if bound("apiVersion") != "v1" || bound("kind") != "Pod" || name.is_empty() {
        return Ok(Some("node requested token not bound to a pod".to_owned()));
    }
    if uid.is_empty() {
        return Ok(Some("node requested token with a pod binding without a uid".to_owned()));
    }
    let namespace = review.call.scope.namespace;
    let found = review.call.core.lookup("pods", &format!("{namespace}/{name}"));
    let pod = found.map(|entry| decoded(&entry));
    let pod = pod.ok_or_else(|| Status::not_found(&GroupVersionResource::new("", "v1", "pods"), name))?;
    let held = pod.str_at(&["metadata", "uid"]).unwrap_or_default();
    if uid != held {
        return Ok(Some(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been \
             deleted and then recreated"
        )));
    }
    if pod.str_at(&["spec", "nodeName"]) != Some(node) {
        return Ok(Some("node requested token bound to a pod scheduled on a different node".to_owned()));
    }
    let audiences = request.at(&["spec", "audiences"]).and_then(Value::as_array).unwrap_or_default();
    let audience = match audiences {
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return Ok(Some("node may only request 0 or 1 audiences".to_owned())),
    };
    if audience == review.call.core.tokens.audience() || names_audience(&pod, audience) {
        return Ok(None);
    }
    // Who administers roles may let nodes ask for others.
    let granted = review.call.core.authorize(&Attributes {
        user: review.call.user,
        verb: "request-serviceaccounts-token-audience",
        version: "v1",
        resource: audience,
        namespace,
        name: review.call.scope.name,
        is_resource: true,
        ..Attributes::default()
    });
    Ok(granted.is_err().then(|| format!("audience {audience:?} not found in pod spec volume")))
}

/// Whether a projected token of the pod has this audience (empty for the API's own).
fn names_audience(pod: &Value, audience: &str) -> bool {
    let items = |value: &Value, path: &[&str]| value.at(path).and_then(Value::as_array).unwrap_or_default().to_vec();
    items(pod, &["spec", "volumes"]).iter().any(|volume| {
        items(volume, &["projected", "sources"]).iter().any(|source| {
            source
                .at(&["serviceAccountToken"])
                .is_some_and(|token| token.str_at(&["audience"]).unwrap_or_default() == audience)
        })
    })
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
