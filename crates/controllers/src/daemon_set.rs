//! DaemonSet: one pod on every node that is meant.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint,
    Toleration,
};
use scheduler::predicate;
use scheduler::selector::Selector;

use crate::action::{Action, Event, Plan};
use crate::controller::{Change, Controller};
use crate::history::{self, History, REVISION_HASH};
use crate::meta;
use crate::pods;
use crate::replicas;
use crate::view::{Key, Typed, View};

/// At most so many pods are created or deleted in one plan.
const BURST_MAX: usize = 250;

/// The DaemonSet controller.
#[derive(Debug)]
pub struct DaemonSetController;

impl Controller for DaemonSetController {
    const NAME: &'static str = "daemon-set-controller";
    const COMPONENT: &'static str = "daemonset-controller";
    type Memory = ();

    fn keys(view: &View, change: Change<'_>) -> Vec<Key> {
        if let (Some(Typed::Node(old)), Some(Typed::Node(new))) = (change.old, change.new)
            && old.spec == new.spec
            && old.metadata.labels == new.metadata.labels
        {
            return Vec::new();
        }
        let mut keys = Vec::new();
        for side in change.sides() {
            match side {
                Typed::DaemonSet(set) => keys.push(Key::of(&set.metadata)),
                Typed::Node(_) => keys.extend(view.daemon_sets.all().map(|set| Key::of(&set.metadata))),
                Typed::ControllerRevision(revision) => {
                    let owner = meta::controller_of(&revision.metadata).filter(|owner| owner.kind == "DaemonSet");
                    keys.extend(owner.map(|owner| Key::new(meta::namespace(&revision.metadata), &*owner.name)));
                }
                Typed::Pod(pod) => match meta::controller_of(&pod.metadata) {
                    Some(owner) if owner.kind == "DaemonSet" => {
                        keys.push(Key::new(meta::namespace(&pod.metadata), &*owner.name))
                    }
                    Some(_) => {}
                    None => {
                        let candidates = view.daemon_sets.in_namespace(meta::namespace(&pod.metadata));
                        let matching = candidates
                            .filter(|set| Selector::compile(&set.spec.selector).matches(pod.metadata.labels.as_ref()));
                        keys.extend(matching.map(|set| Key::of(&set.metadata)));
                    }
                },
                _ => {}
            }
        }
        keys
    }

    fn plan(view: &View, key: &Key, _memory: &mut (), now: Timestamp) -> Plan {
        let Some(set) = view.daemon_sets.at(key).filter(|set| !meta::is_deleting(&set.metadata)) else {
            return Plan::nothing();
        };
        let owner = meta::controller_reference(&**set);
        let (claimed, claims) = replicas::claim(view, &owner, &set.metadata, &Selector::compile(&set.spec.selector));
        let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let history = history::history(view, &**set, &set.spec.template, collisions);
        let mut daemon = Daemon {
            view,
            set,
            history,
            by_node: BTreeMap::new(),
            wanted: BTreeSet::new(),
            tolerated: BTreeSet::new(),
            now,
        };
        daemon.sort(&claimed);
        let mut actions = claims;
        actions.append(&mut daemon.history.actions);
        actions.extend(daemon.place());
        if set.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete") {
            let rolling = daemon.roll(actions.len());
            actions.extend(rolling);
        }
        let live: BTreeSet<String> =
            claimed.iter().filter_map(|pod| meta::label(&pod.metadata, REVISION_HASH).map(str::to_owned)).collect();
        actions.extend(daemon.history.clean_up(set.spec.revision_history_limit, &live));
        let mut plan = Plan::of(actions);
        let (status, next) = daemon.status();
        if set.status.as_ref() != Some(&status) {
            plan.actions.push(Action::update_status(&DaemonSet { status: Some(status), ..(**set).clone() }));
        }
        if let Some(at) = next {
            plan.requeue_at(at);
        }
        plan
    }
}

struct Daemon<'a> {
    view: &'a View,
    set: &'a DaemonSet,
    history: History,
    /// The set's pods by the node they are on or meant for.
    by_node: BTreeMap<String, Vec<Arc<Pod>>>,
    /// Nodes that should have a pod.
    wanted: BTreeSet<String>,
    /// Nodes that may keep the pod they have.
    tolerated: BTreeSet<String>,
    now: Timestamp,
}

/// The node that a pod is on, or that its affinity was made for.
fn node_of(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(name) = spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        return Some(name);
    }
    let terms = &predicate::required_terms(spec.affinity.as_ref())?.node_selector_terms;
    let field =
        terms.iter().flat_map(|term| term.match_fields.iter().flatten()).find(|field| field.key == "metadata.name")?;
    field.values.as_ref()?.first().map(String::as_str)
}

