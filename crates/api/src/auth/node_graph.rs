//! What runs where, and what that refers to: the node authorizer's knowledge of pods.
//!
//! It follows the store's own history of pods and catches up whenever it is asked, so its answers are never older than the pods that a
//! node has been shown. It costs nothing until the first node asks. After a window that it has fallen out of, it reads all pods anew.

use super::Objects;
use super::node_references::{Reference, Referred, of_pod, volume_names_secret};
use crate::core::{StoredObjects, decoded};
use object::Value;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use store::{Entry, EventKind, Store, Watcher};

const PODS: &str = "pods";
const CLAIMS: &str = "persistentvolumeclaims";
const VOLUMES: &str = "persistentvolumes";
const ATTACHMENTS: &str = "volumeattachments.storage.k8s.io";
const SLICES: &str = "resourceslices.resource.k8s.io";

/// What a node may be related to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vertex {
    Pod,
    Secret,
    ConfigMap,
    Claim,
    Volume,
    ResourceClaim,
    ResourceSlice,
    Attachment,
    ServiceAccount,
}

/// A pod that is bound to a node.
struct Placed {
    node: Arc<str>,
    references: Vec<Arc<Reference>>,
}

/// Pods by `namespace/name`, and for each object how many pods of which node refer to it.
#[derive(Default)]
struct Index {
    pods: HashMap<Box<str>, Placed>,
    references: HashMap<Arc<Reference>, HashMap<Arc<str>, u32>>,
    nodes: HashMap<Arc<str>, HashSet<Box<str>>>,
}

impl Index {
    fn put(&mut self, key: &str, pod: &Value) {
        let node = pod.str_at(&["spec", "nodeName"]).filter(|node| !node.is_empty());
        let wanted = of_pod(pod);
        if let (Some(held), Some(node)) = (self.pods.get(key), node)
            && *held.node == *node
            && held.references.len() == wanted.len()
            && held.references.iter().all(|reference| wanted.contains(reference.as_ref()))
        {
            return;
        }
        self.remove(key);
        let Some(node) = node else { return };
        let node = self.nodes.get_key_value(node).map_or_else(|| Arc::from(node), |(held, _)| Arc::clone(held));
        self.nodes.entry(Arc::clone(&node)).or_default().insert(key.into());
        let mut references = Vec::with_capacity(wanted.len());
        for reference in wanted {
            let reference = match self.references.get_key_value(&reference) {
                Some((held, _)) => Arc::clone(held),
                None => Arc::new(reference),
            };
            *self.references.entry(Arc::clone(&reference)).or_default().entry(Arc::clone(&node)).or_default() += 1;
            references.push(reference);
        }
        self.pods.insert(key.into(), Placed { node, references });
    }

    fn remove(&mut self, key: &str) {
        let Some(Placed { node, references }) = self.pods.remove(key) else { return };
        for reference in references {
            let Some(users) = self.references.get_mut(&reference) else { continue };
            if let Some(count) = users.get_mut(&node) {
                *count -= 1;
                if *count == 0 {
                    users.remove(&node);
                }
            }
            if users.is_empty() {
                self.references.remove(&reference);
            }
        }
        if let Some(pods) = self.nodes.get_mut(&node) {
            pods.remove(key);
            if pods.is_empty() {
                self.nodes.remove(&node);
            }
        }
    }

    fn refers(&self, node: &str, kind: Referred, rest: &str) -> bool {
        let key: Reference = (kind, rest.into());
        self.references.get(&key).is_some_and(|users| users.contains_key(node))
    }

    /// The claims that pods of a node refer to, as `namespace/name`.
    fn claims(&self, node: &str) -> HashSet<&str> {
        let pods = self.nodes.get(node).into_iter().flatten().filter_map(|key| self.pods.get(key));
        let claims = pods.flat_map(|pod| &pod.references).filter(|reference| reference.0 == Referred::Claim);
        claims.map(|reference| reference.1.as_ref()).collect()
    }
}

#[derive(Default)]
struct State {
    watcher: Option<Watcher>,
    index: Index,
}

/// Answers whether a node has to do with an object.
pub struct NodeGraph {
    store: Arc<dyn Store>,
    state: Mutex<State>,
}

