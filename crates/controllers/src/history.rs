//! ControllerRevisions: the templates that a DaemonSet or StatefulSet has had.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use k8s_openapi::{Metadata, Resource};
use serde_json::{Value, json};

use crate::action::Action;
use crate::meta;
use crate::view::View;

/// The label that tells which revision a pod was made from.
pub(crate) const REVISION_HASH: &str = "controller-revision-hash";

/// The revisions of one owner, and the one of its current template.
pub(crate) struct History {
    /// The name of the current revision.
    pub(crate) name: String,
    /// The hash of the current revision.
    pub(crate) hash: String,
    all: Vec<Arc<ControllerRevision>>,
    /// What makes the history true; carried out before anything that relies on it.
    pub(crate) actions: Vec<Action>,
}

fn data_of(template: &PodTemplateSpec) -> Value {
    let mut template = meta::to_json(template);
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// Finds the revision of `template`, or creates it; one that was current before becomes the newest again.
pub(crate) fn history<K: Resource + Metadata<Ty = ObjectMeta>>(
    view: &View,
    owner: &K,
    template: &PodTemplateSpec,
    collisions: i32,
) -> History {
    let metadata = owner.metadata();
    let mut all: Vec<Arc<ControllerRevision>> =
        view.controller_revisions.controlled_by(meta::uid(metadata)).cloned().collect();
    all.sort_by_key(|revision| revision.revision);
    let newest = all.last().and_then(|revision| revision.revision).unwrap_or(0);
    let data = data_of(template);
    let mut actions = Vec::new();
    let hash = meta::stable_hash(template, collisions);
    // The data decides; the hash stands in for it where the API has stored the data in another but equal form.
    let same_hash =
        |revision: &&Arc<ControllerRevision>| meta::label(&revision.metadata, REVISION_HASH) == Some(&*hash);
    if let Some(known) = all.iter().find(|revision| revision.data.0 == data).or_else(|| all.iter().find(same_hash)) {
        if known.revision != Some(newest) {
            let mut renewed = (**known).clone();
            renewed.revision = Some(newest + 1);
            actions.push(Action::update(&renewed));
        }
        let hash = meta::label(&known.metadata, REVISION_HASH).unwrap_or_default().to_owned();
        return History { name: meta::name(&known.metadata).into(), hash, all, actions };
    }
    let name = format!("{}-{hash}", meta::name(metadata));
    let mut labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    labels.insert(REVISION_HASH.into(), hash.clone());
    let revision = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: metadata.namespace.clone(),
            labels: Some(labels),
            annotations: metadata.annotations.clone().map(|mut annotations| {
                annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
                annotations
            }),
            owner_references: Some(vec![meta::controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        data: RawExtension(data),
        revision: Some(newest + 1),
    };
    actions.push(Action::create(&revision).exists_is_success().action());
    History { name, hash, all, actions }
}

impl History {
    /// Deletes revisions beyond the limit that no pod carries any more, oldest first.
    pub(crate) fn clean_up(&self, limit: Option<i32>, live_hashes: &BTreeSet<String>) -> Vec<Action> {
        let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
        let hash = |revision: &ControllerRevision| {
            meta::label(&revision.metadata, REVISION_HASH).unwrap_or_default().to_owned()
        };
        let old: Vec<&Arc<ControllerRevision>> = self
            .all
            .iter()
            .filter(|revision| hash(revision) != self.hash && !live_hashes.contains(&hash(revision)))
            .collect();
        let surplus = old.len().saturating_sub(limit);
        old.into_iter().take(surplus).map(|revision| Action::delete(&**revision)).collect()
    }

    /// The template of a revision, by its name.
    pub(crate) fn template(&self, name: &str) -> Option<PodTemplateSpec> {
        let revision = self.all.iter().find(|revision| meta::name(&revision.metadata) == name)?;
        let mut template = revision.data.0.get("spec")?.get("template")?.clone();
        template.as_object_mut()?.remove("$patch");
        serde_json::from_value(template).ok()
    }
}
