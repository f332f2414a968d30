//! Follows the node's pods and gives each its worker; finds again what ran before, and clears away what nobody wants any more.

use super::actions::sandbox_finished;
use super::checkpoint;
use super::mirror::{Change, follow};
use super::seams::RecoveredPod;
use super::shared::Shared;
use super::worker::{Input, Worker};
use crate::lifecycle::{Allocatable, Event, PodState, Requests, Sandbox, Terminal, admit};
use client::{Query, Target};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use object::GroupVersionResource;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

/// A pod as others see it: its state at each change.
pub type PodView = watch::Receiver<Arc<PodState>>;

struct Entry {
    sender: mpsc::UnboundedSender<Input>,
    view: PodView,
}

/// The node's pods; a cheap handle.
#[derive(Clone, Default)]
pub struct PodRegistry(Arc<RwLock<HashMap<String, Entry>>>);

impl PodRegistry {
    /// The pod with this name; of several (an old one on its way out) the one that is not ending.
    #[must_use]
    pub fn by_name(&self, namespace: &str, name: &str) -> Option<PodView> {
        let pods = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let is = |state: &PodState| {
            let meta = &state.pod.metadata;
            meta.namespace.as_deref() == Some(namespace) && meta.name.as_deref() == Some(name)
        };
        let found = pods.values().filter(|entry| is(&entry.view.borrow()));
        found.min_by_key(|entry| entry.view.borrow().terminate_by.is_some()).map(|entry| entry.view.clone())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// All pods.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<PodState>> {
        let pods = self.0.read().unwrap_or_else(PoisonError::into_inner);
        pods.values().map(|entry| entry.view.borrow().clone()).collect()
    }

    /// Fails a pod, as eviction does.
    pub fn fail(&self, uid: &str, terminal: Terminal, grace_seconds: i64) {
        self.send(uid, Input::Lifecycle(Event::Failed(terminal, grace_seconds)));
    }

    /// Fails every pod, with the grace that it asks for. No API is needed for it.
    pub fn fail_all(&self, terminal: &Terminal) {
        for state in self.all() {
            if state.torn_down || state.terminal.is_some() || state.terminate_by.is_some() {
                continue;
            }
            let Some(uid) = &state.pod.metadata.uid else { continue };
            let grace = state.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
            self.fail(uid, terminal.clone(), grace);
        }
    }

    /// Whether nothing runs any more; what is known of pods may still be there.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.all().iter().all(|state| state.torn_down)
    }

    fn send(&self, uid: &str, input: Input) -> bool {
        let pods = self.0.read().unwrap_or_else(PoisonError::into_inner);
        pods.get(uid).is_some_and(|entry| entry.sender.send(input).is_ok())
    }

    fn uids(&self) -> Vec<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}

/// Lists the node's pods anew; a cheap handle.
#[derive(Clone)]
pub struct Resync {
    requests: mpsc::Sender<oneshot::Sender<BTreeSet<String>>>,
    registry: PodRegistry,
}

impl Resync {
    /// Has the pods listed anew and what is gone or deleted be stopped; the uids of those.
    pub async fn list(&self) -> BTreeSet<String> {
        let (reply, listed) = oneshot::channel();
        if self.requests.send(reply).await.is_err() {
            return BTreeSet::new();
        }
        // The dispatcher ends with the agent.
        listed.await.unwrap_or_default()
    }

    /// Waits until none of these pods is left, with its status written; how many are left after `limit`.
    pub async fn until_gone(&self, mut uids: BTreeSet<String>, limit: Duration) -> usize {
        let deadline = Instant::now() + limit;
        loop {
            let left: BTreeSet<String> = self.registry.uids().into_iter().collect();
            uids.retain(|uid| left.contains(uid));
            if uids.is_empty() || Instant::now() >= deadline {
                return uids.len();
            }
            tokio::time::sleep(LEFT_EVERY).await;
        }
    }
}

/// How often pods that are on their way out are counted.
const LEFT_EVERY: Duration = Duration::from_millis(20);
/// Requests for a new list that wait; they all get the same one.
const RESYNCS_MAX: usize = 8;

/// Runs the node's pods.
pub struct Dispatcher {
    shared: Arc<Shared>,
    registry: PodRegistry,
    offered: Allocatable,
    /// Pods of the runtime that nothing is known about yet.
    orphans: HashMap<String, RecoveredPod>,
    resync: Resync,
    resyncs: mpsc::Receiver<oneshot::Sender<BTreeSet<String>>>,
}