impl NodeGraph {
    /// Over a store's pods, claims and volumes.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        NodeGraph { store, state: Mutex::default() }
    }

    /// Whether `node` is related to the object, as KEP-279 has it: runs the pod, or a pod that leads to it.
    pub(super) fn related(&self, node: &str, vertex: Vertex, namespace: &str, name: &str) -> bool {
        let objects = StoredObjects(Arc::clone(&self.store));
        match vertex {
            Vertex::Attachment => {
                return on(&objects, ATTACHMENTS, name, &["spec", "nodeName"]).as_deref() == Some(node);
            }
            Vertex::ResourceSlice => return on(&objects, SLICES, name, &["spec", "nodeName"]).as_deref() == Some(node),
            _ => {}
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        catch_up(&mut state, self.store.as_ref());
        let index = &state.index;
        let rest = format!("{namespace}/{name}");
        match vertex {
            Vertex::Pod => index.pods.get(rest.as_str()).is_some_and(|pod| *pod.node == *node),
            Vertex::ConfigMap => index.refers(node, Referred::ConfigMap, &rest),
            Vertex::Claim => index.refers(node, Referred::Claim, &rest),
            Vertex::ResourceClaim => index.refers(node, Referred::ResourceClaim, &rest),
            Vertex::ServiceAccount => index.refers(node, Referred::ServiceAccount, &rest),
            Vertex::Volume => objects.get(VOLUMES, name).is_some_and(|volume| {
                let part = |member| volume.str_at(&["spec", "claimRef", member]).unwrap_or_default();
                index.refers(node, Referred::Claim, &format!("{}/{}", part("namespace"), part("name")))
            }),
            Vertex::Secret => {
                index.refers(node, Referred::Secret, &rest)
                    || index.claims(node).iter().any(|claim| {
                        let bound = objects.get(CLAIMS, claim);
                        let volume = bound.as_deref().and_then(|claim| claim.str_at(&["spec", "volumeName"]));
                        volume.and_then(|volume| objects.get(VOLUMES, volume)).is_some_and(|volume| {
                            let part = |member| volume.str_at(&["spec", "claimRef", member]).unwrap_or_default();
                            format!("{}/{}", part("namespace"), part("name")) == **claim
                                && volume_names_secret(&volume, &rest)
                        })
                    })
            }
            Vertex::Attachment | Vertex::ResourceSlice => false,
        }
    }
}

fn on(objects: &StoredObjects, bucket: &str, name: &str, path: &[&str]) -> Option<String> {
    objects.get(bucket, name)?.str_at(path).map(str::to_owned)
}

fn catch_up(state: &mut State, store: &dyn Store) {
    let target = store.revision();
    if let Some(watcher) = &mut state.watcher {
        while let Ok(batch) = watcher.try_next() {
            for event in &batch.events {
                let key = event.entry.key.rest();
                match event.kind {
                    EventKind::Deleted => state.index.remove(key),
                    _ => state.index.put(key, &decoded(&event.entry)),
                }
            }
            if batch.revision >= target {
                return;
            }
        }
    }
    // The first time, or the window has moved on without us.
    *state = State::default();
    let Ok(list) = store.list(PODS, "", None, None, None) else { return };
    let put = |entry: &Arc<Entry>| state.index.put(entry.key.rest(), &decoded(entry));
    list.entries.iter().for_each(put);
    state.watcher = store.watch(PODS, "", list.revision).ok();
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn pod(name: &str, node: &str, secret: &str) -> (String, Value) {
        let text = format!(
            "metadata: {{name: {name}, namespace: 'n'}}\nspec: {{nodeName: '{node}', volumes: [{{name: v, secret: {{secretName: {secret}}}}}]}}"
        );
        (format!("n/{name}"), object::yaml::decode(text.as_bytes(), &object::Limits::REQUEST).unwrap().value)
    }

    #[test]
    fn references_last_as_long_as_a_pod_of_the_node_has_them() {
        let mut index = Index::default();
        let put = |index: &mut Index, (key, pod): (String, Value)| index.put(&key, &pod);
        put(&mut index, pod("p", "", "s"));
        assert!(!index.refers("a", Referred::Secret, "n/s"), "a pod without a node gives nothing to anybody");
        put(&mut index, pod("p", "a", "s"));
        put(&mut index, pod("q", "a", "s"));
        put(&mut index, pod("r", "b", "t"));
        assert!(index.refers("a", Referred::Secret, "n/s") && !index.refers("b", Referred::Secret, "n/s"));
        assert!(!index.refers("a", Referred::ConfigMap, "n/s") && !index.refers("a", Referred::Secret, "m/s"));
        index.remove("n/p");
        assert!(index.refers("a", Referred::Secret, "n/s"));
        put(&mut index, pod("q", "a", "other"));
        assert!(!index.refers("a", Referred::Secret, "n/s") && index.refers("a", Referred::Secret, "n/other"));
        index.remove("n/q");
        index.remove("n/r");
        assert!(index.pods.is_empty() && index.references.is_empty() && index.nodes.is_empty());
    }
}
