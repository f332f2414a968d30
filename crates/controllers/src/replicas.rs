//! Keeping a number of equal pods, for ReplicaSet and ReplicationController alike.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::{Metadata, Resource};
use scheduler::selector::Selector;

use crate::action::{Action, Event, Failure};
use crate::meta;
use crate::pods;
use crate::view::View;

/// At most so many pods are created or deleted in one plan.
const BURST_MAX: usize = 500;

/// What the wanted pods look like and how many there are to be.
pub(crate) struct Wanted<'a> {
    pub(crate) selector: Selector,
    pub(crate) replicas: i32,
    pub(crate) template: Option<&'a PodTemplateSpec>,
    pub(crate) min_ready_seconds: i32,
}

/// What is there, for the status.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) replicas: i32,
    pub(crate) fully_labeled: i32,
    pub(crate) ready: i32,
    pub(crate) available: i32,
    pub(crate) terminating: i32,
    /// When the next ready pod becomes available.
    pub(crate) next_available_at: Option<Timestamp>,
    /// Why pods could not be created: reason and message of the ReplicaFailure condition.
    pub(crate) failure: Option<(&'static str, String)>,
}

/// What failed since the count was last right.
#[derive(Debug, Default)]
pub struct Memory {
    failure: Option<(&'static str, String)>,
}

impl Memory {
    pub(crate) fn note(&mut self, failure: &Failure) {
        if failure.resource.kind == "Pod" {
            let reason = if failure.create { "FailedCreate" } else { "FailedDelete" };
            self.failure = Some((reason, failure.message.clone()));
        }
    }
}

/// Pods that belong to the owner, after adopting and releasing; the actions for the latter.
pub(crate) fn claim(
    view: &View,
    owner: &OwnerReference,
    owner_metadata: &ObjectMeta,
    selector: &Selector,
) -> (Vec<Arc<Pod>>, Vec<Action>) {
    let mut claimed = Vec::new();
    let mut actions = Vec::new();
    let namespace = meta::namespace(owner_metadata);
    for pod in view.pods.controlled_by(&owner.uid) {
        if selector.matches(pod.metadata.labels.as_ref()) {
            claimed.push(pod.clone());
        } else if !meta::is_deleting(owner_metadata) && !meta::is_deleting(&pod.metadata) {
            actions.push(Action::patch(&**pod, "", meta::releasing_patch(&owner.uid, &pod.metadata)));
        }
    }
    if !meta::is_deleting(owner_metadata) {
        for pod in view.pods.orphans(namespace) {
            if pods::is_active(pod) && selector.matches(pod.metadata.labels.as_ref()) {
                actions.push(Action::patch_unchanged(&**pod, "", meta::adopting_patch(owner, &pod.metadata)));
                claimed.push(pod.clone());
            }
        }
    }
    (claimed, actions)
}

/// Compares what is wanted with what is there.
pub(crate) fn reconcile<K: Resource + Metadata<Ty = ObjectMeta>>(
    view: &View,
    object: &K,
    wanted: &Wanted<'_>,
    memory: &mut Memory,
    now: Timestamp,
) -> (Vec<Action>, Counts) {
    let owner = meta::controller_reference(object);
    let metadata = object.metadata();
    let (claimed, mut actions) = claim(view, &owner, metadata, &wanted.selector);
    let terminating =
        claimed.iter().filter(|pod| meta::is_deleting(&pod.metadata) && !scheduler::is_terminal(pod)).count();
    // Of some there may be one at a time: an ending one takes its place until it has ended.
    let still_there = claimed.iter().filter(|pod| {
        meta::is_deleting(&pod.metadata) && !scheduler::is_terminal(pod) && pods::is_at_most_once(view, pod)
    });
    let still_there = still_there.count();
    let active: Vec<Arc<Pod>> = claimed.into_iter().filter(|pod| pods::is_active(pod)).collect();
    let desired = usize::try_from(wanted.replicas).unwrap_or(0);
    if active.len() == desired {
        memory.failure = None;
    }
    if !meta::is_deleting(metadata) {
        if active.len() < desired {
            let missing = (desired - active.len()).saturating_sub(still_there).min(BURST_MAX);
            actions.extend(create_actions(object, &owner, wanted.template, missing));
        } else if active.len() > desired {
            let surplus = (active.len() - desired).min(BURST_MAX);
            actions.extend(delete_actions(view, object, &active, surplus, now));
        }
    }
    let mut counts = count(&active, wanted, now);
    counts.terminating = i32::try_from(terminating).unwrap_or(i32::MAX);
    counts.failure = memory.failure.clone();
    (actions, counts)
}

fn create_actions<'a, K: Resource + Metadata<Ty = ObjectMeta>>(
    object: &'a K,
    owner: &'a OwnerReference,
    template: Option<&'a PodTemplateSpec>,
    missing: usize,
) -> impl Iterator<Item = Action> + use<'a, K> {
    let pod = template.map(|template| pods::from_template(template, meta::namespace(object.metadata()), owner.clone()));
    pod.into_iter().flat_map(move |pod| {
        let create = Action::create(&pod).with_events(
            Some(Event::normal(object, "SuccessfulCreate", "Created pod: {name}")),
            Some(Event::warning(object, "FailedCreate", "Error creating: {error}")),
        );
        std::iter::repeat_n(create.action(), missing)
    })
}

