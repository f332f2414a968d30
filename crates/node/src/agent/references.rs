//! ConfigMaps and Secrets that pods of this node refer to: one watch for each name, shared, ended with the last pod that needs it.

use super::mirror::{Change, follow};
use super::tasks::Tasks;
use crate::environment::Needs;
use crate::volumes::Inputs;
use client::{ClusterClient, Query, Target};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use object::GroupVersionResource;
use serde::de::DeserializeOwned;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

/// How long a pod waits for a first answer about an object.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
struct Key {
    secret: bool,
    namespace: String,
    name: String,
}

#[derive(Clone, Default)]
enum Known {
    /// No answer yet.
    #[default]
    Unknown,
    Absent,
    ConfigMap(Arc<ConfigMap>),
    Secret(Arc<Secret>),
}

struct Entry {
    users: BTreeSet<String>,
    state: watch::Receiver<Known>,
    task: Option<AbortHandle>,
}

/// The cache; a cheap handle.
#[derive(Clone)]
pub struct References {
    client: Arc<dyn ClusterClient>,
    tasks: Tasks,
    entries: Arc<Mutex<HashMap<Key, Entry>>>,
    /// Tells which pods (by uid) have to look again.
    changed: mpsc::UnboundedSender<BTreeSet<String>>,
}

impl References {
    /// An empty cache; uids of pods whose objects changed come out of the receiver.
    #[must_use]
    pub fn new(client: Arc<dyn ClusterClient>, tasks: Tasks) -> (Self, mpsc::UnboundedReceiver<BTreeSet<String>>) {
        let (changed, receiver) = mpsc::unbounded_channel();
        (Self { client, tasks, entries: Arc::default(), changed }, receiver)
    }

    fn keys(namespace: &str, needs: &Needs) -> Vec<Key> {
        let of = |secret: bool, names: &BTreeSet<String>| -> Vec<Key> {
            names.iter().map(|name| Key { secret, namespace: namespace.to_owned(), name: name.clone() }).collect()
        };
        [of(false, &needs.config_maps), of(true, &needs.secrets)].concat()
    }

    /// The objects that `needs` names, as they are now; waits for the first answer about each.
    pub async fn inputs(&self, uid: &str, namespace: &str, needs: &Needs) -> Inputs {
        let mut inputs = Inputs::default();
        for key in Self::keys(namespace, needs) {
            let mut state = self.user(key.clone(), uid);
            let answered = state.wait_for(|known| !matches!(known, Known::Unknown));
            let known = match tokio::time::timeout(FIRST_ANSWER_WITHIN, answered).await {
                Ok(Ok(known)) => known.clone(),
                _ => Known::Unknown,
            };
            match known {
                Known::ConfigMap(map) => drop(inputs.config_maps.insert(key.name, map)),
                Known::Secret(secret) => drop(inputs.secrets.insert(key.name, secret)),
                Known::Unknown | Known::Absent => {}
            }
        }
        inputs
    }

    fn user(&self, key: Key, uid: &str) -> watch::Receiver<Known> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(key.clone()).or_insert_with(|| {
            let (sender, state) = watch::channel(Known::Unknown);
            let this = self.clone();
            let task = if key.secret {
                self.tasks.spawn(this.keep(key, sender, "secrets", Known::Secret))
            } else {
                self.tasks.spawn(this.keep(key, sender, "configmaps", Known::ConfigMap))
            };
            Entry { users: BTreeSet::new(), state, task }
        });
        entry.users.insert(uid.to_owned());
        entry.state.clone()
    }

    async fn keep<T: DeserializeOwned + Send + Sync + 'static>(
        self,
        key: Key,
        sender: watch::Sender<Known>,
        resource: &'static str,
        known: fn(Arc<T>) -> Known,
    ) {
        let target = Target {
            resource: GroupVersionResource::new("", "v1", resource),
            namespace: key.namespace.as_str().into(),
            name: Default::default(),
            subresource: Default::default(),
        };
        let query = Query { fields: format!("metadata.name={}", key.name), ..Query::default() };
        let (changes, mut receiver) = mpsc::channel(16);
        let following = follow::<T>(Arc::clone(&self.client), target, query, changes);
        let taking = async {
            while let Some(change) = receiver.recv().await {
                let next = match change {
                    Change::All(all) => all.into_iter().next().map_or(Known::Absent, known),
                    Change::Put(object) => known(object),
                    Change::Gone(_) => Known::Absent,
                };
                let first = matches!(*sender.borrow(), Known::Unknown);
                let _ = sender.send(next);
                if !first {
                    self.tell(&key);
                }
            }
        };
        tokio::join!(following, taking);
    }

    fn tell(&self, key: &Key) {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(key) {
            let _ = self.changed.send(entry.users.clone());
        }
    }

    /// Forgets a pod; what no other pod needs is watched no longer.
    pub fn release(&self, uid: &str) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, entry| {
            entry.users.remove(uid);
            let keep = !entry.users.is_empty();
            if let (false, Some(task)) = (keep, &entry.task) {
                task.abort();
            }
            keep
        });
    }
}
