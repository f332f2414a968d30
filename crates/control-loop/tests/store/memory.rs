//! The lowest seam, faked: a store in memory behind the client trait, with revisions, watches and conflicts as the API has them.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use client::{ClusterClient, Deletion, EventKind, Object, Page, Query, Request, Target, Verb, WatchEvent, WatchStream};
use futures_util::stream;
use object::Status;
use serde_json::{Value, json};
use tokio::sync::watch;

type Address = (String, String, String);

#[derive(Default)]
struct State {
    objects: BTreeMap<Address, Value>,
    log: Vec<(String, WatchEvent)>,
    revision: u64,
    /// Watches from before this revision have expired.
    compacted: u64,
}

/// The store; clones share it.
#[derive(Clone)]
pub(crate) struct Store {
    state: Arc<Mutex<State>>,
    revision: watch::Sender<u64>,
}

fn from_tree(value: &object::Value) -> Value {
    match value {
        object::Value::Null => Value::Null,
        object::Value::Bool(flag) => json!(flag),
        object::Value::Int(number) => json!(number),
        object::Value::Float(number) => json!(number),
        object::Value::String(text) => json!(text.as_str()),
        object::Value::Array(items) => items.iter().map(from_tree).collect(),
        object::Value::Object(map) => {
            map.iter().map(|(key, value)| (key.to_owned(), from_tree(value))).collect::<serde_json::Map<_, _>>().into()
        }
    }
}

fn merge(target: &mut Value, patch: &Value, strategic: bool) {
    let Value::Object(patch) = patch else {
        if let (true, Value::Array(known), Value::Array(new)) = (strategic, &mut *target, patch) {
            for item in new {
                known.retain(|old| old["type"] != item["type"]);
                known.push(item.clone());
            }
            return;
        }
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value, strategic);
        }
    }
}

impl Store {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), revision: watch::channel(0).0 }
    }

    pub(crate) fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(&(plural.into(), namespace.into(), name.into())).cloned()
    }

    pub(crate) fn all(&self, plural: &str) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        state.objects.iter().filter(|((known, ..), _)| known == plural).map(|(_, object)| object.clone()).collect()
    }

    pub(crate) fn put(&self, plural: &str, object: Value) -> Value {
        let mut state = self.state.lock().unwrap();
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
        let address = (plural.to_owned(), text("namespace"), text("name"));
        let object = state.write(address, object);
        self.revision.send_replace(state.revision);
        object
    }

    pub(crate) fn remove(&self, plural: &str, namespace: &str, name: &str) {
        let mut state = self.state.lock().unwrap();
        state.erase(&(plural.into(), namespace.into(), name.into()));
        self.revision.send_replace(state.revision);
    }

    /// Everything so far can no longer be watched; open watches end with 410.
    pub(crate) fn compact(&self) {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        state.compacted = state.revision;
        self.revision.send_replace(state.revision);
    }

    pub(crate) fn revision(&self) -> u64 {
        self.state.lock().unwrap().revision
    }
}

