//! What every node must know of the cluster, published as the ConfigMap `kube-system/klynge-cluster`.

use super::addresses::{Ranges, joined, prefixes};
use client::{ClusterClient, PatchKind, Request, Target, Verb, WriteOptions};
use object::{GroupVersionResource, Map, Status, Value, json};
use std::net::SocketAddr;

const NAMESPACE: &str = "kube-system";
pub(crate) const NAME: &str = "klynge-cluster";

/// The facts.
#[derive(Clone, Debug)]
pub(crate) struct ClusterFacts {
    /// Ranges of pods and Services.
    pub(crate) ranges: Ranges,
    /// The domain of cluster DNS.
    pub(crate) domain: String,
    /// Where other machines reach the API.
    pub(crate) server: String,
}

pub(crate) fn target(name: &str) -> Target {
    Target {
        resource: GroupVersionResource::new("", "v1", "configmaps"),
        namespace: NAMESPACE.into(),
        name: name.into(),
        subresource: "".into(),
    }
}

impl ClusterFacts {
    /// Facts of a server that is reached at `address`.
    pub(super) fn new(ranges: Ranges, domain: &str, address: SocketAddr) -> Self {
        ClusterFacts { ranges, domain: domain.to_owned(), server: format!("https://{address}") }
    }

    /// Writes them, where they are not there yet or have changed.
    pub(super) async fn publish(&self, client: &dyn ClusterClient) -> Result<(), Status> {
        let data = [
            ("podCIDR", joined(&self.ranges.pods)),
            ("serviceCIDR", joined(&self.ranges.services)),
            ("clusterDomain", self.domain.clone()),
            ("server", self.server.clone()),
        ];
        let data = Value::Object(data.into_iter().map(|(key, text)| (key, Value::from(text))).collect::<Map>());
        match client.call(Request { target: target(NAME), verb: Verb::Get }).await {
            Ok(found) => {
                let found = json::decode(&found.json, &json::Limits::default()).map(|decoded| decoded.value);
                if found.is_ok_and(|found| found.get("data") == Some(&data)) {
                    return Ok(());
                }
                let mut patch = Value::default();
                patch.set(&["data"], data);
                let verb = Verb::Patch(PatchKind::Merge, patch, WriteOptions::default());
                client.call(Request { target: target(NAME), verb }).await.map(drop)
            }
            Err(status) if status.is_not_found() => {
                let mut object = Value::default();
                object.set(&["apiVersion"], "v1".into());
                object.set(&["kind"], "ConfigMap".into());
                object.set(&["metadata", "name"], NAME.into());
                object.set(&["data"], data);
                let verb = Verb::Create(object, WriteOptions::default());
                client.call(Request { target: target(""), verb }).await.map(drop)
            }
            Err(status) => Err(status),
        }
    }

    /// Reads them.
    pub(crate) async fn fetch(client: &dyn ClusterClient) -> Result<Self, Status> {
        let found = client.call(Request { target: target(NAME), verb: Verb::Get }).await?;
        let found = json::decode(&found.json, &json::Limits::default()).map_err(Status::internal)?.value;
        Self::read(&found).map_err(|why| Status::internal(format!("the ConfigMap {NAMESPACE}/{NAME}: {why}")))
    }

    /// From the decoded ConfigMap.
    pub(crate) fn read(object: &Value) -> Result<Self, String> {
        let text = |key: &str| object.str_at(&["data", key]).ok_or_else(|| format!("{key} is missing"));
        let ranges = |key: &str| prefixes(key, text(key)?).map_err(|failure| failure.to_string());
        Ok(ClusterFacts {
            ranges: Ranges { pods: ranges("podCIDR")?, services: ranges("serviceCIDR")? },
            domain: text("clusterDomain")?.to_owned(),
            server: text("server")?.to_owned(),
        })
    }
}