/// Upstream's tolerations of every daemon pod: it stays on nodes in trouble, and comes to cordoned ones.
fn daemon_tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut tolerations = spec.tolerations.clone().unwrap_or_default();
    let mut added = vec![
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        (predicate::TAINT_UNSCHEDULABLE, "NoSchedule"),
    ];
    if spec.host_network == Some(true) {
        added.push(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    }
    for (key, effect) in added {
        let toleration = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    tolerations
}

impl Daemon<'_> {
    fn sort(&mut self, claimed: &[Arc<Pod>]) {
        for pod in claimed {
            if let Some(node) = node_of(pod) {
                self.by_node.entry(node.to_owned()).or_default().push(pod.clone());
            }
        }
        let spec = self.set.spec.template.spec.clone().unwrap_or_default();
        let tolerations = daemon_tolerations(&spec);
        for node in self.view.nodes.all() {
            let name = meta::name(&node.metadata).to_owned();
            if !admits(&spec, node) {
                continue;
            }
            let taints: &[Taint] = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
            let untolerated = |effects: &[&str]| predicate::untolerated(taints, Some(&tolerations), effects).is_some();
            if !untolerated(&["NoExecute"]) {
                self.tolerated.insert(name.clone());
                // The not-ready taint of effect NoSchedule does not keep daemons away: their network or storage may be what is missing.
                let startup = |taint: &&Taint| {
                    taint.effect == "NoSchedule"
                        && matches!(
                            taint.key.as_str(),
                            "node.kubernetes.io/not-ready" | "node.kubernetes.io/unreachable"
                        )
                };
                let others: Vec<Taint> = taints.iter().filter(|taint| !startup(taint)).cloned().collect();
                if predicate::untolerated(&others, Some(&tolerations), &["NoSchedule"]).is_none() {
                    self.wanted.insert(name);
                }
            }
        }
    }

    fn is_current(&self, pod: &Pod) -> bool {
        meta::label(&pod.metadata, REVISION_HASH) == Some(&self.history.hash)
    }

    fn max_surge(&self) -> i32 {
        let rolling = self.set.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        meta::scaled_value(rolling.and_then(|rolling| rolling.max_surge.as_ref()), "0", count(self.wanted.len()), true)
    }

    fn max_unavailable(&self) -> i32 {
        let rolling = self.set.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let limit = meta::scaled_value(
            rolling.and_then(|rolling| rolling.max_unavailable.as_ref()),
            "1",
            count(self.wanted.len()),
            true,
        );
        // With neither, no update could take a step.
        if limit == 0 && self.max_surge() == 0 { 1 } else { limit }
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::available_at(pod, self.set.spec.min_ready_seconds.unwrap_or(0)).is_some_and(|at| at <= self.now)
    }

    /// Creates what is missing, deletes what failed, is too many, or is where it should not be.
    fn place(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        for (node, pods) in &self.by_node {
            if !self.tolerated.contains(node) {
                actions.extend(pods.iter().filter(|pod| !meta::is_deleting(&pod.metadata)).map(|pod| self.delete(pod)));
                continue;
            }
            for pod in pods.iter().filter(|pod| scheduler::is_terminal(pod) && !meta::is_deleting(&pod.metadata)) {
                let message = format!(
                    "Found failed daemon pod {}/{} on node {node}, will try to kill it",
                    meta::namespace(&pod.metadata),
                    meta::name(&pod.metadata)
                );
                actions.push(Action::Event(Event::warning(self.set, "FailedDaemonPod", message)));
                actions.push(self.delete(pod));
            }
            let mut active: Vec<&Arc<Pod>> = pods.iter().filter(|pod| pods::is_active(pod)).collect();
            active.sort_by_key(|pod| {
                (pods::node_name(pod).is_empty(), pod.metadata.creation_timestamp.clone(), pod.metadata.name.clone())
            });
            if active.len() > 1 {
                let surges = self.max_surge() > 0;
                let old_and_new =
                    surges && active.len() == 2 && self.is_current(active[0]) != self.is_current(active[1]);
                if !old_and_new {
                    actions.extend(active.iter().skip(1).map(|pod| self.delete(pod)));
                }
            }
        }
        let missing = self.wanted.iter().filter(|node| self.by_node.get(*node).is_none_or(Vec::is_empty));
        actions.extend(missing.map(|node| self.create(node)));
        actions.truncate(BURST_MAX);
        actions
    }

    /// One step of a rolling update, if nothing else is going on.
    fn roll(&self, already_planned: usize) -> Vec<Action> {
        if already_planned > 0 {
            return Vec::new();
        }
        let (max_surge, max_unavailable) = (self.max_surge(), self.max_unavailable());
        let (mut surging, mut unavailable) = (0, 0);
        let mut actions = Vec::new();
        let mut replaceable: Vec<&Arc<Pod>> = Vec::new();
        let mut to_surge: Vec<&String> = Vec::new();
        for node in &self.wanted {
            let pods: Vec<&Arc<Pod>> =
                self.by_node.get(node).into_iter().flatten().filter(|pod| pods::is_active(pod)).collect();
            let old = pods.iter().find(|pod| !self.is_current(pod));
            let new = pods.iter().find(|pod| self.is_current(pod));
            if !pods.iter().any(|pod| self.is_available(pod)) {
                unavailable += 1;
            }
            match (old, new) {
                // What does not serve is replaced at once, beyond any budget.
                (Some(old), None) if !self.is_available(old) => actions.push(self.delete(old)),
                (Some(_), None) if max_surge > 0 => to_surge.push(node),
                (Some(old), None) => replaceable.push(old),
                (Some(old), Some(new)) => {
                    surging += 1;
                    if self.is_available(new) {
                        actions.push(self.delete(old));
                    }
                }
                _ => {}
            }
        }
        let room = usize::try_from(max_unavailable - unavailable).unwrap_or(0);
        actions.extend(replaceable.into_iter().take(room).map(|pod| self.delete(pod)));
        let room = usize::try_from(max_surge - surging).unwrap_or(0);
        actions.extend(to_surge.into_iter().take(room).map(|node| self.create(node)));
        actions.truncate(BURST_MAX);
        actions
    }

    fn delete(&self, pod: &Pod) -> Action {
        let told = Event::normal(self.set, "SuccessfulDelete", format!("Deleted pod: {}", meta::name(&pod.metadata)));
        Action::delete_with_events(
            pod,
            Some(told),
            Some(Event::warning(self.set, "FailedDelete", "Error deleting: {error}")),
        )
    }

    fn create(&self, node: &str) -> Action {
        let mut pod = pods::from_template(
            &self.set.spec.template,
            meta::namespace(&self.set.metadata),
            meta::controller_reference(self.set),
        );
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(REVISION_HASH.into(), self.history.hash.clone());
        let generation =
            meta::annotation(&self.set.metadata, "deprecated.daemonset.template.generation").unwrap_or("1");
        labels.insert("pod-template-generation".into(), generation.to_owned());
        if let Some(spec) = &mut pod.spec {
            spec.tolerations = Some(daemon_tolerations(spec));
            pin(spec, node);
        }
        let create = Action::create(&pod).with_events(
            Some(Event::normal(self.set, "SuccessfulCreate", "Created pod: {name}")),
            Some(Event::warning(self.set, "FailedCreate", "Error creating: {error}")),
        );
        create.action()
    }

    fn status(&self) -> (DaemonSetStatus, Option<Timestamp>) {
        let mut status =
            DaemonSetStatus { observed_generation: self.set.metadata.generation, ..DaemonSetStatus::default() };
        let (mut updated, mut available) = (0, 0);
        let mut next: Option<Timestamp> = None;
        for node in self.view.nodes.all().map(|node| meta::name(&node.metadata)) {
            let pods: Vec<&Arc<Pod>> =
                self.by_node.get(node).into_iter().flatten().filter(|pod| !scheduler::is_terminal(pod)).collect();
            if !self.wanted.contains(node) {
                status.number_misscheduled += i32::from(!pods.is_empty() && !self.tolerated.contains(node));
                continue;
            }
            status.desired_number_scheduled += 1;
            status.current_number_scheduled += i32::from(!pods.is_empty());
            status.number_ready += i32::from(pods.iter().any(|pod| pods::is_ready(pod)));
            updated += i32::from(pods.iter().any(|pod| self.is_current(pod)));
            available += i32::from(pods.iter().any(|pod| self.is_available(pod)));
            let later = pods
                .iter()
                .filter_map(|pod| pods::available_at(pod, self.set.spec.min_ready_seconds.unwrap_or(0)))
                .filter(|at| *at > self.now);
            next = later.chain(next).min();
        }
        let nonzero = |count: i32| (count > 0).then_some(count);
        status.updated_number_scheduled = nonzero(updated);
        status.number_available = nonzero(available);
        status.number_unavailable = nonzero(status.desired_number_scheduled - available);
        let old = self.set.status.as_ref();
        status.collision_count = old.and_then(|status| status.collision_count);
        status.conditions = old.and_then(|status| status.conditions.clone());
        (status, next)
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn admits(spec: &PodSpec, node: &Node) -> bool {
    let name = meta::name(&node.metadata);
    spec.node_name.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == name)
        && predicate::matches_node_affinity(spec, node.metadata.labels.as_ref(), name)
        && !meta::is_deleting(&node.metadata)
}

/// Makes the scheduler bind the pod to this node and no other. The template's own terms have been judged already.
fn pin(spec: &mut PodSpec, node: &str) {
    let field = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity = spec.affinity.get_or_insert_with(Affinity::default);
    let node_affinity = affinity.node_affinity.get_or_insert_with(NodeAffinity::default);
    let term = NodeSelectorTerm { match_fields: Some(vec![field]), match_expressions: None };
    node_affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
}
