//! A whole cluster in memory: a store that behaves like the API, a node that runs pods, and any set of controllers.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use klynge_controllers::{Action, Change, Controller, Event, Failure, Key, Plan, Resource, Seen, Typed, View};
use serde_json::{Value, json};

type Address = (String, String, String);

pub(crate) struct Cluster {
    pub(crate) objects: BTreeMap<Address, Value>,
    pub(crate) view: View,
    pub(crate) now: Timestamp,
    pub(crate) events: Vec<Event>,
    /// Images whose containers never become ready, or fail, or succeed at once.
    pub(crate) never_ready: BTreeSet<String>,
    pub(crate) failing: BTreeSet<String>,
    pub(crate) succeeding: BTreeSet<String>,
    /// Creates of these kinds are refused.
    pub(crate) refuse_create: BTreeSet<String>,
    /// The largest number of pods that existed, and the smallest number that were ready, since last reset.
    pub(crate) pods_seen_max: usize,
    pub(crate) ready_seen_min: usize,
    /// Nodes that nobody hears: what is bound to them does not change.
    pub(crate) unreachable: BTreeSet<String>,
    runners: Vec<Box<dyn Runner>>,
    revision: u64,
    next_id: u64,
}

trait Runner {
    fn offer(&mut self, view: &View, change: Change<'_>);
    fn seen(&mut self, view: &View, node: &str);
    fn wake(&mut self, now: Timestamp);
    fn plan(&mut self, view: &View, now: Timestamp) -> Option<(Key, Plan)>;
    fn failed(&mut self, key: &Key, failure: &Failure);
    fn next_wake(&self) -> Option<Timestamp>;
}

struct Adapter<C: Controller> {
    memory: HashMap<Key, C::Memory>,
    queue: BTreeSet<Key>,
    timers: BTreeMap<Key, Timestamp>,
}

impl<C: Controller> Runner for Adapter<C> {
    fn offer(&mut self, view: &View, change: Change<'_>) {
        self.queue.extend(C::keys(view, change));
    }

    fn seen(&mut self, view: &View, node: &str) {
        self.queue.extend(C::seen(view, node));
    }

    fn wake(&mut self, now: Timestamp) {
        let due: Vec<Key> = self.timers.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            self.timers.remove(&key);
            self.queue.insert(key);
        }
    }

    fn plan(&mut self, view: &View, now: Timestamp) -> Option<(Key, Plan)> {
        let key = self.queue.pop_first()?;
        let plan = C::plan(view, &key, self.memory.entry(key.clone()).or_default(), now);
        match plan.requeue_at {
            Some(at) => self.timers.insert(key.clone(), at),
            None => self.timers.remove(&key),
        };
        Some((key, plan))
    }

    fn failed(&mut self, key: &Key, failure: &Failure) {
        C::failed(self.memory.entry(key.clone()).or_default(), failure);
        self.queue.insert(key.clone());
    }

