//! The cluster as the commands see it: the client of the kubeconfig in force, and a runtime to wait on.

use super::kubeconfig;
use crate::cli::{Failure, Global};
use client::{ClusterClient as _, Endpoint, EventKind, Https, Page, Query, Request, Target, Verb, WriteOptions};
use object::{GroupVersionResource, Status, Value, json};
use std::time::Duration;

/// A connection with its own small runtime.
pub(crate) struct Cluster {
    runtime: tokio::runtime::Runtime,
    client: Https,
}

/// A target in the version that these commands speak.
pub(crate) fn target(group: &str, resource: &str, namespace: &str, name: &str) -> Target {
    let resource = GroupVersionResource::new(group, "v1", resource);
    Target { resource, namespace: namespace.into(), name: name.into(), subresource: "".into() }
}

impl Cluster {
    /// Connects to the cluster of the kubeconfig in force.
    pub(crate) fn connect(global: &Global) -> Result<Self, Failure> {
        let (path, config) = kubeconfig::in_force(global)?;
        let wrong = |error: String| Failure::Failed(format!("{}: {error}", path.display()));
        let endpoint = Endpoint::from_kubeconfig(&config).map_err(wrong)?;
        let client = Https::new(endpoint).map_err(wrong)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
        Ok(Cluster { runtime, client })
    }

    /// Whether the API answers that it is ready, within two seconds.
    pub(crate) fn ready(&self) -> bool {
        self.runtime.block_on(async {
            let answer = tokio::time::timeout(Duration::from_secs(2), self.client.get_path("/readyz")).await;
            matches!(answer, Ok(Ok(_)))
        })
    }

    /// One call; the answer is decoded.
    pub(crate) fn call(&self, target: Target, verb: Verb) -> Result<Value, Status> {
        let answer = self.runtime.block_on(self.client.call(Request { target, verb }))?;
        decode(&answer.json)
    }

    /// One object; None where it is not there.
    pub(crate) fn get(&self, target: Target) -> Result<Option<Value>, Status> {
        match self.call(target, Verb::Get) {
            Ok(value) => Ok(Some(value)),
            Err(status) if status.is_not_found() => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// Creates an object.
    pub(crate) fn create(&self, target: Target, object: Value) -> Result<Value, Status> {
        let options = WriteOptions { field_manager: "klynge".to_owned(), ..WriteOptions::default() };
        self.call(target, Verb::Create(object, options))
    }

    /// A whole collection, decoded.
    pub(crate) fn list(&self, target: Target, query: Query) -> Result<Vec<Value>, Status> {
        let page: Page = self.runtime.block_on(self.client.list(target, query))?;
        page.objects.iter().map(|object| decode(&object.json)).collect()
    }

    /// Follows collections from their state of now until `done` answers something for one of their objects (told with the
    /// collection's index), or the time is over: then None.
    pub(crate) fn wait<T>(
        &self,
        collections: &[(Target, Query)],
        timeout: Duration,
        mut done: impl FnMut(usize, &Value) -> Option<T>,
    ) -> Result<Option<T>, Status> {
        use futures_util::StreamExt as _;
        self.runtime.block_on(async {
            let follow = async {
                let mut watches = futures_util::stream::SelectAll::new();
                for (index, (target, query)) in collections.iter().enumerate() {
                    let page = self.client.list(target.clone(), query.clone()).await?;
                    for object in &page.objects {
                        if let Some(found) = done(index, &decode(&object.json)?) {
                            return Ok(found);
                        }
                    }
                    let events = self.client.watch(target.clone(), query.clone(), page.revision).await?;
                    watches.push(events.map(move |event| (index, event)).boxed());
                }
                while let Some((index, event)) = watches.next().await {
                    let event = event?;
                    if event.kind == EventKind::Bookmark {
                        continue;
                    }
                    if let Some(found) = done(index, &decode(&event.object.json)?) {
                        return Ok(found);
                    }
                }
                Err(Status::unavailable("the watch ended; is the server still running?"))
            };
            tokio::time::timeout(timeout, follow).await.ok().transpose()
        })
    }
}

fn decode(bytes: &[u8]) -> Result<Value, Status> {
    let decoded = json::decode(bytes, &json::Limits::default());
    decoded
        .map(|decoded| decoded.value)
        .map_err(|error| Status::internal(format!("the answer does not parse: {error}")))
}