impl State {
    fn write(&mut self, address: Address, mut object: Value) -> Value {
        let old = self.objects.get(&address).cloned();
        let metadata = &mut object["metadata"];
        if let Some(old) = &old {
            metadata["uid"] = old["metadata"]["uid"].clone();
            metadata["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
            if *old == object {
                return object;
            }
        }
        self.revision += 1;
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = json!(self.revision.to_string());
        if old.is_none() {
            metadata["uid"] = json!(format!("uid-{}", self.revision));
            metadata["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
            metadata["generation"] = json!(1);
        }
        if let Some(old) = &old
            && old["spec"] != object["spec"]
        {
            object["metadata"]["generation"] = json!(old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
        let kind = if old.is_some() { EventKind::Modified } else { EventKind::Added };
        self.log.push((address.0.clone(), WatchEvent { kind, object: encoded(&object, self.revision) }));
        self.objects.insert(address, object.clone());
        object
    }

    fn erase(&mut self, address: &Address) {
        if let Some(object) = self.objects.remove(address) {
            self.revision += 1;
            self.log.push((
                address.0.clone(),
                WatchEvent { kind: EventKind::Deleted, object: encoded(&object, self.revision) },
            ));
        }
    }
}

fn encoded(object: &Value, revision: u64) -> Object {
    Object { revision, json: object.to_string().into(), shared: None }
}

#[async_trait]
impl ClusterClient for Store {
    async fn call(&self, request: Request) -> Result<Object, Status> {
        let Target { resource, namespace, name, subresource } = &request.target;
        let mut state = self.state.lock().unwrap();
        let plural = resource.resource.to_string();
        let mut address = (plural.clone(), namespace.to_string(), name.to_string());
        let known = state.objects.get(&address).cloned();
        let missing = || Status::not_found(resource, name);
        let object = match &request.verb {
            Verb::Get => known.ok_or_else(missing)?,
            Verb::Create(binding, _) if subresource == "binding" => {
                let mut pod = known.ok_or_else(missing)?;
                if !pod["spec"]["nodeName"].is_null() {
                    return Err(Status::conflict(resource, name, "already assigned"));
                }
                pod["spec"]["nodeName"] = json!(binding.str_at(&["target", "name"]).unwrap());
                state.write(address, pod)
            }
            Verb::Create(object, _) => {
                let mut object = from_tree(object);
                let name = match object["metadata"]["name"].as_str() {
                    Some(name) => name.to_owned(),
                    None => format!("{}{:05}", object["metadata"]["generateName"].as_str().unwrap(), state.revision),
                };
                object["metadata"]["name"] = json!(name);
                if namespace.is_empty() {
                    object["metadata"].as_object_mut().unwrap().remove("namespace");
                } else {
                    object["metadata"]["namespace"] = json!(namespace.as_str());
                }
                address.2.clone_from(&name);
                if state.objects.contains_key(&address) {
                    return Err(Status::already_exists(resource, &name));
                }
                if plural == "namespaces" {
                    object["spec"]["finalizers"] = json!(["kubernetes"]);
                }
                state.write(address, object)
            }
            Verb::Update(new, _) => {
                let old = known.ok_or_else(missing)?;
                let new = from_tree(new);
                if new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"] {
                    return Err(Status::modified(resource, name));
                }
                let mut object = old.clone();
                let part = match subresource.as_str() {
                    "" => None,
                    "finalize" => Some("spec"),
                    other => Some(other).map(|_| "status"),
                };
                if let Some(part) = part {
                    object[part] = new[part].clone();
                } else {
                    let status = object["status"].clone();
                    object = new;
                    if !status.is_null() {
                        object["status"] = status;
                    }
                }
                finish(&mut state, address, object)
            }
            Verb::Patch(kind, patch, _) => {
                let mut object = known.ok_or_else(missing)?;
                let patch = from_tree(patch);
                for field in ["uid", "resourceVersion"] {
                    let wanted = &patch["metadata"][field];
                    if !wanted.is_null() && *wanted != object["metadata"][field] {
                        return Err(Status::modified(resource, name));
                    }
                }
                merge(&mut object, &patch, *kind == client::PatchKind::Strategic);
                finish(&mut state, address, object)
            }
            Verb::Delete(options) => {
                let mut object = known.ok_or_else(missing)?;
                if !options.uid.is_empty() && object["metadata"]["uid"] != options.uid.as_str() {
                    return Err(Status::conflict(resource, name, "the uid differs"));
                }
                if options.propagation == Some(Deletion::Foreground) {
                    let mut finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
                    finalizers.push(json!("foregroundDeletion"));
                    object["metadata"]["finalizers"] = json!(finalizers);
                }
                if object["metadata"]["deletionTimestamp"].is_null() {
                    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                }
                if plural == "namespaces" {
                    object["status"]["phase"] = json!("Terminating");
                }
                let graceful = plural == "pods"
                    && !object["spec"]["nodeName"].is_null()
                    && options.grace_period_seconds != Some(0);
                if graceful { state.write(address, object) } else { finish(&mut state, address, object) }
            }
        };
        self.revision.send_replace(state.revision);
        let revision = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        Ok(encoded(&object, revision))
    }

    async fn list(&self, target: Target, _query: Query) -> Result<Page, Status> {
        let state = self.state.lock().unwrap();
        let objects = state.objects.iter().filter(|((plural, ..), _)| *plural == target.resource.resource);
        let objects = objects.map(|(_, object)| {
            encoded(object, object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap())
        });
        Ok(Page { objects: objects.collect(), revision: state.revision, continuation: String::new() })
    }

    async fn watch(&self, target: Target, _query: Query, revision: u64) -> Result<WatchStream, Status> {
        let plural = target.resource.resource.to_string();
        let (state, receiver) = (self.state.clone(), self.revision.subscribe());
        Ok(Box::pin(stream::unfold((revision, receiver, false), move |(at, mut receiver, ended)| {
            let (state, plural) = (state.clone(), plural.clone());
            async move {
                if ended {
                    return None;
                }
                loop {
                    receiver.borrow_and_update();
                    {
                        let state = state.lock().unwrap();
                        if at < state.compacted {
                            return Some((Err(Status::expired("too old resource version")), (at, receiver, true)));
                        }
                        let next =
                            state.log.iter().find(|(known, event)| *known == plural && event.object.revision > at);
                        if let Some((_, event)) = next {
                            return Some((Ok(event.clone()), (event.object.revision, receiver, false)));
                        }
                    }
                    receiver.changed().await.ok()?;
                }
            }
        })))
    }

    fn acting_as(&self, _user: &str, _groups: &[&str]) -> Option<Arc<dyn ClusterClient>> {
        None
    }
}

/// Writes, or removes what is being deleted and held by nothing.
fn finish(state: &mut State, address: Address, object: Value) -> Value {
    let held = object["metadata"]["finalizers"].as_array().is_some_and(|held| !held.is_empty())
        || address.0 == "namespaces" && object["spec"]["finalizers"].as_array().is_some_and(|held| !held.is_empty())
        || address.0 == "pods" && !object["spec"]["nodeName"].is_null() && object["status"]["phase"] == "Running";
    if !object["metadata"]["deletionTimestamp"].is_null() && !held {
        state.erase(&address);
        return object;
    }
    state.write(address, object)
}
