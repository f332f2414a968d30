//! DefaultStorageClass and DefaultIngressClass: a claim, or an Ingress, that names no class gets the one that is marked as default.

use super::plugin::{Operation, Plugin, Review};
use crate::core::decoded;
use async_trait::async_trait;
use object::{Status, Value, meta};

/// Upstream's annotation of the class that counts.
const DEFAULT_INGRESS_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";
/// What named a class before there was a field; whoever uses it has chosen.
const INGRESS_CLASS: &str = "kubernetes.io/ingress.class";

/// The name of the class that has the annotation. Of several the newest counts, then the first by name, as upstream.
fn default_class(review: &Review<'_>, bucket: &str, annotation: &str) -> Option<String> {
    let listed = review.call.core.store.list(bucket, "", None, None, None);
    let classes = listed.map(|list| list.entries).unwrap_or_default();
    let is_default = |class: &Value| meta::annotation(class, annotation) == Some("true");
    let defaults = classes.iter().map(|entry| decoded(entry)).filter(|class| is_default(class));
    let first = defaults.min_by(|a, b| {
        meta::creation_time(b).cmp(&meta::creation_time(a)).then_with(|| meta::name(a).cmp(meta::name(b)))
    });
    first.map(|class| meta::name(&class).to_owned())
}

fn names_one(object: &Value, field: &str) -> bool {
    object.at(&["spec", field]).is_some_and(|name| !name.is_null())
}

/// The plug-in for claims.
pub(crate) struct DefaultStorageClass;

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn handles(&self, review: &Review<'_>) -> bool {
        review.bucket() == "persistentvolumeclaims" && review.operation == Operation::Create
    }

    async fn mutate(&self, review: &Review<'_>, object: &mut Value) -> Result<(), Status> {
        if names_one(object, "storageClassName") {
            return Ok(());
        }
        let bucket = "storageclasses.storage.k8s.io";
        if let Some(name) = default_class(review, bucket, meta::annotations::DEFAULT_STORAGE_CLASS) {
            object.set(&["spec", "storageClassName"], name.into());
        }
        Ok(())
    }
}

/// The plug-in for Ingresses.
pub(crate) struct DefaultIngressClass;

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn handles(&self, review: &Review<'_>) -> bool {
        review.bucket() == "ingresses.networking.k8s.io" && review.operation == Operation::Create
    }

    async fn mutate(&self, review: &Review<'_>, object: &mut Value) -> Result<(), Status> {
        if names_one(object, "ingressClassName") || meta::annotation(object, INGRESS_CLASS).is_some() {
            return Ok(());
        }
        if let Some(name) = default_class(review, "ingressclasses.networking.k8s.io", DEFAULT_INGRESS_CLASS) {
            object.set(&["spec", "ingressClassName"], name.into());
        }
        Ok(())
    }
}
