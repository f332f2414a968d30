//! Deployment: revisions of ReplicaSets, rolled over from one to the next.

mod progress;
mod revisions;
mod rolling;
mod scaling;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use scheduler::selector::Selector;

use crate::action::{Action, Event, Failure, Plan};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::view::{Key, Typed, View};

/// The label that tells the pods of one revision from those of another.
pub const TEMPLATE_HASH: &str = "pod-template-hash";

/// The Deployment controller.
#[derive(Debug)]
pub struct DeploymentController;

/// What failed last, for the condition.
#[derive(Debug, Default)]
pub struct Memory {
    create_failure: Option<String>,
    collided: bool,
}

/// A Deployment with its numbers resolved, and its ReplicaSets as they will be once the plan is carried out.
struct Rollout<'a> {
    deployment: &'a Deployment,
    spec: &'a DeploymentSpec,
    desired: i32,
    max_surge: i32,
    max_unavailable: i32,
    recreate: bool,
    /// The set of the current template, if it exists.
    current: Option<Arc<ReplicaSet>>,
    /// All other sets, oldest first.
    old: Vec<Arc<ReplicaSet>>,
    actions: Vec<Action>,
    /// The Deployment itself is updated by this plan, so its status waits for the next one.
    updates_itself: bool,
}

impl Controller for DeploymentController {
    const NAME: &'static str = "deployment-controller";
    type Memory = Memory;

    fn keys(view: &View, change: Change<'_>) -> Vec<Key> {
        let mut keys = Vec::new();
        for side in change.sides() {
            match side {
                Typed::Deployment(deployment) => keys.push(Key::of(&deployment.metadata)),
                Typed::ReplicaSet(set) => match meta::controller_of(&set.metadata) {
                    Some(owner) if owner.kind == "Deployment" => {
                        keys.push(Key::new(meta::namespace(&set.metadata), &*owner.name))
                    }
                    Some(_) => {}
                    None => {
                        let candidates = view.deployments.in_namespace(meta::namespace(&set.metadata));
                        let matching =
                            candidates.filter(|candidate| selector(candidate).matches(set.metadata.labels.as_ref()));
                        keys.extend(matching.map(|candidate| Key::of(&candidate.metadata)));
                    }
                },
                // Recreate waits for the last old pod, so a pod that leaves matters.
                Typed::Pod(pod) if change.new.is_none() || scheduler::is_terminal(pod) => {
                    let owner = meta::controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet");
                    let set =
                        owner.and_then(|owner| view.replica_sets.get(meta::namespace(&pod.metadata), &owner.name));
                    let parent = set
                        .and_then(|set| meta::controller_of(&set.metadata))
                        .filter(|parent| parent.kind == "Deployment");
                    keys.extend(parent.map(|parent| Key::new(meta::namespace(&pod.metadata), &*parent.name)));
                }
                _ => {}
            }
        }
        keys
    }

    fn plan(view: &View, key: &Key, memory: &mut Memory, now: Timestamp) -> Plan {
        let Some(deployment) = view.deployments.at(key) else { return Plan::nothing() };
        let spec = &deployment.spec;
        if spec.selector.match_labels.as_ref().is_none_or(|labels| labels.is_empty())
            && spec.selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
        {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            return Plan::of(vec![Action::Event(Event::warning(&**deployment, "SelectingAll", message))]);
        }
        let (sets, claims) = claim_sets(view, deployment, spec);
        if !claims.is_empty() {
            return Plan::of(claims);
        }
        let mut rollout = Rollout::new(deployment, spec, sets);
        if meta::is_deleting(&deployment.metadata) {
            return progress::finish(rollout, memory, now, false);
        }
        let paused = spec.paused == Some(true);
        if paused || rollout.was_scaled() {
            rollout.adopt_revision(now, false);
            rollout.scale(now);
            if paused {
                rollout.clean_up();
            }
            return progress::finish(rollout, memory, now, false);
        }
        if rollout.recreate {
            rollout.roll_by_recreating(view, memory, now);
        } else {
            rollout.roll(memory, now);
        }
        progress::finish(rollout, memory, now, true)
    }

    fn failed(memory: &mut Memory, failure: &Failure) {
        if failure.resource.kind == "ReplicaSet" && failure.create {
            if failure.reason == "AlreadyExists" {
                memory.collided = true;
            } else {
                memory.create_failure = Some(failure.message.clone());
            }
        }
    }
}

fn selector(deployment: &Deployment) -> Selector {
    Selector::compile(&deployment.spec.selector)
}

/// The Deployment's ReplicaSets, oldest first, and what must be adopted or released before anything else is done.
fn claim_sets(view: &View, deployment: &Deployment, spec: &DeploymentSpec) -> (Vec<Arc<ReplicaSet>>, Vec<Action>) {
    let owner = meta::controller_reference(deployment);
    let selector = Selector::compile(&spec.selector);
    let mut actions = Vec::new();
    let mut sets: Vec<Arc<ReplicaSet>> = Vec::new();
    let deleting = meta::is_deleting(&deployment.metadata);
    for set in view.replica_sets.controlled_by(&owner.uid) {
        if selector.matches(set.metadata.labels.as_ref()) {
            sets.push(set.clone());
        } else if !deleting && !meta::is_deleting(&set.metadata) {
            actions.push(Action::patch(&**set, "", meta::releasing_patch(&owner.uid, &set.metadata)));
        }
    }
    if !deleting {
        for set in view.replica_sets.orphans(meta::namespace(&deployment.metadata)) {
            if !meta::is_deleting(&set.metadata) && selector.matches(set.metadata.labels.as_ref()) {
                actions.push(Action::patch_unchanged(&**set, "", meta::adopting_patch(&owner, &set.metadata)));
            }
        }
    }
    sets.sort_by(|left, right| {
        let by_age = left.metadata.creation_timestamp.cmp(&right.metadata.creation_timestamp);
        by_age.then_with(|| left.metadata.name.cmp(&right.metadata.name))
    });
    (sets, actions)
}

impl<'a> Rollout<'a> {
    fn new(deployment: &'a Deployment, spec: &'a DeploymentSpec, mut sets: Vec<Arc<ReplicaSet>>) -> Self {
        let desired = spec.replicas.unwrap_or(1);
        let strategy = spec.strategy.as_ref();
        let recreate = strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate");
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let (mut max_surge, mut max_unavailable) = (0, 0);
        if !recreate {
            max_surge =
                meta::scaled_value(rolling.and_then(|rolling| rolling.max_surge.as_ref()), "25%", desired, true);
            max_unavailable =
                meta::scaled_value(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), "25%", desired, false);
            // With neither, a rollout could never take a step.
            if max_surge == 0 && max_unavailable == 0 {
                max_unavailable = 1;
            }
            max_unavailable = max_unavailable.min(desired);
        }
        let current =
            sets.iter().position(|set| revisions::same_template(set, &spec.template)).map(|index| sets.remove(index));
        Self {
            deployment,
            spec,
            desired,
            max_surge,
            max_unavailable,
            recreate,
            current,
            old: sets,
            actions: Vec::new(),
            updates_itself: false,
        }
    }

    fn sets(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.current)
    }

    /// The Deployment's replicas changed since the active sets were last sized.
    fn was_scaled(&self) -> bool {
        self.sets()
            .filter(|set| replicas(set) > 0)
            .any(|set| revisions::desired_annotation(set).is_some_and(|desired| desired != self.desired))
    }
}

/// How many pods a set is to have.
fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}
