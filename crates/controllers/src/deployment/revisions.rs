//! Revisions: which ReplicaSet belongs to the template, what it is called, and which old ones are kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Memory, Rollout, TEMPLATE_HASH, replicas};
use crate::action::{Action, Event};
use crate::meta;

const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations that describe the Deployment itself and are not handed on to its sets.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// Whether the set was made from this template; the hash label that we add ourselves does not count.
pub(super) fn same_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let Some(own) = &set.spec.template else { return false };
    if own.spec != template.spec {
        return false;
    }
    let own_metadata = own.metadata.clone().unwrap_or_default();
    let metadata = template.metadata.clone().unwrap_or_default();
    without_hash(own_metadata.labels) == without_hash(metadata.labels)
        && own_metadata.annotations.unwrap_or_default() == metadata.annotations.unwrap_or_default()
}

fn without_hash(labels: Option<BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let mut labels = labels.unwrap_or_default();
    labels.remove(TEMPLATE_HASH);
    labels
}

fn number(set: &ReplicaSet, annotation: &str) -> Option<i64> {
    meta::annotation(&set.metadata, annotation).and_then(|text| text.parse().ok())
}

pub(super) fn desired_annotation(set: &ReplicaSet) -> Option<i32> {
    number(set, DESIRED).and_then(|number| i32::try_from(number).ok())
}

pub(super) fn max_annotation(set: &ReplicaSet) -> Option<i32> {
    number(set, MAX).and_then(|number| i32::try_from(number).ok())
}