fn delete_actions<K: Resource + Metadata<Ty = ObjectMeta>>(
    view: &View,
    object: &K,
    active: &[Arc<Pod>],
    surplus: usize,
    now: Timestamp,
) -> Vec<Action> {
    let ranked = rank_for_deletion(active, &pods_per_node(view, object, active), now);
    let deletion = |pod: &Arc<Pod>| {
        let name = meta::name(&pod.metadata);
        Action::delete_with_events(
            &**pod,
            Some(Event::normal(object, "SuccessfulDelete", format!("Deleted pod: {name}"))),
            Some(Event::warning(object, "FailedDelete", "Error deleting: {error}")),
        )
    };
    ranked.iter().take(surplus).map(deletion).collect()
}

/// How many active pods of the owner and its siblings (owners with the same controller) are on each node.
fn pods_per_node<K: Resource + Metadata<Ty = ObjectMeta>>(
    view: &View,
    object: &K,
    active: &[Arc<Pod>],
) -> HashMap<String, usize> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    let parent = meta::controller_of(object.metadata());
    let siblings = parent.into_iter().flat_map(|parent| view.replica_sets.controlled_by(&parent.uid));
    let mut related: Vec<&Arc<Pod>> =
        siblings.flat_map(|sibling| view.pods.controlled_by(meta::uid(&sibling.metadata))).collect();
    if parent.is_none() {
        related.extend(active);
    }
    for pod in related.into_iter().filter(|pod| pods::is_active(pod)) {
        *counts.entry(pods::node_name(pod).to_owned()).or_default() += 1;
    }
    counts
}

/// Orders pods so that those whose loss matters least come first, by upstream's rules.
fn rank_for_deletion(active: &[Arc<Pod>], pods_per_node: &HashMap<String, usize>, now: Timestamp) -> Vec<Arc<Pod>> {
    // Ages are compared on a logarithmic scale, so that pods of about the same age are chosen without bias.
    let magnitude = |at: Option<Timestamp>| {
        at.map_or(0, |at| {
            u64::try_from(now.duration_since(at).as_secs()).unwrap_or(0).checked_ilog2().map_or(0, |log| log + 1)
        })
    };
    let mut ranked: Vec<Arc<Pod>> = active.to_vec();
    ranked.sort_by_cached_key(|pod| {
        let assigned = !pods::node_name(pod).is_empty();
        let phase = match pods::phase(pod) {
            "Pending" => 0,
            "Unknown" => 1,
            _ => 2,
        };
        let cost: i32 = meta::annotation(&pod.metadata, "controller.kubernetes.io/pod-deletion-cost")
            .and_then(|cost| cost.parse().ok())
            .unwrap_or(0);
        let crowd = pods_per_node.get(pods::node_name(pod)).copied().unwrap_or(0);
        let ready = pods::is_ready(pod);
        let ready_age = if ready { magnitude(pods::ready_since(pod)) } else { 0 };
        let age = magnitude(pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        (
            assigned,
            phase,
            ready,
            cost,
            Reverse(crowd),
            ready_age,
            Reverse(pods::restarts(pod)),
            age,
            pod.metadata.uid.clone(),
        )
    });
    ranked
}

fn count(active: &[Arc<Pod>], wanted: &Wanted<'_>, now: Timestamp) -> Counts {
    let template_labels =
        wanted.template.and_then(|template| template.metadata.as_ref()).and_then(|metadata| metadata.labels.clone());
    let template_selector = Selector::from_labels(&template_labels.unwrap_or_default());
    let mut counts = Counts::default();
    for pod in active {
        counts.replicas += 1;
        counts.fully_labeled += i32::from(template_selector.matches(pod.metadata.labels.as_ref()));
        counts.ready += i32::from(pods::is_ready(pod));
        if let Some(at) = pods::available_at(pod, wanted.min_ready_seconds) {
            if at <= now {
                counts.available += 1;
            } else {
                counts.next_available_at = Some(counts.next_available_at.map_or(at, |known| known.min(at)));
            }
        }
    }
    counts
}
