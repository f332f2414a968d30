//! StatefulSet: pods with names, places in an order, and storage of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use scheduler::selector::Selector;

use crate::action::{Action, Event, Plan};
use crate::controller::{Change, Controller};
use crate::history::{self, History, REVISION_HASH};
use crate::meta;
use crate::pods;
use crate::replicas;
use crate::view::{Key, Typed, View};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The StatefulSet controller.
#[derive(Debug)]
pub struct StatefulSetController;

impl Controller for StatefulSetController {
    const NAME: &'static str = "statefulset-controller";
    type Memory = ();

    fn keys(view: &View, change: Change<'_>) -> Vec<Key> {
        let mut keys = Vec::new();
        for side in change.sides() {
            match side {
                Typed::StatefulSet(set) => keys.push(Key::of(&set.metadata)),
                Typed::Pod(_) | Typed::ControllerRevision(_) => {
                    let metadata = side.metadata();
                    match meta::controller_of(metadata) {
                        Some(owner) if owner.kind == "StatefulSet" => {
                            keys.push(Key::new(meta::namespace(metadata), &*owner.name))
                        }
                        Some(_) => {}
                        None => {
                            let candidates = view.stateful_sets.in_namespace(meta::namespace(metadata));
                            let matching = candidates
                                .filter(|set| Selector::compile(&set.spec.selector).matches(metadata.labels.as_ref()));
                            keys.extend(matching.map(|set| Key::of(&set.metadata)));
                        }
                    }
                }
                _ => {}
            }
        }
        keys
    }

    fn plan(view: &View, key: &Key, _memory: &mut (), now: Timestamp) -> Plan {
        let Some(set) = view.stateful_sets.at(key).filter(|set| !meta::is_deleting(&set.metadata)) else {
            return Plan::nothing();
        };
        let owner = meta::controller_reference(&**set);
        let (claimed, claims) = replicas::claim(view, &owner, &set.metadata, &Selector::compile(&set.spec.selector));
        let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let history = history::history(view, &**set, &set.spec.template, collisions);
        let mut state = Stateful::new(view, set, history, &claimed, now);
        let mut actions = claims;
        actions.append(&mut state.history.actions);
        actions.extend(state.step());
        let live: BTreeSet<String> = claimed
            .iter()
            .filter_map(|pod| meta::label(&pod.metadata, REVISION_HASH))
            .map(|name| state.hash_of(name))
            .collect();
        actions.extend(state.history.clean_up(set.spec.revision_history_limit, &live));
        let mut plan = Plan::of(actions);
        let status = state.status();
        if set.status.as_ref() != Some(&status) {
            plan.actions.push(Action::update_status(&StatefulSet { status: Some(status), ..(**set).clone() }));
        }
        let soon = state
            .pods
            .values()
            .filter_map(|pod| pods::available_at(pod, state.min_ready_seconds()))
            .filter(|at| *at > now)
            .min();
        if let Some(at) = soon {
            plan.requeue_at(at);
        }
        plan
    }
}

struct Stateful<'a> {
    view: &'a View,
    set: &'a StatefulSet,
    history: History,
    /// By ordinal.
    pods: BTreeMap<i32, Arc<Pod>>,
    first: i32,
    replicas: i32,
    parallel: bool,
    current_revision: String,
    now: Timestamp,
}

