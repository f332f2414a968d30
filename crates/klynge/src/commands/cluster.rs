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
    /// What is said where the server of a dev cluster does not answer.
    away: Option<String>,
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
        Ok(Cluster { runtime, client, away: away(&config) })
    }

    /// Whether the API answers that it is ready, within two seconds.
    pub(crate) fn ready(&self) -> bool {
        self.runtime.block_on(async {
            let answer = tokio::time::timeout(Duration::from_secs(2), self.client.get_path("/readyz")).await;
            matches!(answer, Ok(Ok(_)))
        })
    }

    /// Where the server of a dev cluster cannot be reached, what to do is another than for a machine's own.
    fn advised(&self, mut status: Status) -> Status {
        if let Some(away) = self.away.as_ref().filter(|_| status.code == 503 && !self.ready()) {
            status.message.clone_from(away);
        }
        status
    }

    /// One call; the answer is decoded.
    pub(crate) fn call(&self, target: Target, verb: Verb) -> Result<Value, Status> {
        let answer = self.runtime.block_on(self.client.call(Request { target, verb }));
        let answer = answer.map_err(|status| self.advised(status))?;
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
        let page = self.runtime.block_on(self.client.list(target, query));
        let page: Page = page.map_err(|status| self.advised(status))?;
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

/// A cluster of `klynge dev` is known by its context, which carries its name; those of whole machines have none or a number.
fn away(config: &Value) -> Option<String> {
    let name = config.str_at(&["current-context"])?.strip_prefix("klynge-")?;
    if name.is_empty() || name.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(format!(
        "the server of the cluster {name} of `klynge dev` does not answer; `klynge dev status --name {name}` shows its nodes, `klynge \
         dev node restart-agent {name}-1` starts the server again (`klynge dev node start {name}-1` where the node is off)"
    ))
}

fn decode(bytes: &[u8]) -> Result<Value, Status> {
    let decoded = json::decode(bytes, &json::Limits::default());
    decoded
        .map(|decoded| decoded.value)
        .map_err(|error| Status::internal(format!("the answer does not parse: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dev_cluster_is_not_told_to_start_with_up() {
        let said = |context: &str| away(&Value::Object([("current-context", context)].into_iter().collect()));
        for plain in ["", "klynge", "klynge-", "klynge-2", "work"] {
            assert_eq!(said(plain), None, "{plain}");
        }
        assert!(
            said("klynge-dev").is_some_and(|text| !text.contains("klynge up") && text.contains("restart-agent dev-1"))
        );
    }
}
