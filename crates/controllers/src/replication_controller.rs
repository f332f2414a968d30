//! ReplicationController: ReplicaSet's older form, over the same code.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use scheduler::selector::Selector;

use crate::action::{Action, Failure, Plan};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::replicas::{self, Counts, Memory, Wanted};
use crate::view::{Key, Typed, View};

/// The ReplicationController controller.
#[derive(Debug)]
pub struct ReplicationControllerController;

fn selector(controller: &ReplicationController) -> Selector {
    let selector =
        controller.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|selector| !selector.is_empty());
    selector.map_or_else(Selector::nothing, Selector::from_labels)
}

impl Controller for ReplicationControllerController {
    const NAME: &'static str = "replication-controller";
    type Memory = Memory;

    fn keys(view: &View, change: Change<'_>) -> Vec<Key> {
        let mut keys = Vec::new();
        for side in change.sides() {
            match side {
                Typed::ReplicationController(controller) => keys.push(Key::of(&controller.metadata)),
                Typed::Pod(pod) => match meta::controller_of(&pod.metadata) {
                    Some(owner) if owner.kind == "ReplicationController" => {
                        keys.push(Key::new(meta::namespace(&pod.metadata), &*owner.name))
                    }
                    Some(_) => {}
                    None => {
                        let candidates = view.replication_controllers.in_namespace(meta::namespace(&pod.metadata));
                        let matching =
                            candidates.filter(|candidate| selector(candidate).matches(pod.metadata.labels.as_ref()));
                        keys.extend(matching.map(|candidate| Key::of(&candidate.metadata)));
                    }
                },
                _ => {}
            }
        }
        keys
    }

    fn plan(view: &View, key: &Key, memory: &mut Memory, now: Timestamp) -> Plan {
        let Some(controller) = view.replication_controllers.at(key) else { return Plan::nothing() };
        let Some(spec) = &controller.spec else { return Plan::nothing() };
        let wanted = Wanted {
            selector: selector(controller),
            replicas: spec.replicas.unwrap_or(1),
            template: spec.template.as_ref(),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
        };
        let (actions, counts) = replicas::reconcile(view, &**controller, &wanted, memory, now);
        let mut plan = Plan::of(actions);
        let status = status(controller, &counts, now);
        if controller.status.as_ref() != Some(&status) {
            plan.actions
                .push(Action::update_status(&ReplicationController { status: Some(status), ..(**controller).clone() }));
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

fn status(controller: &ReplicationController, counts: &Counts, now: Timestamp) -> ReplicationControllerStatus {
    let nonzero = |count: i32| (count > 0).then_some(count);
    let old = controller.status.as_ref();
    let mut conditions = old.and_then(|status| status.conditions.clone()).unwrap_or_default();
    let known = conditions.iter().any(|condition| condition.type_ == "ReplicaFailure");
    match &counts.failure {
        Some((reason, message)) if !known => conditions.push(ReplicationControllerCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some((*reason).into()),
            message: Some(message.clone()),
            last_transition_time: Some(Time(now)),
        }),
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
        Some(_) => {}
    }
    ReplicationControllerStatus {
        replicas: counts.replicas,
        fully_labeled_replicas: nonzero(counts.fully_labeled),
        ready_replicas: nonzero(counts.ready),
        available_replicas: nonzero(counts.available),
        observed_generation: controller.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}
