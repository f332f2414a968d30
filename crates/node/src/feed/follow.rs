//! Follows Services and EndpointSlices and keeps the data plane to them; what was known is kept on the disk, so that a
//! restarted node balances and answers before, and without, the API.

use super::announcements::{Announcing, Assignments};
use super::checkpoint;
use super::health::HealthChecks;
use super::topology::Place;
use super::translate::{ServiceObjects, View, dns_service, linked_service, service_state};
use super::vigil::Absent;
use crate::agent::{Change, ServiceLinks, Serving, follow};
use client::{ClusterClient, Query, Target};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use network::announce::Conflicts;
use network::services::{ServiceKey, ServiceState};
use object::GroupVersionResource;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// How long after a change the checkpoint is written; changes meanwhile go into the same one.
const CHECKPOINT_AFTER: Duration = Duration::from_secs(2);
const VERSION: u32 = 1;

/// Who is told.
pub struct Sinks {
    /// Load balancing.
    pub services: Option<network::services::Handle>,
    /// Announces addresses of load balancers.
    pub announcing: Option<Announcing>,
    /// Cluster DNS.
    pub dns: Option<Arc<network::dns::process::Handle>>,
    /// Which of this node's pods get new connections.
    pub serving: Arc<Serving>,
    /// Environment variables of pods.
    pub links: Box<dyn Fn(Arc<ServiceLinks>) + Send + Sync>,
}

/// The feed.
pub struct Feed {
    view: View,
    sinks: Sinks,
    checkpoint: PathBuf,
    objects: BTreeMap<(String, String), ServiceObjects>,
    health: HealthChecks,
    assignments: Assignments,
}

#[derive(Default, Serialize, Deserialize)]
struct Saved {
    version: u32,
    /// The node's zone, as it was last known.
    #[serde(default)]
    zone: String,
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
}

type Key = (String, String);

fn key_of_slice(slice: &EndpointSlice) -> Option<Key> {
    let service = slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name")?;
    Some((slice.metadata.namespace.clone()?, service.clone()))
}

fn key_of_service(service: &Service) -> Key {
    (service.metadata.namespace.clone().unwrap_or_default(), service.metadata.name.clone().unwrap_or_default())
}

pub(super) fn target(group: &str, resource: &str) -> Target {
    Target {
        resource: GroupVersionResource::new(group, "v1", resource),
        namespace: Default::default(),
        name: Default::default(),
        subresource: Default::default(),
    }
}

impl Feed {
    /// Reads the checkpoint and tells the data plane what it holds.
    #[must_use]
    pub fn new(node: String, sinks: Sinks, checkpoint: PathBuf) -> Self {
        let view = View { place: Place { node, zone: String::new() }, ..View::default() };
        let mut feed = Feed {
            view,
            sinks,
            checkpoint,
            objects: BTreeMap::new(),
            health: HealthChecks::default(),
            assignments: Assignments::default(),
        };
        let saved = std::fs::read(&feed.checkpoint).ok().and_then(|bytes| serde_json::from_slice::<Saved>(&bytes).ok());
        // A checkpoint of another version is only a cache: it is not used.
        for saved in saved.into_iter().filter(|saved| saved.version == VERSION) {
            feed.view.place.zone = saved.zone;
            for service in saved.services {
                let key = key_of_service(&service);
                feed.objects.entry(key).or_default().service = Some(Arc::new(service));
            }
            for slice in saved.slices {
                if let Some(key) = key_of_slice(&slice) {
                    let name = slice.metadata.name.clone().unwrap_or_default();
                    feed.objects.entry(key).or_default().slices.insert(name, Arc::new(slice));
                }
            }
        }
        if !feed.objects.is_empty() {
            feed.tell_all();
        }
        feed
    }

    fn tell_all(&mut self) {
        let key = |key: &Key| ServiceKey::new(key.0.clone(), key.1.clone());
        if let Some(services) = &self.sinks.services {
            let all: HashMap<ServiceKey, Arc<ServiceState>> = self
                .objects
                .iter()
                .filter_map(|(name, objects)| {
                    service_state(objects, &self.view).map(|state| (key(name), Arc::new(state)))
                })
                .collect();
            self.health.retain(&all.keys().cloned().collect());
            for (key, state) in &all {
                self.health.update(key, Some(state));
            }
            if let Err(error) = services.replace(all) {
                tracing::error!(%error, "Services could not be programmed");
            }
        }
        if let Some(dns) = &self.sinks.dns {
            dns.replace(
                self.objects
                    .iter()
                    .filter_map(|(name, objects)| dns_service(objects, &self.view).map(|one| (key(name), one))),
            );
        }
        let services = self.objects.iter().filter_map(|(key, objects)| Some((key, objects.service.as_deref()?)));
        self.assignments = Assignments::of(services, &self.view.place.node);
        self.announce();
        let serving = self.objects.iter().map(|(name, objects)| (name.clone(), self.serving(objects)));
        self.sinks.serving.replace(serving.filter(|(_, uids)| !uids.is_empty()).collect());
        self.tell_links();
    }

