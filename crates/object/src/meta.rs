//! Reading and writing the members that all objects share, and the names that many rooms use.

use crate::{GroupVersionKind, Map, Str, Value};
use jiff::Timestamp;

/// Well-known labels.
pub mod labels {
    /// The node's name as a label.
    pub const HOSTNAME: &str = "kubernetes.io/hostname";
    /// The node's operating system.
    pub const OS: &str = "kubernetes.io/os";
    /// The node's processor architecture.
    pub const ARCH: &str = "kubernetes.io/arch";
    /// The zone a node stands in.
    pub const TOPOLOGY_ZONE: &str = "topology.kubernetes.io/zone";
    /// The region a node stands in.
    pub const TOPOLOGY_REGION: &str = "topology.kubernetes.io/region";
    /// The namespace's own name as a label of it.
    pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
    /// The Service an EndpointSlice belongs to.
    pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
    /// Who writes an EndpointSlice.
    pub const ENDPOINT_SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
    /// The hash of a Deployment's pod template.
    pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";
    /// The revision of a StatefulSet's or DaemonSet's pods.
    pub const CONTROLLER_REVISION_HASH: &str = "controller-revision-hash";
    /// The name of a StatefulSet's pod.
    pub const STATEFUL_SET_POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
    /// The ordinal of a StatefulSet's or indexed Job's pod.
    pub const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
    /// The Job a pod belongs to.
    pub const JOB_NAME: &str = "batch.kubernetes.io/job-name";
    /// The uid of the Job a pod belongs to.
    pub const JOB_CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
    /// The roles of a node, by prefix.
    pub const NODE_ROLE_PREFIX: &str = "node-role.kubernetes.io/";
    /// Load balancers leave a node with this label out.
    pub const EXCLUDE_FROM_LOAD_BALANCERS: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
}

/// Well-known annotations.
pub mod annotations {
    /// What kubectl's client-side apply sent last.
    pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
    /// A Deployment's or ReplicaSet's revision.
    pub const DEPLOYMENT_REVISION: &str = "deployment.kubernetes.io/revision";
    /// How many replicas a Deployment wants, noted on its ReplicaSets.
    pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
    /// How many replicas a Deployment may have, noted on its ReplicaSets.
    pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
    /// Which container kubectl takes when none is named.
    pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
    /// When kubectl restarted a workload.
    pub const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
    /// The default among the storage classes.
    pub const DEFAULT_STORAGE_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
    /// The default among the ingress classes.
    pub const DEFAULT_INGRESS_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";
    /// What a pod's deletion costs beside its siblings.
    pub const POD_DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    /// RBAC objects that a start brings up to date.
    pub const RBAC_AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
    /// The name of a token Secret's ServiceAccount.
    pub const SERVICE_ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
    /// The uid of a token Secret's ServiceAccount.
    pub const SERVICE_ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
}

/// Finalizers with a meaning to the API server.
pub mod finalizers {
    /// Deletion waits for dependents (foreground deletion).
    pub const FOREGROUND: &str = "foregroundDeletion";
    /// Deletion keeps dependents.
    pub const ORPHAN: &str = "orphan";
    /// The namespace's finalizer (in its spec).
    pub const KUBERNETES: &str = "kubernetes";
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value.str_at(&["metadata", member]).unwrap_or_default()
}

/// metadata.name; empty where absent.
#[must_use]
pub fn name(value: &Value) -> &str {
    text(value, "name")
}

/// metadata.generateName; empty where absent.
#[must_use]
pub fn generate_name(value: &Value) -> &str {
    text(value, "generateName")
}

/// metadata.namespace; empty where absent.
#[must_use]
pub fn namespace(value: &Value) -> &str {
    text(value, "namespace")
}

/// metadata.uid; empty where absent.
#[must_use]
pub fn uid(value: &Value) -> &str {
    text(value, "uid")
}

/// metadata.resourceVersion as it was written; empty where absent.
#[must_use]
pub fn resource_version(value: &Value) -> &str {
    text(value, "resourceVersion")
}

/// metadata.generation; 0 where absent.
#[must_use]
pub fn generation(value: &Value) -> i64 {
    value.i64_at(&["metadata", "generation"]).unwrap_or_default()
}

/// metadata.labels.
#[must_use]
pub fn labels(value: &Value) -> Option<&Map> {
    value.at(&["metadata", "labels"])?.as_object()
}

/// One label.
#[must_use]
pub fn label<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    labels(value)?.get(key)?.as_str()
}

/// metadata.annotations.
#[must_use]
pub fn annotations(value: &Value) -> Option<&Map> {
    value.at(&["metadata", "annotations"])?.as_object()
}

/// One annotation.
#[must_use]
pub fn annotation<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    annotations(value)?.get(key)?.as_str()
}

/// metadata.finalizers.
pub fn finalizers(value: &Value) -> impl Iterator<Item = &str> {
    value.at(&["metadata", "finalizers"]).and_then(Value::as_array).unwrap_or_default().iter().filter_map(Value::as_str)
}

