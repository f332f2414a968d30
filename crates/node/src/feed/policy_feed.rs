//! Follows NetworkPolicies, namespaces and pods and tells the data plane; what was known is kept on the disk, so that a restarted node
//! lets pods start before, and without, the API.

use super::checkpoint;
use super::follow::target;
use super::policies::{NamespaceFacts, PodFacts, policy, policy_key};
use crate::agent::{Change, follow};
use client::{ClusterClient, Query};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use network::policy::{self, Handle, Labels, PodState, PolicyKey};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long after a change the checkpoint is written; changes meanwhile go into the same one.
const CHECKPOINT_AFTER: Duration = Duration::from_secs(5);
const VERSION: u32 = 1;

/// The feed.
pub struct PolicyFeed {
    handle: Handle,
    checkpoint: PathBuf,
    policies: BTreeMap<PolicyKey, Arc<NetworkPolicy>>,
    namespaces: BTreeMap<String, Labels>,
    pods: BTreeMap<String, Arc<PodState>>,
    /// Which of the three lists have come.
    listed: [bool; 3],
    is_known: bool,
    dirty_since: Option<Instant>,
}

#[derive(Default, Serialize, Deserialize)]
struct Saved {
    version: u32,
    policies: Vec<Arc<NetworkPolicy>>,
    namespaces: BTreeMap<String, Labels>,
    pods: BTreeMap<String, Arc<PodState>>,
}

impl PolicyFeed {
    /// Reads the checkpoint and tells the data plane what it holds.
    #[must_use]
    pub fn new(handle: Handle, checkpoint: PathBuf) -> Self {
        let saved = std::fs::read(&checkpoint).ok().and_then(|bytes| serde_json::from_slice::<Saved>(&bytes).ok());
        let mut feed = PolicyFeed {
            handle,
            checkpoint,
            policies: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            pods: BTreeMap::new(),
            listed: [false; 3],
            is_known: false,
            dirty_since: None,
        };
        // A checkpoint of another version is only a cache: it is not used.
        if let Some(saved) = saved.filter(|saved| saved.version == VERSION) {
            feed.policies = saved.policies.into_iter().map(|policy| (policy_key(&policy), policy)).collect();
            feed.namespaces = saved.namespaces;
            feed.pods = saved.pods;
            feed.tell_all();
        }
        feed
    }

    fn tell(&self, changes: Vec<policy::Change>) {
        if let Err(error) = self.handle.update(changes) {
            tracing::error!(%error, "network policies could not be programmed");
        }
    }

    /// Tells everything, and that it is everything.
    fn tell_all(&mut self) {
        self.is_known = true;
        self.tell(vec![self.all_policies(), self.all_namespaces(), self.all_pods(), policy::Change::Known]);
    }

    fn all_policies(&self) -> policy::Change {
        let one = |(key, object): (&PolicyKey, &Arc<NetworkPolicy>)| (key.clone(), Arc::new(policy(object)));
        policy::Change::Policies(self.policies.iter().map(one).collect())
    }

    fn all_namespaces(&self) -> policy::Change {
        let one = |(name, labels): (&String, &Labels)| (name.clone(), labels.clone());
        policy::Change::Namespaces(self.namespaces.iter().map(one).collect())
    }

    fn all_pods(&self) -> policy::Change {
        let one = |(uid, state): (&String, &Arc<PodState>)| (uid.clone(), Arc::clone(state));
        policy::Change::Pods(self.pods.iter().map(one).collect())
    }

    /// Follows the API until the process ends.
    pub async fn run(mut self, client: Arc<dyn ClusterClient>) {
        let (policy_sender, mut policies) = mpsc::channel(256);
        let (namespace_sender, mut namespaces) = mpsc::channel(256);
        let (pod_sender, mut pods) = mpsc::channel(256);
        // They end with this future.
        let mut following = JoinSet::new();
        let policy_target = target("networking.k8s.io", "networkpolicies");
        following.spawn(follow::<NetworkPolicy>(Arc::clone(&client), policy_target, Query::default(), policy_sender));
        let namespace_target = target("", "namespaces");
        let of_namespaces =
            follow::<NamespaceFacts>(Arc::clone(&client), namespace_target, Query::default(), namespace_sender);
        following.spawn(of_namespaces);
        following.spawn(follow::<PodFacts>(client, target("", "pods"), Query::default(), pod_sender));
        loop {
            let save_at = self.dirty_since.map(|since| since + CHECKPOINT_AFTER);
            tokio::select! {
                Some(change) = policies.recv() => self.take_policy(change),
                Some(change) = namespaces.recv() => self.take_namespace(change),
                Some(change) = pods.recv() => self.take_pod(change),
                () = tokio::time::sleep_until(save_at.unwrap_or_else(Instant::now)), if save_at.is_some() => {
                    self.dirty_since = None;
                    self.save().await;
                }
            }
        }
    }