impl Rollout<'_> {
    fn next_revision(&self) -> i64 {
        self.old.iter().filter_map(|set| number(set, REVISION)).max().unwrap_or(0) + 1
    }

    fn size_annotations(&self, annotations: &mut BTreeMap<String, String>) -> bool {
        let max = self.desired + self.max_surge;
        let mut changed = false;
        for (key, value) in [(DESIRED, self.desired), (MAX, max)] {
            changed |= annotations.insert(key.into(), value.to_string()) != Some(value.to_string());
        }
        changed
    }

    /// Brings the current set's annotations and revision up to date, or creates it. `true` if it exists.
    pub(super) fn adopt_revision(&mut self, _now: Timestamp, create: bool) -> bool {
        let Some(current) = self.current.clone() else {
            if create {
                self.create_current();
            }
            return false;
        };
        let revision = self.next_revision();
        let mut changed = (*current).clone();
        let annotations = changed.metadata.annotations.get_or_insert_default();
        let mut dirty = false;
        for (key, value) in
            self.deployment.metadata.annotations.iter().flatten().filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()))
        {
            dirty |= annotations.insert(key.clone(), value.clone()).as_ref() != Some(value);
        }
        let known = number(&current, REVISION).unwrap_or(0);
        if known < revision {
            annotations.insert(REVISION.into(), revision.to_string());
            if known > 0 {
                let history = annotations.get(REVISION_HISTORY).filter(|history| !history.is_empty());
                let history = history.map_or_else(|| known.to_string(), |history| format!("{history},{known}"));
                annotations.insert(REVISION_HISTORY.into(), history);
            }
            dirty = true;
        }
        dirty |= self.size_annotations(annotations);
        let min_ready = self.spec.min_ready_seconds;
        if changed.spec.min_ready_seconds.unwrap_or(0) != min_ready.unwrap_or(0) {
            changed.spec.min_ready_seconds = min_ready;
            dirty = true;
        }
        self.tell_revision(revision.max(known));
        if dirty {
            self.current = Some(Arc::new(changed));
            self.replace(&current, None);
        }
        true
    }

    /// The Deployment carries the number of its current revision.
    fn tell_revision(&mut self, revision: i64) {
        if meta::annotation(&self.deployment.metadata, REVISION) != Some(&*revision.to_string()) {
            // An update, since upstream's role of this controller may not patch Deployments.
            let mut changed = self.deployment.clone();
            changed.metadata.annotations.get_or_insert_default().insert(REVISION.into(), revision.to_string());
            self.actions.push(Action::update(&changed));
            self.updates_itself = true;
        }
    }

    /// Plans one update of a set; an earlier one of this plan is replaced, since both start from the same revision.
    pub(super) fn replace(&mut self, changed: &ReplicaSet, event: Option<Event>) {
        let name = meta::name(&changed.metadata);
        let Some(now) = self.sets().find(|set| meta::name(&set.metadata) == name).cloned() else { return };
        let mut event = event;
        self.actions.retain_mut(|action| match action {
            Action::Update { target, on_success, .. }
                if target.name == name && target.resource.kind == "ReplicaSet" =>
            {
                event = event.take().or_else(|| on_success.take());
                false
            }
            _ => true,
        });
        let mut update = Action::update(&*now);
        if let Action::Update { on_success, .. } = &mut update {
            *on_success = event;
        }
        self.actions.push(update);
    }

    fn create_current(&mut self) {
        let collisions = self.deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let hash = meta::stable_hash(&self.spec.template, collisions);
        let deployment_name = meta::name(&self.deployment.metadata);
        let mut template = self.spec.template.clone();
        let template_metadata = template.metadata.get_or_insert_default();
        template_metadata.labels.get_or_insert_default().insert(TEMPLATE_HASH.into(), hash.clone());
        let labels = template_metadata.labels.clone();
        let mut selector = self.spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(TEMPLATE_HASH.into(), hash.clone());
        let revision = self.next_revision();
        let mut annotations: BTreeMap<String, String> =
            self.deployment.metadata.annotations.clone().unwrap_or_default();
        annotations.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
        annotations.insert(REVISION.into(), revision.to_string());
        self.size_annotations(&mut annotations);
        let replicas = self.wanted_of_current(0);
        let set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{deployment_name}-{hash}")),
                namespace: self.deployment.metadata.namespace.clone(),
                labels,
                annotations: Some(annotations),
                owner_references: Some(vec![meta::controller_reference(self.deployment)]),
                ..ObjectMeta::default()
            },
            spec: ReplicaSetSpec {
                min_ready_seconds: self.spec.min_ready_seconds,
                replicas: Some(replicas),
                selector,
                template: Some(template),
            },
            status: None,
        };
        let event = (replicas > 0).then(|| self.scaled_event(&set, 0, replicas));
        let failure = Event::warning(
            self.deployment,
            "ReplicaSetCreateError",
            format!("Failed to create new replica set {:?}: {{error}}", meta::name(&set.metadata)),
        );
        self.actions.push(Action::create(&set).with_events(event, Some(failure)).action());
        self.tell_revision(revision);
    }

    pub(super) fn scaled_event(&self, set: &ReplicaSet, from: i32, to: i32) -> Event {
        let direction = if to > from { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {} from {from} to {to}", meta::name(&set.metadata));
        Event::normal(self.deployment, "ScalingReplicaSet", message)
    }

    /// Deletes old sets beyond the history limit, oldest revision first.
    pub(super) fn clean_up(&mut self) {
        let limit = usize::try_from(self.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
        let mut candidates: Vec<Arc<ReplicaSet>> =
            self.old.iter().filter(|set| !meta::is_deleting(&set.metadata)).cloned().collect();
        let surplus = candidates.len().saturating_sub(limit);
        candidates.sort_by_key(|set| number(set, REVISION).unwrap_or(0));
        for set in candidates.into_iter().take(surplus) {
            let idle = replicas(&set) == 0
                && set.status.as_ref().is_some_and(|status| {
                    status.replicas == 0 && status.observed_generation >= set.metadata.generation
                });
            if idle {
                self.actions.push(Action::delete(&*set));
            }
        }
    }

    /// A name that is taken by something else makes the next hash differ.
    pub(super) fn collision_count(&self, memory: &mut Memory) -> Option<i32> {
        let known = self.deployment.status.as_ref().and_then(|status| status.collision_count);
        if std::mem::take(&mut memory.collided) && self.current.is_none() {
            Some(known.unwrap_or(0) + 1)
        } else {
            known
        }
    }
}
