//! DefaultStorageClass: a claim that names no class gets the one that is marked as default.

use super::plugin::{Operation, Plugin, Review};
use crate::core::decoded;
use async_trait::async_trait;
use object::{Status, Value, meta};

/// The plug-in.
pub(crate) struct DefaultStorageClass;

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn handles(&self, review: &Review<'_>) -> bool {
        review.bucket() == "persistentvolumeclaims" && review.operation == Operation::Create
    }

    async fn mutate(&self, review: &Review<'_>, object: &mut Value) -> Result<(), Status> {
        if object.at(&["spec", "storageClassName"]).is_some_and(|name| !name.is_null()) {
            return Ok(());
        }
        let listed = review.call.core.store.list("storageclasses.storage.k8s.io", "", None, None, None);
        let classes = listed.map(|list| list.entries).unwrap_or_default();
        let is_default =
            |class: &Value| meta::annotation(class, meta::annotations::DEFAULT_STORAGE_CLASS) == Some("true");
        let mut defaults: Vec<_> =
            classes.iter().map(|entry| decoded(entry)).filter(|class| is_default(class)).collect();
        // Of several defaults the newest counts, then the first by name, as upstream.
        defaults.sort_by(|a, b| {
            meta::creation_time(b).cmp(&meta::creation_time(a)).then_with(|| meta::name(a).cmp(meta::name(b)))
        });
        if let Some(class) = defaults.first() {
            object.set(&["spec", "storageClassName"], meta::name(class).into());
        }
        Ok(())
    }
}