impl<'a> Stateful<'a> {
    fn new(view: &'a View, set: &'a StatefulSet, history: History, claimed: &[Arc<Pod>], now: Timestamp) -> Self {
        let prefix = meta::name_prefix(meta::name(&set.metadata));
        let ordinal = |pod: &Arc<Pod>| {
            meta::name(&pod.metadata).strip_prefix(&prefix).and_then(|ordinal| ordinal.parse::<i32>().ok())
        };
        let pods = claimed.iter().filter_map(|pod| Some((ordinal(pod)?, pod.clone()))).collect();
        let recorded =
            set.status.as_ref().and_then(|status| status.current_revision.clone()).filter(|name| !name.is_empty());
        Self {
            view,
            set,
            pods,
            first: set.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0),
            replicas: set.spec.replicas.unwrap_or(1),
            parallel: set.spec.pod_management_policy.as_deref() == Some("Parallel"),
            current_revision: recorded.unwrap_or_else(|| history.name.clone()),
            history,
            now,
        }
    }

    /// Pods carry the revision's name; the history knows it by its hash.
    fn hash_of(&self, revision_name: &str) -> String {
        revision_name
            .strip_prefix(&meta::name_prefix(meta::name(&self.set.metadata)))
            .unwrap_or(revision_name)
            .to_owned()
    }

    fn min_ready_seconds(&self) -> i32 {
        self.set.spec.min_ready_seconds.unwrap_or(0)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::phase(pod) == "Running"
            && pods::available_at(pod, self.min_ready_seconds()).is_some_and(|at| at <= self.now)
    }

    fn is_healthy(&self, pod: &Pod) -> bool {
        self.is_available(pod) && !meta::is_deleting(&pod.metadata)
    }

    fn revision_of<'b>(&self, pod: &'b Pod) -> &'b str {
        meta::label(&pod.metadata, REVISION_HASH).unwrap_or_default()
    }

    fn partition(&self) -> i32 {
        let rolling = self.set.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        rolling.and_then(|rolling| rolling.partition).unwrap_or(0)
    }

    /// Fills the order from below, then shrinks it from above, then updates from above.
    fn step(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        let wanted = self.first..self.first + self.replicas;
        for ordinal in wanted.clone() {
            match self.pods.get(&ordinal) {
                None => actions.extend(self.create(ordinal)),
                Some(pod) if scheduler::is_terminal(pod) && !meta::is_deleting(&pod.metadata) => {
                    let message = format!(
                        "StatefulSet {}/{} is recreating failed Pod {}",
                        meta::namespace(&self.set.metadata),
                        meta::name(&self.set.metadata),
                        meta::name(&pod.metadata)
                    );
                    actions.push(Action::Event(Event::warning(self.set, "RecreatingFailedPod", message)));
                    actions.push(self.delete(pod));
                }
                Some(pod) => {
                    actions.extend(self.missing_claims(ordinal));
                    if self.is_healthy(pod) || self.parallel {
                        continue;
                    }
                }
            }
            if !self.parallel {
                return actions;
            }
        }
        let condemned: Vec<&Arc<Pod>> =
            self.pods.iter().rev().filter(|(ordinal, _)| !wanted.contains(ordinal)).map(|(_, pod)| pod).collect();
        for pod in &condemned {
            if !meta::is_deleting(&pod.metadata) {
                actions.push(self.delete(pod));
            }
            if !self.parallel {
                return actions;
            }
        }
        if actions.is_empty() && condemned.is_empty() {
            actions = self.update();
        }
        actions
    }

    /// Replaces pods of older revisions, the highest ordinal first, never more than may be unavailable.
    fn update(&self) -> Vec<Action> {
        let strategy = self.set.spec.update_strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return Vec::new();
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let max =
            meta::scaled_value(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), "1", self.replicas, true)
                .max(1);
        let mut unavailable =
            i32::try_from(self.pods.values().filter(|pod| !self.is_healthy(pod)).count()).unwrap_or(i32::MAX);
        let mut actions = Vec::new();
        let from = self.first + self.partition();
        for (_, pod) in self.pods.range(from..).rev() {
            let outdated = self.revision_of(pod) != self.history.name;
            if outdated && !meta::is_deleting(&pod.metadata) {
                // A pod that is broken already costs nothing more.
                let free = !self.is_healthy(pod);
                if !free && unavailable >= max {
                    break;
                }
                unavailable += i32::from(!free);
                actions.push(self.delete(pod));
            }
            if unavailable >= max && !self.is_healthy(pod) {
                break;
            }
        }
        actions
    }

    fn delete(&self, pod: &Pod) -> Action {
        let set_name = meta::name(&self.set.metadata);
        let what = format!("delete Pod {} in StatefulSet {set_name}", meta::name(&pod.metadata));
        let told = Event::normal(self.set, "SuccessfulDelete", format!("{what} successful"));
        let failed = Event::warning(self.set, "FailedDelete", format!("{what} failed error: {{error}}"));
        Action::delete_with_events(pod, Some(told), Some(failed))
    }

    /// Below the partition pods are made from the template that was current before.
    fn template_for(&self, ordinal: i32) -> (PodTemplateSpec, String) {
        if ordinal < self.first + self.partition()
            && let Some(template) = self.history.template(&self.current_revision)
        {
            return (template, self.current_revision.clone());
        }
        (self.set.spec.template.clone(), self.history.name.clone())
    }

    fn create(&self, ordinal: i32) -> Vec<Action> {
        let set_name = meta::name(&self.set.metadata);
        let name = format!("{set_name}-{ordinal}");
        let (template, revision) = self.template_for(ordinal);
        let mut pod =
            pods::from_template(&template, meta::namespace(&self.set.metadata), meta::controller_reference(self.set));
        pod.metadata.generate_name = None;
        pod.metadata.name = Some(name.clone());
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(POD_NAME.into(), name.clone());
        labels.insert(POD_INDEX.into(), ordinal.to_string());
        labels.insert(REVISION_HASH.into(), revision);
        if let Some(spec) = &mut pod.spec {
            spec.hostname = Some(name.clone());
            spec.subdomain = self.set.spec.service_name.clone().filter(|service| !service.is_empty());
            for template in self.set.spec.volume_claim_templates.iter().flatten() {
                let volume_name = meta::name(&template.metadata).to_owned();
                let volumes = spec.volumes.get_or_insert_default();
                volumes.retain(|volume| volume.name != volume_name);
                volumes.push(Volume {
                    persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                        claim_name: format!("{volume_name}-{name}"),
                        read_only: None,
                    }),
                    name: volume_name,
                    ..Volume::default()
                });
            }
        }
        let what = format!("create Pod {name} in StatefulSet {set_name}");
        let create = Action::create(&pod).with_events(
            Some(Event::normal(self.set, "SuccessfulCreate", format!("{what} successful"))),
            Some(Event::warning(self.set, "FailedCreate", format!("{what} failed error: {{error}}"))),
        );
        let mut actions = self.missing_claims(ordinal);
        actions.push(create.action());
        actions
    }

    /// The claims that a pod needs and that do not exist; they outlive the pod and the set.
    fn missing_claims(&self, ordinal: i32) -> Vec<Action> {
        let set_name = meta::name(&self.set.metadata);
        let namespace = meta::namespace(&self.set.metadata);
        let mut actions = Vec::new();
        for template in self.set.spec.volume_claim_templates.iter().flatten() {
            let pod_name = format!("{set_name}-{ordinal}");
            let name = format!("{}-{pod_name}", meta::name(&template.metadata));
            if self.view.persistent_volume_claims.get(namespace, &name).is_some() {
                continue;
            }
            let mut labels = template.metadata.labels.clone().unwrap_or_default();
            labels.extend(self.set.spec.selector.match_labels.clone().unwrap_or_default());
            let claim = PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    namespace: Some(namespace.into()),
                    labels: Some(labels),
                    annotations: template.metadata.annotations.clone(),
                    ..ObjectMeta::default()
                },
                spec: template.spec.clone(),
                status: None,
            };
            let what = format!("create Claim {name} Pod {pod_name} in StatefulSet {set_name}");
            let create = Action::create(&claim).exists_is_success().with_events(
                Some(Event::normal(self.set, "SuccessfulCreate", format!("{what} success"))),
                Some(Event::warning(self.set, "FailedCreate", format!("{what} failed error: {{error}}"))),
            );
            actions.push(create.action());
        }
        actions
    }

    fn status(&self) -> StatefulSetStatus {
        let count = |holds: &dyn Fn(&Pod) -> bool| {
            i32::try_from(self.pods.values().filter(|pod| holds(pod)).count()).unwrap_or(i32::MAX)
        };
        let old = self.set.status.clone().unwrap_or_default();
        let replicas = count(&|_| true);
        let ready = count(&|pod| pods::phase(pod) == "Running" && pods::is_ready(pod));
        let available = count(&|pod| self.is_available(pod));
        let live = |pod: &Pod| !meta::is_deleting(&pod.metadata);
        let updated = count(&|pod| live(pod) && self.revision_of(pod) == self.history.name);
        let mut current_revision = self.current_revision.clone();
        // A rollout has ended when every pod has the new revision and is ready.
        if updated == self.replicas && replicas == self.replicas && ready == self.replicas {
            current_revision.clone_from(&self.history.name);
        }
        let current = count(&|pod| live(pod) && self.revision_of(pod) == current_revision);
        let nonzero = |count: i32| (count > 0).then_some(count);
        StatefulSetStatus {
            replicas,
            ready_replicas: nonzero(ready),
            available_replicas: Some(available),
            current_replicas: nonzero(current),
            updated_replicas: nonzero(updated),
            current_revision: Some(current_revision),
            update_revision: Some(self.history.name.clone()),
            observed_generation: self.set.metadata.generation,
            collision_count: Some(old.collision_count.unwrap_or(0)),
            conditions: old.conditions,
        }
    }
}
