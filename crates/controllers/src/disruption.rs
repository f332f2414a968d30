//! PodDisruptionBudgets: how many pods may be evicted now.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use scheduler::selector::Selector;

use crate::action::{Action, Event, Plan};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::pods;
use crate::view::{Key, Typed, View};

/// An eviction that was allowed but not followed by a deletion is forgotten after this.
const EVICTION_FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_secs(120);

/// The disruption controller.
#[derive(Debug)]
pub struct DisruptionController;

impl Controller for DisruptionController {
    const NAME: &'static str = "disruption-controller";
    const COMPONENT: &'static str = "controllermanager";
    type Memory = ();

    fn keys(view: &View, change: Change<'_>) -> Vec<Key> {
        let mut keys = Vec::new();
        for side in change.sides() {
            match side {
                Typed::PodDisruptionBudget(budget) => keys.push(Key::of(&budget.metadata)),
                Typed::Pod(pod) => {
                    let budgets = view.pod_disruption_budgets.in_namespace(meta::namespace(&pod.metadata));
                    let covering = budgets.filter(|budget| selector(budget).matches(pod.metadata.labels.as_ref()));
                    keys.extend(covering.map(|budget| Key::of(&budget.metadata)));
                }
                // The number of pods expected is that of their controllers.
                Typed::ReplicaSet(_)
                | Typed::Deployment(_)
                | Typed::StatefulSet(_)
                | Typed::ReplicationController(_) => {
                    let budgets = view.pod_disruption_budgets.in_namespace(meta::namespace(side.metadata()));
                    keys.extend(budgets.map(|budget| Key::of(&budget.metadata)));
                }
                _ => {}
            }
        }
        keys
    }

    fn plan(view: &View, key: &Key, _memory: &mut (), now: Timestamp) -> Plan {
        let Some(budget) = view.pod_disruption_budgets.at(key) else { return Plan::nothing() };
        let selector = selector(budget);
        let pods: Vec<Arc<Pod>> = view
            .pods
            .in_namespace(&key.namespace)
            .filter(|pod| selector.matches(pod.metadata.labels.as_ref()) && !scheduler::is_terminal(pod))
            .cloned()
            .collect();
        let mut plan = Plan::default();
        if pods.is_empty() {
            plan.actions.push(Action::Event(Event::normal(&**budget, "NoPods", "No matching pods found")));
        }
        let old = budget.status.clone().unwrap_or_default();
        let mut disrupted: BTreeMap<String, Time> = BTreeMap::new();
        for (name, at) in old.disrupted_pods.iter().flatten() {
            let still_there =
                pods.iter().any(|pod| meta::name(&pod.metadata) == name && !meta::is_deleting(&pod.metadata));
            let until = at.0.checked_add(EVICTION_FORGOTTEN_AFTER).unwrap_or(now);
            if still_there && until > now {
                plan.requeue_at(until);
                disrupted.insert(name.clone(), at.clone());
            }
        }
        let healthy = pods.iter().filter(|pod| {
            pods::is_ready(pod)
                && !meta::is_deleting(&pod.metadata)
                && !disrupted.contains_key(meta::name(&pod.metadata))
        });
        let current = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
        let (expected, desired) = expectation(view, budget, &pods);
        let allowed = if expected > 0 { (current - desired).max(0) } else { 0 };
        let status = PodDisruptionBudgetStatus {
            current_healthy: Some(current),
            desired_healthy: Some(desired),
            expected_pods: Some(expected),
            disruptions_allowed: Some(allowed),
            disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
            observed_generation: budget.metadata.generation,
            conditions: Some(conditions(&old, allowed, budget.metadata.generation, now)),
        };
        if budget.status.as_ref() == Some(&status) {
            plan.actions.clear();
        } else {
            plan.actions
                .push(Action::update_status(&PodDisruptionBudget { status: Some(status), ..(**budget).clone() }));
        }
        plan
    }
}

fn selector(budget: &PodDisruptionBudget) -> Selector {
    Selector::compile_optional(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()))
}

/// How many pods there should be, and how many of them must stay healthy.
fn expectation(view: &View, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> (i32, i32) {
    let Some(spec) = &budget.spec else { return (0, 0) };
    if let Some(unavailable) = &spec.max_unavailable {
        let expected = expected_by_controllers(view, pods);
        return (expected, (expected - meta::scaled_value(Some(unavailable), "0", expected, true)).max(0));
    }
    match &spec.min_available {
        Some(IntOrString::Int(number)) => (i32::try_from(pods.len()).unwrap_or(i32::MAX), *number),
        Some(share) => {
            let expected = expected_by_controllers(view, pods);
            (expected, meta::scaled_value(Some(share), "0", expected, true))
        }
        None => (i32::try_from(pods.len()).unwrap_or(i32::MAX), 0),
    }
}

fn expected_by_controllers(view: &View, pods: &[Arc<Pod>]) -> i32 {
    let mut scales: BTreeMap<String, i32> = BTreeMap::new();
    for pod in pods {
        let namespace = meta::namespace(&pod.metadata);
        let Some(owner) = meta::controller_of(&pod.metadata) else {
            scales.insert(meta::uid(&pod.metadata).into(), 1);
            continue;
        };
        let scale = match owner.kind.as_str() {
            "ReplicaSet" => view.replica_sets.get(namespace, &owner.name).map(|set| {
                let parent = meta::controller_of(&set.metadata).filter(|parent| parent.kind == "Deployment");
                let deployment = parent.and_then(|parent| view.deployments.get(namespace, &parent.name));
                match deployment {
                    Some(deployment) => {
                        (meta::uid(&deployment.metadata).to_owned(), deployment.spec.replicas.unwrap_or(1))
                    }
                    None => (owner.uid.clone(), set.spec.replicas.unwrap_or(1)),
                }
            }),
            "StatefulSet" => view
                .stateful_sets
                .get(namespace, &owner.name)
                .map(|set| (owner.uid.clone(), set.spec.replicas.unwrap_or(1))),
            "ReplicationController" => view.replication_controllers.get(namespace, &owner.name).map(|controller| {
                (owner.uid.clone(), controller.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1))
            }),
            _ => None,
        };
        // Of a controller without a known scale only the pods themselves are known.
        let (uid, replicas) = scale.unwrap_or_else(|| (meta::uid(&pod.metadata).to_owned(), 1));
        scales.insert(uid, replicas);
    }
    scales.values().sum()
}

fn conditions(
    old: &PodDisruptionBudgetStatus,
    allowed: i32,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let (status, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let known =
        conditions.iter().find(|condition| condition.type_ == "DisruptionAllowed" && condition.status == status);
    let since = known.map_or(Time(now), |known| known.last_transition_time.clone());
    conditions.retain(|condition| condition.type_ != "DisruptionAllowed");
    conditions.push(Condition {
        type_: "DisruptionAllowed".into(),
        status: status.into(),
        reason: reason.into(),
        message: String::new(),
        last_transition_time: since,
        observed_generation: generation,
    });
    conditions
}