fn uid_of(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

/// The names of what a directory holds; none where it is missing.
fn directories(path: &std::path::Path) -> io::Result<Vec<String>> {
    match std::fs::read_dir(path) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

impl Dispatcher {
    /// Takes up what ran before: checkpoints, and what the runtime still has.
    ///
    /// # Errors
    /// Checkpoints of a newer version, or a runtime that cannot say what it runs.
    pub async fn recover(shared: Arc<Shared>, offered: Allocatable) -> io::Result<Self> {
        let directory = shared.paths.checkpoints();
        std::fs::create_dir_all(&directory)?;
        let states = checkpoint::read_all(&directory)?;
        let found = shared.containers.recover().await.map_err(io::Error::other)?;
        let mut found: HashMap<String, RecoveredPod> = found.into_iter().map(|pod| (pod.uid.clone(), pod)).collect();
        for pod in found.values_mut() {
            // The agent died between making a sandbox and finishing it: nothing runs in it yet, so it is made anew.
            if pod.pid.is_some() && pod.containers.is_empty() && !sandbox_finished(&shared, &pod.uid) {
                // Its interface goes below, with those of all pods that do not live.
                shared.containers.destroy(&pod.uid).await.map_err(io::Error::other)?;
                pod.pid = None;
            }
        }
        for uid in directories(&shared.paths.pods())? {
            // The agent died while it removed the last of a pod: no checkpoint names it any more.
            if !found.contains_key(&uid) && !states.iter().any(|state| uid_of(&state.pod) == uid) {
                super::volume_manager::remove(&shared, &uid).await;
            }
        }
        let live = states.iter().filter_map(|state| {
            let uid = uid_of(&state.pod);
            let pid = found.get(&uid)?.pid?;
            let host = state.pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
            (!host).then(|| (Arc::clone(&state.pod), uid, pid))
        });
        shared.network.recover(live.collect()).await.map_err(io::Error::other)?;
        let registry = PodRegistry::default();
        let (requests, resyncs) = mpsc::channel(RESYNCS_MAX);
        let resync = Resync { requests, registry: registry.clone() };
        let mut dispatcher = Dispatcher { shared, registry, offered, orphans: HashMap::new(), resync, resyncs };
        for state in states {
            let recovered = found.remove(&uid_of(&state.pod));
            dispatcher.adopt(state, recovered);
        }
        dispatcher.orphans = found;
        Ok(dispatcher)
    }

    /// The node's pods.
    #[must_use]
    pub fn registry(&self) -> PodRegistry {
        self.registry.clone()
    }

    /// Lists the node's pods anew.
    #[must_use]
    pub fn resync(&self) -> Resync {
        self.resync.clone()
    }

    fn adopt(&self, mut state: PodState, recovered: Option<RecoveredPod>) {
        // The agent may have ended between asking and the API's answer: it is asked again.
        state.deletion_asked = false;
        let addresses = match &state.sandbox {
            Sandbox::Ready { addresses, .. } => addresses.clone(),
            // Without a checkpoint the API's status tells the addresses.
            _ => {
                let told = state.pod.status.as_ref().and_then(|status| status.pod_ips.as_deref()).unwrap_or_default();
                told.iter().filter_map(|pod| pod.ip.parse().ok()).collect()
            }
        };
        let uid = uid_of(&state.pod);
        let torn_down = state.torn_down;
        self.spawn(state);
        let (sandbox, containers) = match recovered {
            Some(recovered) => (recovered.pid.map(|pid| (pid, addresses)), recovered.containers),
            None => (None, Vec::new()),
        };
        if !torn_down || sandbox.is_some() {
            self.registry.send(&uid, Input::Lifecycle(Event::Recovered { sandbox, containers }));
        }
    }

    fn spawn(&self, state: PodState) {
        let uid = uid_of(&state.pod);
        let (worker, sender, view) = Worker::new(Arc::clone(&self.shared), state);
        self.registry.0.write().unwrap_or_else(PoisonError::into_inner).insert(uid.clone(), Entry { sender, view });
        let registry = self.registry.clone();
        self.shared.tasks.spawn(async move {
            worker.run().await;
            registry.0.write().unwrap_or_else(PoisonError::into_inner).remove(&uid);
        });
    }

    /// Follows the API until the process ends. `changed` are the pods whose references changed.
    pub async fn run(mut self, mut changed: mpsc::UnboundedReceiver<BTreeSet<String>>) {
        let target = Target {
            resource: GroupVersionResource::new("", "v1", "pods"),
            namespace: Default::default(),
            name: Default::default(),
            subresource: Default::default(),
        };
        let query = Query { fields: format!("spec.nodeName={}", self.shared.node), ..Query::default() };
        let (mut following, mut changes) = self.follow(&target, &query);
        let mut waiting: Vec<oneshot::Sender<BTreeSet<String>>> = Vec::new();
        loop {
            tokio::select! {
                biased;
                // A new list comes from a new follower: what the old one still has may be older than it.
                Some(reply) = self.resyncs.recv() => {
                    waiting.push(reply);
                    if let Some(following) = following {
                        following.abort();
                    }
                    (following, changes) = self.follow(&target, &query);
                }
                Some(change) = changes.recv() => {
                    let leaving = match &change {
                        Change::All(pods) => Some(self.leaving(pods)),
                        _ => None,
                    };
                    self.take(change).await;
                    if let Some(leaving) = leaving {
                        for reply in waiting.drain(..) {
                            // Whoever asked may have gone.
                            let _ = reply.send(leaving.clone());
                        }
                    }
                }
                Some(uids) = changed.recv() => {
                    for uid in uids {
                        self.registry.send(&uid, Input::References);
                    }
                }
                else => return,
            }
        }
    }

    fn follow(&self, target: &Target, query: &Query) -> (Option<AbortHandle>, mpsc::Receiver<Change<Pod>>) {
        let (sender, changes) = mpsc::channel(256);
        let client = Arc::clone(&self.shared.api.0);
        (self.shared.tasks.spawn(follow::<Pod>(client, target.clone(), query.clone(), sender)), changes)
    }

    /// Pods here that the list does not have, or has as deleted.
    fn leaving(&self, listed: &[Arc<Pod>]) -> BTreeSet<String> {
        let stay = listed.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let stay: BTreeSet<String> = stay.map(|pod| uid_of(pod)).collect();
        let deleted = listed.iter().map(|pod| uid_of(pod));
        self.registry.uids().into_iter().chain(deleted).filter(|uid| !stay.contains(uid)).collect()
    }

    async fn take(&mut self, change: Change<Pod>) {
        match change {
            Change::All(pods) => {
                let there: BTreeSet<String> = pods.iter().map(|pod| uid_of(pod)).collect();
                // The oldest first, so that admission decides as it did before.
                let mut pods = pods;
                pods.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
                for pod in pods {
                    self.put(pod);
                }
                for uid in self.registry.uids() {
                    if !there.contains(&uid) {
                        self.registry.send(&uid, Input::Lifecycle(Event::Removed));
                    }
                }
                // Only a full list proves that nobody wants what is left.
                for (uid, _) in std::mem::take(&mut self.orphans) {
                    tracing::info!(uid, "a pod that the API does not know is removed");
                    let _ = self.shared.network.detach(&uid).await;
                    if let Err(error) = self.shared.containers.destroy(&uid).await {
                        tracing::warn!(uid, %error, "an unknown pod could not be removed; the next start tries again");
                    }
                    super::volume_manager::remove(&self.shared, &uid).await;
                }
            }
            Change::Put(pod) => self.put(pod),
            Change::Gone(pod) => drop(self.registry.send(&uid_of(&pod), Input::Lifecycle(Event::Removed))),
        }
    }

    fn put(&mut self, pod: Arc<Pod>) {
        let uid = uid_of(&pod);
        if self.registry.send(&uid, Input::Lifecycle(Event::Changed(Arc::clone(&pod)))) {
            return;
        }
        let state = PodState::new(Arc::clone(&pod), Timestamp::now());
        if let Some(recovered) = self.orphans.remove(&uid) {
            self.adopt(state, Some(recovered));
            self.registry.send(&uid, Input::Lifecycle(Event::Changed(pod)));
            return;
        }
        let ended = state.torn_down;
        let was_running = state.anything_runs();
        let refused =
            if ended || was_running || pod.metadata.deletion_timestamp.is_some() { Ok(()) } else { self.admit(&pod) };
        self.spawn(state);
        if was_running {
            // The API says that it ran here, but nothing of it is left: the machine was restarted.
            self.registry.send(&uid, Input::Lifecycle(Event::Recovered { sandbox: None, containers: Vec::new() }));
        }
        if let Err(terminal) = refused {
            self.registry.send(&uid, Input::Lifecycle(Event::Failed(terminal, 0)));
        }
        self.registry.send(&uid, Input::Lifecycle(Event::Changed(pod)));
    }

    fn admit(&self, pod: &Pod) -> Result<(), Terminal> {
        {
            let pressures = self.shared.pressures.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(terminal) = crate::machine::refused_under(&pressures, pod) {
                return Err(terminal);
            }
        }
        let active = self.registry.all();
        let active: Vec<_> = active.iter().filter(|state| !state.torn_down && state.terminal.is_none()).collect();
        let used = active
            .iter()
            .filter_map(|state| state.pod.spec.as_ref())
            .fold(Requests::default(), |sum, spec| sum.plus(Requests::of_pod(spec)));
        let labels = Arc::clone(&self.shared.labels.read().unwrap_or_else(PoisonError::into_inner));
        let count = i64::try_from(active.len()).unwrap_or(i64::MAX);
        admit(pod, &labels, self.offered, used, count)
    }
}