    fn next_wake(&self) -> Option<Timestamp> {
        self.timers.values().min().copied()
    }
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self {
            objects: BTreeMap::new(),
            view: View::default(),
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            events: Vec::new(),
            never_ready: BTreeSet::new(),
            failing: BTreeSet::new(),
            succeeding: BTreeSet::new(),
            refuse_create: BTreeSet::new(),
            pods_seen_max: 0,
            ready_seen_min: usize::MAX,
            unreachable: BTreeSet::new(),
            runners: Vec::new(),
            revision: 0,
            next_id: 0,
        }
    }

    pub(crate) fn with<C: Controller>(mut self) -> Self {
        self.runners.push(Box::new(Adapter::<C> {
            memory: HashMap::new(),
            queue: BTreeSet::new(),
            timers: BTreeMap::new(),
        }));
        self
    }

    /// Heartbeats tell this of a node.
    pub(crate) fn see(&mut self, node: &str, seen: Seen) {
        Arc::make_mut(&mut self.view.settings.seen).insert(node.into(), seen);
        for runner in &mut self.runners {
            runner.seen(&self.view, node);
        }
    }

    pub(crate) fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(kind.into(), namespace.into(), name.into()))
    }

    pub(crate) fn all(&self, kind: &str) -> Vec<&Value> {
        self.objects.iter().filter(|((known, ..), _)| known == kind).map(|(_, object)| object).collect()
    }

    pub(crate) fn messages(&self) -> Vec<String> {
        self.events.iter().map(|event| format!("{}: {}", event.reason, event.message)).collect()
    }

    /// Stores an object as a client would; its kind stands in the object.
    pub(crate) fn apply(&mut self, mut object: Value) {
        let kind = object["kind"].as_str().unwrap().to_owned();
        let address = address(&kind, &object);
        if let Some(old) = self.objects.get(&address) {
            let mut metadata = old["metadata"].clone();
            merge(&mut metadata, &object["metadata"]);
            object["metadata"] = metadata;
            if object["spec"] != old["spec"] {
                object["metadata"]["generation"] = json!(old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
            }
            if object.get("status").is_none() && old.get("status").is_some() {
                object["status"] = old["status"].clone();
            }
        } else {
            self.next_id += 1;
            object["metadata"]["uid"] = json!(format!("uid-{:04}", self.next_id));
            object["metadata"]["generation"] = json!(1);
            if object["metadata"]["creationTimestamp"].is_null() {
                object["metadata"]["creationTimestamp"] = json!(self.now);
            }
        }
        self.store(address, object);
    }

    pub(crate) fn change(&mut self, kind: &str, namespace: &str, name: &str, patch: Value) {
        let mut object =
            self.get(kind, namespace, name).unwrap_or_else(|| panic!("no {kind} {namespace}/{name}")).clone();
        merge(&mut object, &patch);
        self.apply(object);
    }

    fn store(&mut self, address: Address, mut object: Value) {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let finalizers = object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        let graceful = address.0 == "Pod" || address.0 == "Namespace";
        if !object["metadata"]["deletionTimestamp"].is_null() && finalizers && !graceful {
            self.remove(&address);
            return;
        }
        let typed = Typed::decode_kind(&address.0, object.to_string().as_bytes())
            .unwrap()
            .unwrap_or_else(|error| panic!("{error}: {object}"));
        self.objects.insert(address, object);
        let old = self.view.set(&typed);
        self.offer(old.as_ref(), Some(&typed));
    }

    fn remove(&mut self, address: &Address) {
        self.objects.remove(address);
        if let Some(old) = self.view.remove(&address.0, &Key::new(&*address.1, &*address.2)) {
            self.offer(Some(&old), None);
        }
    }

    fn offer(&mut self, old: Option<&Typed>, new: Option<&Typed>) {
        for runner in &mut self.runners {
            runner.offer(&self.view, Change { old, new });
        }
    }

    pub(crate) fn delete(&mut self, kind: &str, namespace: &str, name: &str) {
        self.delete_at(&(kind.into(), namespace.into(), name.into()), None);
    }

    fn delete_at(&mut self, address: &Address, finalizer: Option<&str>) {
        let Some(mut object) = self.objects.get(address).cloned() else { return };
        if object["metadata"]["deletionTimestamp"].is_null() {
            object["metadata"]["deletionTimestamp"] = json!(self.now);
        }
        if let Some(finalizer) = finalizer {
            let mut finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            finalizers.push(json!(finalizer));
            object["metadata"]["finalizers"] = json!(finalizers);
        }
        if address.0 == "Namespace" {
            object["status"]["phase"] = json!("Terminating");
            if object["spec"]["finalizers"].as_array().is_some_and(Vec::is_empty) {
                return self.remove(address);
            }
        }
        self.store(address.clone(), object);
    }

    /// Carries out an action; what the API would refuse is a failure.
    fn commit(&mut self, action: Action) -> Result<(), Failure> {
        match action {
            Action::Create(create) => {
                let failure = |reason: &str| Failure {
                    resource: create.resource.clone(),
                    create: true,
                    reason: reason.into(),
                    message: reason.into(),
                };
                let mut object = create.object.clone();
                if self.refuse_create.contains(&create.resource.kind) {
                    self.tell(create.on_failure.clone(), "", "Forbidden");
                    return Err(failure("Forbidden"));
                }
                if let Some(prefix) =
                    object["metadata"]["generateName"].as_str().filter(|_| object["metadata"]["name"].is_null())
                {
                    self.next_id += 1;
                    object["metadata"]["name"] = json!(format!("{prefix}{:05}", self.next_id));
                }
                object["kind"] = json!(create.resource.kind);
                let address = address(&create.resource.kind, &object);
                if self.objects.contains_key(&address) {
                    return if create.exists_is_success { Ok(()) } else { Err(failure("AlreadyExists")) };
                }
                self.tell(create.on_success.clone(), &address.2, "");
                self.apply(object);
                Ok(())
            }
            Action::Sign { request, .. } => {
                let mut signed = *request;
                signed.status.get_or_insert_default().certificate = Some(k8s_openapi::ByteString(b"signed".to_vec()));
                self.commit(Action::update_status(&signed))
            }
            Action::Update { target, subresource, object, on_success } => {
                let address = (target.resource.kind.clone(), target.namespace.clone(), target.name.clone());
                let Some(old) = self.objects.get(&address).cloned() else {
                    return Err(conflict(&target.resource, "NotFound"));
                };
                if old["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
                    return Err(conflict(&target.resource, "Conflict"));
                }
                let mut new = if subresource.is_empty() { object.clone() } else { old.clone() };
                if subresource.is_empty() {
                    new["status"] = old["status"].clone();
                    if new["spec"] != old["spec"] {
                        new["metadata"]["generation"] = json!(old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
                    }
                } else if subresource == "finalize" {
                    new["spec"] = object["spec"].clone();
                } else {
                    new["status"] = object["status"].clone();
                }
                new["kind"] = json!(target.resource.kind);
                if subresource == "finalize" && new["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty) {
                    self.remove(&address);
                    return Ok(());
                }
                if new != old {
                    self.store(address, new);
                }
                self.tell(on_success, "", "");
                Ok(())
            }
            Action::Patch { target, precondition, patch, .. } => {
                let address = (target.resource.kind.clone(), target.namespace.clone(), target.name.clone());
                let Some(old) = self.objects.get(&address).cloned() else {
                    return Err(conflict(&target.resource, "NotFound"));
                };
                let stale = !precondition.resource_version.is_empty()
                    && old["metadata"]["resourceVersion"] != precondition.resource_version.as_str();
                if stale || !precondition.uid.is_empty() && old["metadata"]["uid"] != precondition.uid.as_str() {
                    return Err(conflict(&target.resource, "Conflict"));
                }
                let mut new = old.clone();
                merge(&mut new, &patch);
                if new["spec"] != old["spec"] {
                    new["metadata"]["generation"] = json!(old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
                }
                if new != old {
                    self.store(address, new);
                }
                Ok(())
            }
            Action::Delete {
                target,
                precondition,
                grace_period_seconds,
                propagation,
                unless_present,
                on_success,
                ..
            } => {
                let present = |(target, uid): &(klynge_controllers::Target, String)| {
                    self.get(&target.resource.kind, &target.namespace, &target.name)
                        .is_some_and(|object| object["metadata"]["uid"] == uid.as_str())
                };
                if unless_present.iter().any(present) {
                    return Ok(());
                }
                let address = (target.resource.kind.clone(), target.namespace.clone(), target.name.clone());
                let Some(old) = self.objects.get(&address) else { return Ok(()) };
                if !precondition.uid.is_empty() && old["metadata"]["uid"] != precondition.uid.as_str() {
                    return Err(conflict(&target.resource, "Conflict"));
                }
                let own_grace = old["spec"]["terminationGracePeriodSeconds"].as_i64();
                if grace_period_seconds.or(own_grace) == Some(0) && address.0 == "Pod" {
                    self.remove(&address);
                    return Ok(());
                }
                let foreground = propagation == Some(klynge_controllers::Propagation::Foreground);
                self.delete_at(&address, foreground.then_some("foregroundDeletion"));
                self.tell(on_success, "", "");
                Ok(())
            }
            Action::Event(event) => {
                self.events.push(event);
                Ok(())
            }
        }
    }

    fn tell(&mut self, event: Option<Event>, name: &str, error: &str) {
        if let Some(mut event) = event {
            event.message = event.message.replace("{name}", name).replace("{error}", error);
            self.events.push(event);
        }
    }

    /// One round: every controller empties its queue once, then the node acts. `false` if nothing was left to do.
    pub(crate) fn step(&mut self) -> bool {
        let before = self.revision;
        let mut planned = false;
        for index in 0..self.runners.len() {
            self.runners[index].wake(self.now);
            for _ in 0..1000 {
                let (view, now) = (&self.view, self.now);
                let Some((key, plan)) = self.runners[index].plan(view, now) else { break };
                planned |= !plan.actions.is_empty();
                let mut creating = true;
                for action in plan.actions {
                    if matches!(action, Action::Create(_)) && !creating {
                        continue;
                    }
                    if let Err(failure) = self.commit(action) {
                        creating &= !failure.create;
                        self.runners[index].failed(&key, &failure);
                    }
                }
                self.watch_counts();
                if self.revision > before + 5000 {
                    panic!("a controller does not settle: {key:?}");
                }
            }
        }
        self.run_pods();
        self.watch_counts();
        planned || self.revision != before
    }

    /// Runs until nothing changes any more.
    pub(crate) fn settle(&mut self) {
        for _ in 0..200 {
            if !self.step() {
                return;
            }
        }
        panic!(
            "the cluster does not settle; last events: {:?}",
            self.messages().iter().rev().take(10).collect::<Vec<_>>()
        );
    }

    /// Lets time pass, waking whoever asked to be woken on the way.
    pub(crate) fn pass(&mut self, seconds: i64) {
        let end = self.now + SignedDuration::from_secs(seconds);
        for _ in 0..1000 {
            let next = self.runners.iter().filter_map(|runner| runner.next_wake()).min().filter(|at| *at <= end);
            self.now = next.unwrap_or(end).max(self.now);
            for runner in &mut self.runners {
                runner.wake(self.now);
            }
            self.settle();
            if self.now >= end {
                return;
            }
        }
        panic!("timers do not come to rest");
    }

    fn watch_counts(&mut self) {
        let pods = self.all("Pod");
        let live = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let ready = live.clone().filter(|pod| ready(pod)).count();
        let live = live.count();
        self.pods_seen_max = self.pods_seen_max.max(live);
        self.ready_seen_min = self.ready_seen_min.min(ready);
    }

    /// The node: binds, runs, finishes and removes pods.
    fn run_pods(&mut self) {
        let pods: Vec<(Address, Value)> = self
            .objects
            .iter()
            .filter(|((kind, ..), _)| kind == "Pod")
            .map(|(address, pod)| (address.clone(), pod.clone()))
            .collect();
        for (address, mut pod) in pods {
            if pod["spec"]["nodeName"].as_str().is_some_and(|node| self.unreachable.contains(node)) {
                continue;
            }
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                if pod["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty) {
                    self.remove(&address);
                } else if pod["status"]["phase"] == "Running" {
                    pod["status"]["phase"] = json!("Failed");
                    self.store(address, pod);
                }
                continue;
            }
            if !pod["status"]["phase"].is_null() && pod["status"]["phase"] != "Pending" {
                continue;
            }
            let image = pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned();
            if pod["spec"]["nodeName"].is_null() {
                let terms = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
                    ["nodeSelectorTerms"];
                let pinned = terms[0]["matchFields"][0]["values"][0].as_str();
                pod["spec"]["nodeName"] = json!(pinned.unwrap_or("node-a"));
            }
            if self.never_ready.contains(&image) {
                continue;
            }
            let (phase, ready) = if self.failing.contains(&image) {
                ("Failed", "False")
            } else if self.succeeding.contains(&image) {
                ("Succeeded", "False")
            } else {
                ("Running", "True")
            };
            self.next_id += 1;
            pod["status"] = json!({"phase": phase, "podIP": format!("10.0.{}.{}", self.next_id / 250, self.next_id % 250),
                "podIPs": [{"ip": format!("10.0.{}.{}", self.next_id / 250, self.next_id % 250)}],
                "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": self.now}]});
            self.store(address, pod);
        }
    }
}

fn conflict(resource: &Resource, reason: &str) -> Failure {
    Failure { resource: resource.clone(), create: false, reason: reason.into(), message: reason.into() }
}

fn address(kind: &str, object: &Value) -> Address {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    (kind.to_owned(), text("namespace"), text("name"))
}

pub(crate) fn ready(pod: &Value) -> bool {
    pod["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// RFC 7386.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    if let Value::Object(target) = target {
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }
}

pub(crate) fn condition<'a>(object: &'a Value, condition_type: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == condition_type)
}
