//! The cluster at its lowest seam: a `ClusterClient` over a map, with revisions, watches, and graceful deletion.

use async_trait::async_trait;
use client::{
    ClusterClient, EventKind, Object, Page, PatchKind, Query, Request, Target, Verb, WatchEvent, WatchStream,
};
use object::Status;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

type Key = (String, String, String);

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<Key, Value>,
    history: Vec<(u64, Key, EventKind, Value)>,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct MemoryApi {
    /// Held from reading an object to writing it changed, so that two changes at once both count.
    changing: Arc<Mutex<()>>,
    state: Arc<Mutex<State>>,
    moved: watch::Sender<u64>,
    /// While false every request fails, as if the server were away.
    pub(crate) reachable: watch::Sender<bool>,
}

fn from_value(value: &object::Value) -> Value {
    match value {
        object::Value::Null => Value::Null,
        object::Value::Bool(flag) => json!(flag),
        object::Value::Int(number) => json!(number),
        object::Value::Float(number) => json!(number),
        object::Value::String(text) => json!(text.as_str()),
        object::Value::Array(items) => items.iter().map(from_value).collect(),
        object::Value::Object(map) => {
            Value::Object(map.iter().map(|(key, value)| (key.to_owned(), from_value(value))).collect())
        }
    }
}

fn merge(into: &mut Value, patch: &Value, strategic: bool) {
    let Some(patch) = patch.as_object() else { return into.clone_from(patch) };
    if !into.is_object() {
        *into = json!({});
    }
    let map = into.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            map.remove(key);
        } else if strategic && key == "conditions" {
            let list = map.entry(key.clone()).or_insert(json!([])).as_array_mut().unwrap();
            for one in value.as_array().unwrap() {
                match list.iter_mut().find(|have| have["type"] == one["type"]) {
                    Some(have) => merge(have, one, strategic),
                    None => {
                        let mut fresh = json!({});
                        merge(&mut fresh, one, strategic);
                        list.push(fresh);
                    }
                }
            }
        } else if let (true, Some(items)) = (strategic, value.as_array()) {
            let items = items.iter().filter(|item| item.get("$patch").is_none()).cloned();
            map.insert(key.clone(), items.collect());
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value, strategic);
        }
    }
}

fn selects(query: &Query, object: &Value) -> bool {
    query.fields.split(',').filter(|one| !one.is_empty()).all(|one| {
        let (path, wanted) = one.split_once('=').unwrap();
        let found = path.split('.').fold(object, |node, name| &node[name]);
        found.as_str().unwrap_or_default() == wanted
    })
}

impl MemoryApi {
    pub(crate) fn new() -> Self {
        Self {
            state: Arc::default(),
            changing: Arc::default(),
            moved: watch::channel(0).0,
            reachable: watch::channel(true).0,
        }
    }

    pub(crate) fn client(&self) -> Arc<dyn ClusterClient> {
        Arc::new(self.clone())
    }

    fn key(resource: &str, namespace: &str, name: &str) -> Key {
        (resource.to_owned(), namespace.to_owned(), name.to_owned())
    }

    fn put(&self, key: Key, mut object: Value) -> Value {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        let revision = state.revision;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        let kind = if state.objects.contains_key(&key) { EventKind::Modified } else { EventKind::Added };
        state.objects.insert(key.clone(), object.clone());
        state.history.push((revision, key, kind, object.clone()));
        drop(state);
        self.moved.send_replace(revision);
        object
    }

    fn drop_object(&self, key: &Key) -> Option<Value> {
        let mut state = self.state.lock().unwrap();
        let object = state.objects.remove(key)?;
        state.revision += 1;
        let revision = state.revision;
        state.history.push((revision, key.clone(), EventKind::Deleted, object.clone()));
        drop(state);
        self.moved.send_replace(revision);
        Some(object)
    }

    /// Creates an object as a person would.
    pub(crate) fn create(&self, resource: &str, mut object: Value) -> Value {
        let meta = &mut object["metadata"];
        let namespace = meta["namespace"].as_str().unwrap_or_default().to_owned();
        let name = meta["name"].as_str().unwrap().to_owned();
        let serial = self.state.lock().unwrap().revision;
        meta["uid"] = json!(format!("{name}-{serial}-{}", std::process::id()));
        meta["generation"] = json!(1);
        meta["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        self.put(Self::key(resource, &namespace, &name), object)
    }

    pub(crate) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(&Self::key(resource, namespace, name)).cloned()
    }

