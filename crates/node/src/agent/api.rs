//! Short forms of the requests that the node makes, over the one client.

use client::{ClusterClient, DeleteOptions, PatchKind, Request, Target, Verb, WriteOptions};
use object::{GroupVersionResource, Map, Status, Str, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

const MANAGER: &str = "kubelet";

/// JSON as the API's value tree.
#[must_use]
pub fn to_value(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(flag) => Value::Bool(flag),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(number) => Value::Int(number),
            None => Value::Float(number.as_f64().unwrap_or(0.0)),
        },
        serde_json::Value::String(text) => Value::String(Str::from(text)),
        serde_json::Value::Array(items) => Value::Array(items.into_iter().map(to_value).collect()),
        serde_json::Value::Object(map) => {
            Value::Object(map.into_iter().map(|(key, value)| (Str::from(key), to_value(value))).collect::<Map>())
        }
    }
}

/// A cluster client with the node's habits.
#[derive(Clone)]
pub struct Api(pub Arc<dyn ClusterClient>);

/// What to talk about.
#[must_use]
pub fn target(group: &str, resource: &str, namespace: &str, name: &str, subresource: &str) -> Target {
    Target {
        resource: GroupVersionResource::new(group, "v1", resource),
        namespace: namespace.into(),
        name: name.into(),
        subresource: subresource.into(),
    }
}

fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(json)
        .map_err(|error| Status::internal(format!("an object of the API cannot be read: {error}")))
}

fn encode(object: &impl Serialize) -> Result<Value, Status> {
    serde_json::to_value(object)
        .map(to_value)
        .map_err(|error| Status::internal(format!("an object cannot be written: {error}")))
}

impl Api {
    /// Reads one.
    ///
    /// # Errors
    /// The API's answer.
    pub async fn get<T: DeserializeOwned>(&self, target: Target) -> Result<T, Status> {
        decode(&self.0.call(Request { target, verb: Verb::Get }).await?.json)
    }

    /// Creates one.
    ///
    /// # Errors
    /// The API's answer.
    pub async fn create<T: DeserializeOwned>(&self, target: Target, object: &impl Serialize) -> Result<T, Status> {
        let options = WriteOptions { field_manager: MANAGER.into(), ..WriteOptions::default() };
        let verb = Verb::Create(encode(object)?, options);
        decode(&self.0.call(Request { target, verb }).await?.json)
    }

    /// Replaces one.
    ///
    /// # Errors
    /// The API's answer.
    pub async fn update(&self, target: Target, object: &impl Serialize) -> Result<(), Status> {
        let options = WriteOptions { field_manager: MANAGER.into(), ..WriteOptions::default() };
        self.0.call(Request { target, verb: Verb::Update(encode(object)?, options) }).await.map(drop)
    }

    /// Changes one; the revision of the change.
    ///
    /// # Errors
    /// The API's answer.
    pub async fn patch(&self, target: Target, kind: PatchKind, patch: serde_json::Value) -> Result<u64, Status> {
        let options = WriteOptions { field_manager: MANAGER.into(), ..WriteOptions::default() };
        let verb = Verb::Patch(kind, to_value(patch), options);
        self.0.call(Request { target, verb }).await.map(|object| object.revision)
    }

    /// Finishes a pod's deletion: with grace 0, and only this very pod.
    ///
    /// # Errors
    /// The API's answer.
    pub async fn finish_deletion(&self, namespace: &str, name: &str, uid: &str) -> Result<(), Status> {
        let options = DeleteOptions { grace_period_seconds: Some(0), uid: uid.into(), ..DeleteOptions::default() };
        let target = target("", "pods", namespace, name, "");
        self.0.call(Request { target, verb: Verb::Delete(options) }).await.map(drop)
    }
}
