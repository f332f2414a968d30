//! ReplicaSet: a number of equal pods.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use scheduler::selector::Selector;

use crate::action::{Action, Failure, Plan};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::replicas::{self, Counts, Memory, Wanted};
use crate::view::{Key, Typed, View};

/// The ReplicaSet controller.
#[derive(Debug)]
pub struct ReplicaSetController;

impl Controller for ReplicaSetController {
    const NAME: &'static str = "replicaset-controller";
    type Memory = Memory;

    fn keys(view: &View, change: Change<'_>) -> Vec<Key> {
        let mut keys = Vec::new();
        for side in change.sides() {
            match side {
                Typed::ReplicaSet(set) => keys.push(Key::of(&set.metadata)),
                Typed::Pod(pod) => match meta::controller_of(&pod.metadata) {
                    Some(owner) if owner.kind == "ReplicaSet" => {
                        keys.push(Key::new(meta::namespace(&pod.metadata), &*owner.name))
                    }
                    Some(_) => {}
                    None => {
                        let matching = view
                            .replica_sets
                            .in_namespace(meta::namespace(&pod.metadata))
                            .filter(|set| Selector::compile(&set.spec.selector).matches(pod.metadata.labels.as_ref()));
                        keys.extend(matching.map(|set| Key::of(&set.metadata)));
                    }
                },
                _ => {}
            }
        }
        keys
    }

    fn plan(view: &View, key: &Key, memory: &mut Memory, now: Timestamp) -> Plan {
        let Some(set) = view.replica_sets.at(key) else { return Plan::nothing() };
        let spec = &set.spec;
        let wanted = Wanted {
            selector: Selector::compile(&spec.selector),
            replicas: spec.replicas.unwrap_or(1),
            template: spec.template.as_ref(),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
        };
        let (actions, counts) = replicas::reconcile(view, &**set, &wanted, memory, now);
        let mut plan = Plan::of(actions);
        let status = status(set, &counts, now);
        if set.status.as_ref() != Some(&status) {
            plan.actions.push(Action::update_status(&ReplicaSet { status: Some(status), ..(**set).clone() }));
        }
        if let Some(at) = counts.next_available_at {
            plan.requeue_at(at);
        }
        plan
    }

    fn failed(memory: &mut Memory, failure: &Failure) {
        memory.note(failure);
    }
}

fn status(set: &ReplicaSet, counts: &Counts, now: Timestamp) -> ReplicaSetStatus {
    let nonzero = |count: i32| (count > 0).then_some(count);
    let old = set.status.as_ref();
    let mut conditions = old.and_then(|status| status.conditions.clone()).unwrap_or_default();
    let known = conditions.iter().any(|condition| condition.type_.as_deref() == Some("ReplicaFailure"));
    match &counts.failure {
        Some((reason, message)) if !known => conditions.push(ReplicaSetCondition {
            type_: Some("ReplicaFailure".into()),
            status: Some("True".into()),
            reason: Some((*reason).into()),
            message: Some(message.clone()),
            last_transition_time: Some(Time(now)),
        }),
        None => conditions.retain(|condition| condition.type_.as_deref() != Some("ReplicaFailure")),
        Some(_) => {}
    }
    ReplicaSetStatus {
        replicas: counts.replicas,
        fully_labeled_replicas: nonzero(counts.fully_labeled),
        ready_replicas: nonzero(counts.ready),
        available_replicas: nonzero(counts.available),
        terminating_replicas: Some(counts.terminating),
        observed_generation: set.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}