    /// A change of one object: told at once where everything is known, else with everything.
    fn changed(&mut self, change: policy::Change) {
        self.dirty_since.get_or_insert_with(Instant::now);
        if self.is_known {
            self.tell(vec![change]);
        }
    }

    /// A list has come. Before all three have, what a checkpoint told stays.
    fn listed(&mut self, which: usize, change: policy::Change) {
        if let Some(listed) = self.listed.get_mut(which) {
            *listed = true;
        }
        if self.is_known {
            self.changed(change);
        } else if self.listed == [true; 3] {
            self.dirty_since.get_or_insert_with(Instant::now);
            self.tell_all();
        }
    }

    fn take_policy(&mut self, change: Change<NetworkPolicy>) {
        match change {
            Change::All(all) => {
                self.policies = all.into_iter().map(|object| (policy_key(&object), object)).collect();
                self.listed(0, self.all_policies());
            }
            Change::Put(object) => {
                let (key, compiled) = (policy_key(&object), Arc::new(policy(&object)));
                self.policies.insert(key.clone(), object);
                self.changed(policy::Change::Policy(key, Some(compiled)));
            }
            Change::Gone(object) => {
                let key = policy_key(&object);
                self.policies.remove(&key);
                self.changed(policy::Change::Policy(key, None));
            }
        }
    }

    fn take_namespace(&mut self, change: Change<NamespaceFacts>) {
        let parts = |facts: Arc<NamespaceFacts>| NamespaceFacts::clone(&facts).into_parts();
        match change {
            Change::All(all) => {
                self.namespaces = all.into_iter().map(parts).collect();
                self.listed(1, self.all_namespaces());
            }
            Change::Put(facts) => {
                let (name, labels) = parts(facts);
                if self.namespaces.insert(name.clone(), labels.clone()).as_ref() != Some(&labels) {
                    self.changed(policy::Change::Namespace(name, Some(labels)));
                }
            }
            Change::Gone(facts) => {
                let (name, _) = parts(facts);
                self.namespaces.remove(&name);
                self.changed(policy::Change::Namespace(name, None));
            }
        }
    }

    fn take_pod(&mut self, change: Change<PodFacts>) {
        match change {
            Change::All(all) => {
                let one = |facts: Arc<PodFacts>| Some((facts.uid().to_owned(), Arc::new(facts.state()?)));
                self.pods = all.into_iter().filter_map(one).collect();
                self.listed(2, self.all_pods());
            }
            Change::Put(facts) => {
                let uid = facts.uid().to_owned();
                // Most changes of a pod are of its status, and none of policies' business.
                let state = match facts.state() {
                    Some(state) if self.pods.get(&uid).is_some_and(|known| **known == state) => return,
                    Some(state) => Some(Arc::new(state)),
                    None if !self.pods.contains_key(&uid) => return,
                    None => None,
                };
                match &state {
                    Some(state) => self.pods.insert(uid.clone(), Arc::clone(state)),
                    None => self.pods.remove(&uid),
                };
                self.changed(policy::Change::Pod(uid, state));
            }
            Change::Gone(facts) => {
                if self.pods.remove(facts.uid()).is_some() {
                    self.changed(policy::Change::Pod(facts.uid().to_owned(), None));
                }
            }
        }
    }

    async fn save(&self) {
        if !self.is_known {
            return;
        }
        let saved = Saved {
            version: VERSION,
            policies: self.policies.values().cloned().collect(),
            namespaces: self.namespaces.clone(),
            pods: self.pods.clone(),
        };
        let path = self.checkpoint.clone();
        let written = tokio::task::spawn_blocking(move || checkpoint::write(&path, &saved)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "the policies' checkpoint could not be written");
        }
    }
}