/// True where the object has this finalizer.
#[must_use]
pub fn has_finalizer(value: &Value, name: &str) -> bool {
    finalizers(value).any(|one| one == name)
}

/// metadata.creationTimestamp.
#[must_use]
pub fn creation_time(value: &Value) -> Option<Timestamp> {
    crate::time::parse(text(value, "creationTimestamp"))
}

/// metadata.deletionTimestamp.
#[must_use]
pub fn deletion_time(value: &Value) -> Option<Timestamp> {
    crate::time::parse(text(value, "deletionTimestamp"))
}

/// True where deletion was asked for.
#[must_use]
pub fn is_deleting(value: &Value) -> bool {
    !text(value, "deletionTimestamp").is_empty()
}

/// One entry of metadata.ownerReferences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerReference<'a> {
    /// The owner's apiVersion.
    pub api_version: &'a str,
    /// The owner's kind.
    pub kind: &'a str,
    /// The owner's name.
    pub name: &'a str,
    /// The owner's uid.
    pub uid: &'a str,
    /// True for the one owner that manages the object.
    pub controller: bool,
    /// True where foreground deletion of the owner waits for this object.
    pub block_owner_deletion: bool,
}

/// metadata.ownerReferences.
pub fn owner_references(value: &Value) -> impl Iterator<Item = OwnerReference<'_>> {
    let references = value.at(&["metadata", "ownerReferences"]).and_then(Value::as_array).unwrap_or_default();
    references.iter().map(|reference| {
        let text = |member| reference.get(member).and_then(Value::as_str).unwrap_or_default();
        let flag = |member| reference.get(member).and_then(Value::as_bool).unwrap_or_default();
        OwnerReference {
            api_version: text("apiVersion"),
            kind: text("kind"),
            name: text("name"),
            uid: text("uid"),
            controller: flag("controller"),
            block_owner_deletion: flag("blockOwnerDeletion"),
        }
    })
}

/// The owner that manages the object.
#[must_use]
pub fn controller(value: &Value) -> Option<OwnerReference<'_>> {
    owner_references(value).find(|reference| reference.controller)
}

/// apiVersion and kind as a name.
#[must_use]
pub fn group_version_kind(value: &Value) -> GroupVersionKind {
    let text = |member| value.get(member).and_then(Value::as_str).unwrap_or_default();
    GroupVersionKind::parse(text("apiVersion"), text("kind"))
}

/// Sets apiVersion and kind.
pub fn set_group_version_kind(value: &mut Value, kind: &GroupVersionKind) {
    value.set(&["apiVersion"], Value::from(kind.api_version()));
    value.set(&["kind"], Value::from(kind.kind.clone()));
}

/// Sets a text member of metadata; an empty text removes it.
pub fn set_text(value: &mut Value, member: &str, text: impl Into<Str>) {
    let text = text.into();
    if text.is_empty() {
        value.remove(&["metadata", member]);
    } else {
        value.set(&["metadata", member], Value::String(text));
    }
}

/// Sets metadata.resourceVersion.
pub fn set_resource_version(value: &mut Value, revision: u64) {
    value.set(&["metadata", "resourceVersion"], Value::from(revision.to_string()));
}

/// Adds a finalizer; returns whether it was missing.
pub fn add_finalizer(value: &mut Value, name: &str) -> bool {
    if has_finalizer(value, name) {
        return false;
    }
    match value.at_mut(&["metadata", "finalizers"]).and_then(Value::as_array_mut) {
        Some(list) => list.push(Value::from(name)),
        None => value.set(&["metadata", "finalizers"], Value::Array(vec![Value::from(name)])),
    }
    true
}

/// Removes a finalizer, and the list with the last one; returns whether it was there.
pub fn remove_finalizer(value: &mut Value, name: &str) -> bool {
    let Some(list) = value.at_mut(&["metadata", "finalizers"]).and_then(Value::as_array_mut) else {
        return false;
    };
    let before = list.len();
    list.retain(|one| one.as_str() != Some(name));
    let (after, removed) = (list.len(), before != list.len());
    if after == 0 {
        value.remove(&["metadata", "finalizers"]);
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finalizers_come_and_go() {
        let mut value = Value::default();
        assert!(add_finalizer(&mut value, "a/b"));
        assert!(!add_finalizer(&mut value, "a/b"));
        assert!(has_finalizer(&value, "a/b"));
        assert!(remove_finalizer(&mut value, "a/b"));
        assert!(!remove_finalizer(&mut value, "a/b"));
        assert_eq!(value.at(&["metadata", "finalizers"]), None);
    }

    #[test]
    fn the_controller_is_the_owner_marked_so() {
        let owner = |name: &str, controller: bool| {
            let mut reference = Value::default();
            reference.set(&["name"], Value::from(name));
            reference.set(&["controller"], Value::from(controller));
            reference
        };
        let mut value = Value::default();
        value.set(&["metadata", "ownerReferences"], Value::Array(vec![owner("a", false), owner("b", true)]));
        assert_eq!(controller(&value).map(|reference| reference.name), Some("b"));
        assert_eq!(owner_references(&value).count(), 2);
    }
}
