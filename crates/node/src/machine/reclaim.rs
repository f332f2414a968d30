//! What is done while the machine is short of memory, disk or process ids, and about pods that take more of the disk than they
//! may: first the node's own things, then one pod at a time (decision 0018).

use super::eviction::{Candidate, Resource, Shortage, choose_victim};
use super::facts::{Facts, Space};
use super::image_collector::ImageThresholds;
use super::local_storage::{Places, Storage, smallest_limit};
use super::register::{Machine, PRESSURES};
use crate::agent::Containers;
use crate::lifecycle::{Container, Phase, PodState, Report, Requests, Severity, Terminal};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodSpec;
use runtime::Reference;
use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// How often images are removed at most while the disk is fuller than wanted, as upstream.
const COLLECT_EVERY: Duration = Duration::from_secs(300);
/// What an evicted pod's containers get to end, as upstream.
const GRACE_SECONDS: i64 = 1;
/// So long the end of an evicted pod is waited for before the next one goes, as upstream.
const EVICTION_LASTS: Duration = Duration::from_secs(30);
/// Every image that is unused and old enough.
const ALL_IMAGES: ImageThresholds = ImageThresholds { high_percent: 0, low_percent: 0 };

/// A pod that is being evicted for the node's sake.
#[derive(Debug)]
pub(super) struct Eviction {
    uid: String,
    since: Instant,
}

/// Whether a pod may be evicted: it is neither over nor being ended.
fn is_active(state: &PodState) -> bool {
    !state.torn_down && state.terminate_by.is_none() && state.terminal.is_none()
}

impl Machine {
    /// Looks at everything that can run short, tells it, and does something about the first of it.
    pub(super) async fn look_after_pressures(&mut self) {
        let thresholds = self.options.thresholds;
        let space = self.space().await;
        let shortages = [
            Facts::available_memory_bytes().and_then(|bytes| thresholds.of_memory(bytes)),
            thresholds.of_disk(space),
            Facts::process_ids().and_then(|(used, most)| thresholds.of_process_ids(used, most)),
        ];
        let shortages: Vec<Shortage> = shortages.into_iter().flatten().collect();
        let now = Instant::now();
        if let Some((severity, reason, message)) = self.conntrack.look(now) {
            self.shared.recorder.node(&self.options.name, severity, reason, message);
        }
        self.pressures.extend(shortages.iter().map(|shortage| (shortage.resource.condition(), now)));
        for (words, why) in self.beside_problems() {
            self.set(words.condition, why.is_some());
        }
        let pressed: Vec<&'static str> = PRESSURES.into_iter().filter(|kind| self.has_pressure(kind)).collect();
        for kind in PRESSURES {
            self.set(kind, pressed.contains(&kind));
        }
        // New pods are refused while a condition holds.
        *self.shared.pressures.write().unwrap_or_else(PoisonError::into_inner) = pressed;
        self.collect_images(space, self.options.image_thresholds).await;
        // As upstream: a pod that took more than it may goes first, and may be all that was wrong.
        let overgrown = self.evict_overgrown(space).await;
        if let Some(shortage) = shortages.first().filter(|_| !overgrown) {
            self.relieve(*shortage).await;
        }
    }

    async fn space(&self) -> Space {
        let path = self.shared.paths.data.clone();
        self.shared.tasks.blocking(move || Space::of(&path)).await.ok().flatten().unwrap_or_default()
    }

