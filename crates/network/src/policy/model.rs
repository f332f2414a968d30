//! Everything that is known: policies, namespaces, pods of the cluster, pods of this node.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::state::{Labels, LocalPod, PodState, Policy, PolicyKey};

/// The state of the cluster as policies see it.
#[derive(Default)]
pub(crate) struct Model {
    /// By namespace and name.
    pub(crate) policies: BTreeMap<PolicyKey, Arc<Policy>>,
    /// Labels by name.
    pub(crate) namespaces: HashMap<String, Arc<Labels>>,
    /// What the API tells of pods, by uid.
    told: HashMap<String, Arc<PodState>>,
    /// The pods of this node, by uid.
    pub(crate) local: BTreeMap<String, LocalPod>,
    /// Both together: what pods are like.
    pods: HashMap<String, Arc<PodState>>,
    by_namespace: ByNamespace,
    local_by_namespace: ByNamespace,
}

/// Uids by namespace.
#[derive(Default)]
struct ByNamespace(HashMap<String, HashSet<String>>);

impl ByNamespace {
    fn of(&self, namespace: &str) -> impl Iterator<Item = &String> {
        self.0.get(namespace).into_iter().flatten()
    }

    fn move_pod(&mut self, uid: &str, before: Option<&str>, after: Option<&str>) {
        if before == after {
            return;
        }
        if let Some(namespace) = before
            && let Some(uids) = self.0.get_mut(namespace)
        {
            uids.remove(uid);
            if uids.is_empty() {
                self.0.remove(namespace);
            }
        }
        if let Some(namespace) = after {
            self.0.entry(namespace.to_owned()).or_default().insert(uid.to_owned());
        }
    }
}

/// What a pod was like and is like.
pub(crate) struct PodChange {
    pub(crate) before: Option<Arc<PodState>>,
    pub(crate) after: Option<Arc<PodState>>,
}

impl Model {
    /// All pods.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &Arc<PodState>> {
        self.pods.values()
    }

    /// A pod.
    pub(crate) fn pod(&self, uid: &str) -> Option<&Arc<PodState>> {
        self.pods.get(uid)
    }

    /// The uids that the API told of.
    pub(crate) fn told(&self) -> impl Iterator<Item = &String> {
        self.told.keys()
    }

    /// The pods of a namespace.
    pub(crate) fn pods_of(&self, namespace: &str) -> impl Iterator<Item = &Arc<PodState>> {
        self.by_namespace.of(namespace).filter_map(|uid| self.pods.get(uid))
    }

    /// The uids of the pods of this node in a namespace.
    pub(crate) fn local_of(&self, namespace: &str) -> impl Iterator<Item = &String> {
        self.local_by_namespace.of(namespace)
    }

    /// The policies of a namespace.
    pub(crate) fn policies_of(&self, namespace: &str) -> impl Iterator<Item = (&PolicyKey, &Arc<Policy>)> {
        let from = PolicyKey::new(namespace, "");
        let of = namespace.to_owned();
        self.policies.range(from..).take_while(move |(key, _)| key.namespace == of)
    }

    /// Takes over what the API tells of a pod; none where it is gone.
    pub(crate) fn set_told(&mut self, uid: &str, state: Option<Arc<PodState>>) -> PodChange {
        match state {
            Some(state) => self.told.insert(uid.to_owned(), state),
            None => self.told.remove(uid),
        };
        let is_local = self.local.contains_key(uid);
        self.merge(uid, is_local)
    }

    /// Takes over what the node tells of a pod of its own; none where it is detached.
    pub(crate) fn set_local(&mut self, uid: &str, pod: Option<LocalPod>) -> PodChange {
        let before = match pod {
            Some(pod) => self.local.insert(uid.to_owned(), pod),
            None => self.local.remove(uid),
        };
        self.merge(uid, before.is_some())
    }

    /// Labels and ports are the API's, where it has told; the addresses of an attached pod are those that it was given.
    fn merge(&mut self, uid: &str, was_local: bool) -> PodChange {
        let after = match (self.told.get(uid), self.local.get(uid)) {
            (Some(told), Some(local)) if told.addresses != local.state.addresses => {
                Some(Arc::new(PodState { addresses: local.state.addresses.clone(), ..PodState::clone(told) }))
            }
            (Some(told), _) => Some(Arc::clone(told)),
            (None, Some(local)) => Some(Arc::new(local.state.clone())),
            (None, None) => None,
        };
        let before = match &after {
            Some(state) => self.pods.insert(uid.to_owned(), Arc::clone(state)),
            None => self.pods.remove(uid),
        };
        let [from, to] = [&before, &after].map(|state| state.as_ref().map(|state| state.namespace.as_str()));
        self.by_namespace.move_pod(uid, from, to);
        let is_local = self.local.contains_key(uid);
        self.local_by_namespace.move_pod(uid, was_local.then_some(from).flatten(), is_local.then_some(to).flatten());
        PodChange { before, after }
    }
}