    /// The uids of this node's pods that a Service leads new connections to.
    fn serving(&self, objects: &ServiceObjects) -> BTreeSet<String> {
        let endpoints = objects.slices.values().flat_map(|slice| slice.endpoints.iter().flatten());
        let here = endpoints.filter(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
            let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
            ready && !terminating && endpoint.node_name.as_ref() == Some(&self.view.place.node)
        });
        here.filter_map(|endpoint| endpoint.target_ref.as_ref()?.uid.clone()).collect()
    }

    fn tell(&mut self, changed: &Key) {
        let key = ServiceKey::new(changed.0.clone(), changed.1.clone());
        let none = ServiceObjects::default();
        let objects = self.objects.get(changed).unwrap_or(&none);
        self.sinks.serving.set(changed, self.serving(objects));
        if self.assignments.update(changed, objects.service.as_deref(), &self.view.place.node) {
            self.announce();
        }
        if let Some(dns) = &self.sinks.dns {
            dns.update(&key, dns_service(objects, &self.view));
        }
        if let Some(services) = &self.sinks.services {
            let state = service_state(objects, &self.view);
            self.health.update(&key, state.as_ref());
            if let Err(error) = services.update(key, state.map(Arc::new)) {
                tracing::error!(%error, "a Service could not be programmed");
            }
        }
    }

    fn announce(&self) {
        if let Some(announcing) = &self.sinks.announcing {
            announcing.set(&self.assignments);
        }
    }

    fn tell_links(&self) {
        let mut links = ServiceLinks::default();
        for ((namespace, name), objects) in &self.objects {
            let Some(linked) = objects.service.as_deref().and_then(linked_service) else { continue };
            if namespace == "default" && name == "kubernetes" {
                links.api = Some(linked);
            } else {
                links.by_namespace.entry(namespace.clone()).or_default().push(linked);
            }
        }
        (self.sinks.links)(Arc::new(links));
    }

    /// Follows the API until the process ends. `absent`: nodes that are given no connections for now.
    pub(crate) async fn run(mut self, client: Arc<dyn ClusterClient>, mut absent: watch::Receiver<Absent>) {
        let (service_sender, mut services) = mpsc::channel(256);
        let (slice_sender, mut slices) = mpsc::channel(256);
        // They end with this future.
        let mut following = JoinSet::new();
        let (service_client, service_target) = (Arc::clone(&client), target("", "services"));
        following.spawn(follow::<Service>(service_client, service_target, Query::default(), service_sender));
        let slice_target = target("discovery.k8s.io", "endpointslices");
        let slice_client = Arc::clone(&client);
        following.spawn(follow::<EndpointSlice>(slice_client, slice_target, Query::default(), slice_sender));
        let (node_sender, mut nodes) = mpsc::channel(16);
        let own = Query { fields: format!("metadata.name={}", self.view.place.node), ..Query::default() };
        following.spawn(follow::<Node>(client, target("", "nodes"), own, node_sender));
        let mut dirty = false;
        let mut first = (false, false);
        let mut conflicts = self.sinks.announcing.as_ref().map(Announcing::conflicts);
        loop {
            tokio::select! {
                biased;
                Some(change) = services.recv() => {
                    first.0 |= matches!(change, Change::All(_));
                    self.take_service(change, first == (true, true));
                    dirty = true;
                }
                Some(change) = slices.recv() => {
                    first.1 |= matches!(change, Change::All(_));
                    self.take_slice(change, first == (true, true));
                    dirty = true;
                }
                Ok(()) = absent.changed() => {
                    let now = Arc::clone(&absent.borrow_and_update());
                    self.take_absent(now);
                }
                Some(change) = nodes.recv() => dirty |= self.take_node(change, first == (true, true)),
                found = changed(&mut conflicts) => {
                    let services = self.objects.values().filter_map(|objects| objects.service.as_deref());
                    if let Some(announcing) = &self.sinks.announcing {
                        announcing.tell_conflicts(&found, services, &self.view.place.node);
                    }
                }
                () = tokio::time::sleep(CHECKPOINT_AFTER), if dirty => {
                    dirty = false;
                    self.save().await;
                }
            }
        }
    }

    /// Our own Node; whether it has come to another zone.
    fn take_node(&mut self, change: Change<Node>, complete: bool) -> bool {
        let node = match change {
            Change::All(nodes) => nodes.into_iter().next(),
            Change::Put(node) => Some(node),
            Change::Gone(_) => None,
        };
        // Without a Node the place stays: it comes back, and its pods are where they were.
        let Some(place) = node.map(|node| Place::of(&node)).filter(|place| *place != self.view.place) else {
            return false;
        };
        self.view.place = place;
        if complete {
            self.tell_all();
        }
        true
    }

    /// Other hosts answer, or do not, while no server is heard: the Services with endpoints there are told anew.
    fn take_absent(&mut self, now: Absent) {
        let before = std::mem::replace(&mut self.view.absent, now);
        let changed: BTreeSet<String> = before.symmetric_difference(&self.view.absent).cloned().collect();
        let is_there = |objects: &ServiceObjects| {
            let mut endpoints = objects.slices.values().flat_map(|slice| slice.endpoints.iter().flatten());
            endpoints.any(|endpoint| endpoint.node_name.as_ref().is_some_and(|node| changed.contains(node)))
        };
        let keys: Vec<Key> = self.objects.iter().filter(|(_, one)| is_there(one)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.tell(&key);
        }
    }

    /// `complete`: both lists have come. Before, a Service would lose the endpoints that the checkpoint knows.
    fn take_service(&mut self, change: Change<Service>, complete: bool) {
        match change {
            Change::All(all) => {
                for objects in self.objects.values_mut() {
                    objects.service = None;
                }
                for service in all {
                    let key = key_of_service(&service);
                    self.objects.entry(key).or_default().service = Some(service);
                }
                self.forget_empty();
                if complete {
                    self.tell_all();
                }
            }
            Change::Put(service) => {
                let key = key_of_service(&service);
                self.objects.entry(key.clone()).or_default().service = Some(service);
                self.tell(&key);
                if complete {
                    self.tell_links();
                }
            }
            Change::Gone(service) => {
                let key = key_of_service(&service);
                self.objects.entry(key.clone()).or_default().service = None;
                self.forget_empty();
                self.tell(&key);
                self.tell_links();
            }
        }
    }

    fn take_slice(&mut self, change: Change<EndpointSlice>, complete: bool) {
        match change {
            Change::All(all) => {
                for objects in self.objects.values_mut() {
                    objects.slices.clear();
                }
                for slice in all {
                    self.put_slice(slice);
                }
                self.forget_empty();
                if complete {
                    self.tell_all();
                }
            }
            Change::Put(slice) => {
                for key in self.put_slice(slice) {
                    self.tell(&key);
                }
            }
            Change::Gone(slice) => {
                let name = slice.metadata.name.clone().unwrap_or_default();
                if let Some(key) = key_of_slice(&slice) {
                    if let Some(objects) = self.objects.get_mut(&key) {
                        objects.slices.remove(&name);
                    }
                    self.forget_empty();
                    self.tell(&key);
                }
            }
        }
    }

    fn put_slice(&mut self, slice: Arc<EndpointSlice>) -> BTreeSet<Key> {
        let Some(key) = key_of_slice(&slice) else { return BTreeSet::new() };
        let name = slice.metadata.name.clone().unwrap_or_default();
        self.objects.entry(key.clone()).or_default().slices.insert(name, slice);
        BTreeSet::from([key])
    }

    fn forget_empty(&mut self) {
        self.objects.retain(|_, objects| objects.service.is_some() || !objects.slices.is_empty());
    }

    async fn save(&self) {
        let services = self.objects.values().filter_map(|objects| objects.service.as_deref().cloned()).collect();
        let slices =
            self.objects.values().flat_map(|objects| objects.slices.values().map(|slice| (**slice).clone())).collect();
        let saved = Saved { version: VERSION, zone: self.view.place.zone.clone(), services, slices };
        let path = self.checkpoint.clone();
        let written = tokio::task::spawn_blocking(move || checkpoint::write(&path, &saved)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "the services' checkpoint could not be written");
        }
    }
}

/// The conflicts of announced addresses, when they change.
async fn changed(conflicts: &mut Option<watch::Receiver<Conflicts>>) -> Conflicts {
    if let Some(receiver) = conflicts
        && receiver.changed().await.is_ok()
    {
        return receiver.borrow_and_update().clone();
    }
    std::future::pending().await
}