    /// Takes back what the node itself can spare, and evicts a pod where that is not enough.
    async fn relieve(&mut self, shortage: Shortage) {
        if let Some(Eviction { uid, since }) = &self.eviction {
            let is_over = |state: &PodState| state.pod.metadata.uid.as_ref() != Some(uid) || state.torn_down;
            if since.elapsed() < EVICTION_LASTS && !self.registry.all().iter().all(|state| is_over(state)) {
                return;
            }
        }
        self.eviction = None;
        let name = shortage.resource.name();
        let message = format!("Attempting to reclaim {name}");
        self.shared.recorder.node(&self.options.name, Severity::Warning, "EvictionThresholdMet", message);
        let mut shortage = shortage;
        if matches!(shortage.resource, Resource::EphemeralStorage | Resource::Inodes) {
            self.remove_logs_of_ended_pods().await;
            let thresholds = self.options.thresholds;
            if thresholds.of_disk(self.space().await).is_some() {
                self.collect_images(self.space().await, ALL_IMAGES).await;
            }
            match thresholds.of_disk(self.space().await) {
                Some(left) => shortage = left,
                None => return,
            }
        }
        let candidates = self.candidates(shortage.resource).await;
        let Some((uid, terminal)) = choose_victim(&candidates, shortage) else {
            tracing::warn!(resource = name, "the machine is short, and no pod may be evicted");
            return;
        };
        tracing::warn!(uid, message = terminal.message, "a pod is evicted");
        self.eviction = Some(Eviction { uid: uid.clone(), since: Instant::now() });
        self.fail(&uid, terminal);
    }

    /// Fails a pod and says why.
    fn fail(&self, uid: &str, terminal: Terminal) {
        if let Some(state) = self.registry.all().iter().find(|state| state.pod.metadata.uid.as_deref() == Some(uid)) {
            let (reason, message) = (terminal.reason.clone(), terminal.message.clone());
            let report = Report { severity: Severity::Warning, reason, message, container: String::new() };
            self.shared.recorder.pod(&state.pod, report);
        }
        self.registry.fail(uid, terminal, GRACE_SECONDS);
    }

    /// The logs of pods that are over and were not deleted: nothing else of them is left on the disk.
    async fn remove_logs_of_ended_pods(&self) {
        let ended: Vec<_> = self.registry.all().into_iter().filter(|state| state.torn_down).collect();
        let logs: Vec<_> = ended.iter().map(|state| self.shared.paths.pod_logs(&state.pod)).collect();
        let remove = move || logs.iter().for_each(|directory| drop(std::fs::remove_dir_all(directory)));
        if let Err(error) = self.shared.tasks.blocking(remove).await {
            tracing::debug!(error, "logs of ended pods stay");
        }
    }