    pub(crate) fn all(&self, resource: &str) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        state.objects.iter().filter(|(key, _)| key.0 == resource).map(|(_, object)| object.clone()).collect()
    }

    pub(crate) fn change(&self, resource: &str, namespace: &str, name: &str, patch: Value) {
        let _changing = self.changing.lock().unwrap();
        let mut object = self.get(resource, namespace, name).unwrap();
        merge(&mut object, &patch, false);
        self.put(Self::key(resource, namespace, name), object);
    }

    /// Deletes a pod as a person would: it gets its grace.
    pub(crate) fn delete_pod(&self, namespace: &str, name: &str, grace: i64) {
        let patch =
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": grace}});
        self.change("pods", namespace, name, patch);
    }

    /// Waits until an object is as wanted.
    pub(crate) async fn wait(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        good: impl Fn(Option<&Value>) -> bool,
    ) {
        let mut moved = self.moved.subscribe();
        let waiting = async {
            loop {
                moved.borrow_and_update();
                if good(self.get(resource, namespace, name).as_ref()) {
                    return;
                }
                moved.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(std::time::Duration::from_secs(30), waiting).await.is_err() {
            let events: Vec<String> =
                self.all("events").iter().map(|event| format!("{}: {}", event["reason"], event["message"])).collect();
            panic!(
                "{resource} {name} did not become as wanted: {:#?}\n{events:#?}",
                self.get(resource, namespace, name)
            );
        }
    }

    fn away(&self) -> Result<(), Status> {
        if *self.reachable.borrow() { Ok(()) } else { Err(Status::unavailable("the API is away")) }
    }
}

fn shown(object: &Value) -> Object {
    let revision = object["metadata"]["resourceVersion"].as_str().unwrap_or("0").parse().unwrap();
    Object { revision, json: serde_json::to_vec(object).unwrap().into(), shared: None }
}

#[async_trait]
impl ClusterClient for MemoryApi {
    async fn call(&self, request: Request) -> Result<Object, Status> {
        self.away()?;
        let Target { resource, namespace, name, subresource } = &request.target;
        let key = Self::key(&resource.resource, namespace, name);
        let missing = || Status::not_found(resource, name);
        match request.verb {
            Verb::Create(object, _) if subresource == "token" => {
                let mut answer = from_value(&object);
                answer["status"] = json!({"token": "a.b.c", "expirationTimestamp": "2100-01-01T00:00:00Z"});
                Ok(shown(&answer))
            }
            Verb::Create(object, _) => {
                let object = from_value(&object);
                let name = object["metadata"]["name"].as_str().unwrap().to_owned();
                if self.get(&resource.resource, namespace, &name).is_some() {
                    return Err(Status::already_exists(resource, &name));
                }
                Ok(shown(&self.create(&resource.resource, object)))
            }
            Verb::Get => self.get(&resource.resource, namespace, name).map(|object| shown(&object)).ok_or_else(missing),
            Verb::Update(object, _) => Ok(shown(&self.put(key, from_value(&object)))),
            Verb::Patch(kind, patch, _) => {
                let _changing = self.changing.lock().unwrap();
                let mut object = self.get(&resource.resource, namespace, name).ok_or_else(missing)?;
                let mut patch = from_value(&patch);
                let uid = patch.get_mut("metadata").and_then(Value::as_object_mut).and_then(|meta| meta.remove("uid"));
                if uid.is_some_and(|uid| uid != object["metadata"]["uid"]) {
                    return Err(Status::conflict(resource, name, "another uid"));
                }
                merge(&mut object, &patch, kind == PatchKind::Strategic);
                Ok(shown(&self.put(key, object)))
            }
            Verb::Delete(options) => {
                let object = self.get(&resource.resource, namespace, name).ok_or_else(missing)?;
                assert_eq!(options.grace_period_seconds, Some(0));
                if object["metadata"]["uid"] != options.uid.as_str() {
                    return Err(Status::conflict(resource, name, "another uid"));
                }
                self.drop_object(&key).map(|object| shown(&object)).ok_or_else(missing)
            }
        }
    }

    async fn list(&self, target: Target, query: Query) -> Result<Page, Status> {
        self.away()?;
        let state = self.state.lock().unwrap();
        let of = |key: &Key| {
            key.0 == target.resource.resource.as_str()
                && (target.namespace.is_empty() || key.1 == target.namespace.as_str())
        };
        let found = state.objects.iter().filter(|(key, object)| of(key) && selects(&query, object));
        Ok(Page {
            objects: found.map(|(_, object)| shown(object)).collect(),
            revision: state.revision,
            continuation: String::new(),
        })
    }

    async fn watch(&self, target: Target, query: Query, revision: u64) -> Result<WatchStream, Status> {
        self.away()?;
        let api = self.clone();
        let start = (api, self.moved.subscribe(), self.reachable.subscribe(), revision, target, query);
        Ok(Box::pin(futures_util::stream::unfold(
            start,
            |(api, mut moved, mut reachable, revision, target, query)| async move {
                loop {
                    moved.borrow_and_update();
                    if !*reachable.borrow_and_update() {
                        return None;
                    }
                    let next = {
                        let state = api.state.lock().unwrap();
                        let of = |key: &Key| {
                            key.0 == target.resource.resource.as_str()
                                && (target.namespace.is_empty() || key.1 == target.namespace.as_str())
                        };
                        let mut later = state.history.iter().skip_while(|(at, ..)| *at <= revision);
                        later.find(|(_, key, _, object)| of(key) && selects(&query, object)).cloned()
                    };
                    if let Some((at, _, kind, object)) = next {
                        let mut object = shown(&object);
                        object.revision = at;
                        let event = WatchEvent { kind, object };
                        return Some((Ok(event), (api, moved, reachable, at, target, query)));
                    }
                    tokio::select! {
                        _ = moved.changed() => {}
                        _ = reachable.changed() => {}
                    }
                }
            },
        )))
    }

    fn acting_as(&self, _: &str, _: &[&str]) -> Option<Arc<dyn ClusterClient>> {
        None
    }
}