    /// Every pod that may go, with what it takes of the resource. Walks through pods' directories only where that is asked for.
    async fn candidates(&self, resource: Resource) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for state in self.registry.all().iter().filter(|state| is_active(state)) {
            let (Some(spec), Some(uid)) = (&state.pod.spec, &state.pod.metadata.uid) else { continue };
            let requests = Requests::of_pod(spec);
            let mut one = Candidate { uid: uid.clone(), priority: spec.priority.unwrap_or(0), ..Candidate::default() };
            match resource {
                Resource::EphemeralStorage | Resource::Inodes => {
                    let storage = self.storage(state, spec, uid).await;
                    let pick = |taken: super::local_storage::Taken| match resource {
                        Resource::Inodes => taken.inodes,
                        _ => taken.bytes,
                    };
                    one.shared = pick(storage.in_volumes());
                    let named = |(name, taken): (String, _)| {
                        let request = request(spec, &name, "ephemeral-storage");
                        (name, pick(taken), request)
                    };
                    one.containers = storage.containers.into_iter().map(named).collect();
                    if resource == Resource::EphemeralStorage {
                        one.request = u64::try_from(requests.ephemeral_bytes).unwrap_or(0);
                    }
                }
                Resource::Memory | Resource::ProcessIds => {
                    for container in &state.containers {
                        let Phase::Running(running) = &container.phase else { continue };
                        let usage = self.shared.containers.usage(uid, &running.id).await.unwrap_or_default();
                        if resource == Resource::ProcessIds {
                            one.shared = one.shared.saturating_add(usage.tasks);
                            continue;
                        }
                        let request = request(spec, &container.name, "memory");
                        one.containers.push((container.name.clone(), usage.working_set_bytes, request));
                    }
                    if resource == Resource::Memory {
                        one.request = u64::try_from(requests.memory_bytes).unwrap_or(0);
                    }
                }
            }
            candidates.push(one);
        }
        candidates
    }

    async fn storage(&self, state: &PodState, spec: &PodSpec, uid: &str) -> Storage {
        let logs = self.shared.paths.pod_logs(&state.pod);
        let of = |container: &Container| {
            let id = match &container.phase {
                Phase::Running(running) => Some(running.id.as_str()),
                Phase::Exited(exit) => Some(exit.id.as_str()),
                _ => None,
            };
            let written = id.and_then(|id| self.shared.containers.written(uid, id));
            (container.name.clone(), written.into_iter().chain([logs.join(&container.name)]).collect())
        };
        let places = Places { pod: self.shared.paths.pod(uid), containers: state.containers.iter().map(of).collect() };
        let spec = spec.clone();
        self.shared.tasks.blocking(move || Storage::measure(&places, &spec)).await.unwrap_or_default()
    }

    /// Evicts pods that take more of the disk than their limits say; true if there was one. Only pods with limits are looked
    /// into, and only while the disk holds more than the smallest of these.
    async fn evict_overgrown(&self, space: Space) -> bool {
        let used = space.total_bytes.saturating_sub(space.available_bytes);
        let mut any = false;
        for state in self.registry.all().iter().filter(|state| is_active(state)) {
            let (Some(spec), Some(uid)) = (&state.pod.spec, &state.pod.metadata.uid) else { continue };
            if smallest_limit(spec).is_none_or(|limit| used <= limit) {
                continue;
            }
            if let Some(message) = self.storage(state, spec, uid).await.over_limit(spec) {
                tracing::warn!(uid, message, "a pod is evicted");
                self.fail(uid, Terminal::new("Evicted", message));
                any = true;
            }
        }
        any
    }

    async fn collect_images(&mut self, space: Space, marks: ImageThresholds) {
        let now = Instant::now();
        let containers: &Arc<dyn Containers> = &self.shared.containers;
        let mut used = BTreeSet::new();
        for state in self.registry.all().iter().filter(|state| !state.torn_down) {
            let spec = state.pod.spec.iter();
            let all = spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
            let names = all.filter_map(|container| container.image.clone());
            // What a pod writes short, the list of images has in full.
            used.extend(names.map(|name| Reference::parse(&name).map_or(name, |reference| reference.to_string())));
            for container in &state.containers {
                if let crate::lifecycle::Image::Ready { id } = &container.image {
                    used.insert(id.clone());
                }
            }
        }
        let listed = Timestamp::now();
        let images = containers.images().await;
        let ids = images.iter().map(|image| image.id.as_str()).collect();
        let names = images.iter().flat_map(|image| image.names.iter().map(String::as_str)).collect();
        self.shared.pull_records.prune(&ids, &names, listed);
        self.images.observe(&images, &used, now);
        let due = now.saturating_duration_since(self.collected) >= COLLECT_EVERY;
        if space.used_percent() <= marks.high_percent || !(due || marks == ALL_IMAGES) {
            return;
        }
        self.collected = now;
        let collection = self.images.collect(&images, &used, space, marks, now);
        if marks != ALL_IMAGES && collection.found_bytes < collection.wanted_bytes {
            let message = format!(
                "Failed to garbage collect required amount of images. Attempted to free {} bytes, but only found {} bytes eligible to free.",
                collection.wanted_bytes, collection.found_bytes
            );
            self.shared.recorder.node(&self.options.name, Severity::Warning, "FreeDiskSpaceFailed", message);
        }
        for id in collection.images {
            // The runtime refuses where a container still uses it; the next look tries again.
            if let Err(error) = containers.remove_image(&id).await {
                tracing::debug!(id, %error, "an image stays");
            }
        }
    }
}

/// What a container asked for of a resource.
fn request(spec: &PodSpec, container: &str, resource: &str) -> u64 {
    let own = spec.containers.iter().find(|one| one.name == container);
    let quantity = own.and_then(|one| one.resources.as_ref()?.requests.as_ref()?.get(resource));
    let amount = quantity.and_then(|quantity| crate::quantity::value(&quantity.0)).unwrap_or(0);
    u64::try_from(amount).unwrap_or(0)
}
