//! Follows the cluster's Nodes and keeps the pod network's routes to them.

use super::follow::target;
use crate::agent::{Change, PodNetwork, Recorder, follow};
use crate::lifecycle::Severity;
use base64::Engine as _;
use client::{ClusterClient, Query};
use k8s_openapi::api::core::v1::Node;
use network::netlink::PublicKey;
use network::pod_net::{EncryptionForm, Peer};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Others may remove routes at any time: an interface that goes down loses its own.
const VERIFY_EVERY: Duration = Duration::from_secs(10);
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The annotation of a Node that encrypts what goes between nodes: its public key, base64. The node itself writes it.
pub const ENCRYPTION_KEY: &str = "klynge.io/wireguard-public-key";

/// The annotation of such a Node that says who encrypts there: kernel or user-space.
pub const ENCRYPTION_FORM: &str = "klynge.io/wireguard-form";

/// How a node encrypts what goes between nodes.
#[derive(Clone, Copy, Debug)]
pub struct Encryption {
    /// The key that packets for its pods are encrypted for.
    pub key: PublicKey,
    /// Who does it.
    pub form: EncryptionForm,
}

fn encryption_key(node: &Node) -> Option<PublicKey> {
    let text = node.metadata.annotations.as_ref()?.get(ENCRYPTION_KEY)?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    bytes.try_into().ok().map(PublicKey)
}

/// The value of the annotation for a key.
#[must_use]
pub fn encryption_annotation(key: PublicKey) -> String {
    base64::engine::general_purpose::STANDARD.encode(key.0)
}

/// What the pod network must know of a node; none of one that has no pods' range or no address yet.
#[must_use]
pub fn peer(node: &Node) -> Option<Peer> {
    let ranges = node.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
    let pod_ranges: Vec<_> = ranges.iter().filter_map(|range| range.parse().ok()).collect();
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let internal = addresses.iter().filter(|address| address.type_ == "InternalIP");
    let addresses: Vec<_> = internal.filter_map(|address| address.address.parse().ok()).collect();
    let name = node.metadata.name.clone()?;
    let encryption_key = encryption_key(node);
    let since_s = node.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
    (!pod_ranges.is_empty() && !addresses.is_empty()).then_some(Peer {
        name,
        addresses,
        pod_ranges,
        encryption_key,
        since_s,
    })
}

/// Where a node's host can be asked whether it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// Its kubelet's port.
    pub(crate) address: SocketAddr,
    /// The servers hear nothing of it, and judge it no further: they may be the ones that are cut off.
    pub(crate) is_in_doubt: bool,
}

fn host(node: &Node, peer: &Peer) -> Option<Host> {
    let endpoints = node.status.as_ref()?.daemon_endpoints.as_ref()?;
    let port = u16::try_from(endpoints.kubelet_endpoint.as_ref()?.port).ok().filter(|port| *port > 0)?;
    let address = SocketAddr::new(*peer.addresses.first()?, port);
    Some(Host { address, is_in_doubt: is_in_doubt(node) })
}

fn is_in_doubt(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is_unheard = conditions.iter().any(|condition| {
        condition.type_ == "Ready"
            && condition.status == "Unknown"
            && condition.reason.as_deref() == Some("NodeStatusUnknown")
    });
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    is_unheard && !taints.iter().any(|taint| taint.key == "node.kubernetes.io/unreachable")
}

/// What is kept of the other nodes.
#[derive(Default)]
struct Others {
    peers: BTreeMap<String, Peer>,
    hosts: watch::Sender<BTreeMap<String, Host>>,
}

/// Keeps the routes until the process ends. Before the first list came nothing is touched: what the kernel holds from
/// before goes on.
pub(crate) async fn keep_peers(
    own_name: String,
    client: Arc<dyn ClusterClient>,
    network: Arc<dyn PodNetwork>,
    hosts: watch::Sender<BTreeMap<String, Host>>,
    recorder: Recorder,
) {
    let (sender, mut changes) = mpsc::channel(256);
    let mut following = JoinSet::new(); // ends with this future
    following.spawn(follow::<Node>(client, target("", "nodes"), Query::default(), sender));
    let mut others = Others { hosts, ..Others::default() };
    let mut told: Vec<String> = Vec::new();
    let mut retry: Option<Duration> = None;
    let mut looks = tokio::time::interval(VERIFY_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let mut verify = false;
        let mut dirty = tokio::select! {
            change = changes.recv() => match change {
                Some(change) => others.take(&own_name, change),
                None => return,
            },
            // A look of its own: in a large cluster some Node changes every second.
            _ = looks.tick() => {
                if let Err(error) = network.verify_rules().await {
                    tracing::warn!(%error, "the pod network's rules could not be verified");
                }
                verify = retry.is_none() && !others.peers.is_empty();
                retry.is_some()
            }
            () = tokio::time::sleep(retry.unwrap_or(VERIFY_EVERY)), if retry.is_some() => true,
        };
        while let Ok(change) = changes.try_recv() {
            dirty |= others.take(&own_name, change);
        }
        let outcome = match (dirty, verify) {
            (true, _) => network.set_peers(others.peers.values().cloned().collect()).await,
            (false, true) => network.verify_peers().await,
            (false, false) => continue,
        };
        match outcome {
            Ok(problems) => {
                for problem in problems.iter().filter(|problem| !told.contains(problem)) {
                    tracing::warn!(problem, "pods of another node cannot be reached");
                    recorder.node(&own_name, Severity::Warning, "NodeUnreachable", problem.clone());
                }
                told = problems;
                retry = None;
            }
            Err(error) => {
                let next = retry.map_or(RETRY_MIN, |wait| (wait * 2).min(RETRY_MAX));
                tracing::warn!(%error, retry_in = ?next, "the routes to other nodes could not be set");
                retry = Some(next);
            }
        }
    }
}

impl Others {
    /// Takes a change over; whether it matters to routes (heartbeats do not).
    fn take(&mut self, own_name: &str, change: Change<Node>) -> bool {
        match change {
            Change::All(nodes) => {
                let others = nodes.iter().filter(|node| node.metadata.name.as_deref() != Some(own_name));
                let known = others.filter_map(|node| Some((node, peer(node)?)));
                let mut hosts = BTreeMap::new();
                self.peers.clear();
                for (node, peer) in known {
                    hosts.extend(host(node, &peer).map(|host| (peer.name.clone(), host)));
                    self.peers.insert(peer.name.clone(), peer);
                }
                self.hosts.send_if_modified(|before| std::mem::replace(before, hosts.clone()) != hosts);
                true
            }
            Change::Put(node) => {
                let name = node.metadata.name.clone().unwrap_or_default();
                let Some(peer) = peer(&node).filter(|_| name != own_name) else { return self.forget(&name) };
                let host = host(&node, &peer);
                self.hosts.send_if_modified(|all| match host {
                    Some(host) => all.insert(name.clone(), host) != Some(host),
                    None => all.remove(&name).is_some(),
                });
                let has_changed = self.peers.get(&name) != Some(&peer);
                self.peers.insert(name, peer);
                has_changed
            }
            Change::Gone(node) => self.forget(node.metadata.name.as_deref().unwrap_or_default()),
        }
    }

    fn forget(&mut self, name: &str) -> bool {
        self.hosts.send_if_modified(|all| all.remove(name).is_some());
        self.peers.remove(name).is_some()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn node(name: &str, range: Option<&str>, address: &str, beat: u32) -> Arc<Node> {
        let object = json!({
            "metadata": {"name": name, "resourceVersion": beat.to_string()},
            "spec": {"podCIDRs": range.into_iter().collect::<Vec<_>>()},
            "status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}, "addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}]},
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_key_is_read_from_the_annotation() {
        let key = PublicKey([7; 32]);
        let with = |value: &str| {
            let mut node = (*node("a", Some("10.42.1.0/24"), "192.0.2.2", 1)).clone();
            node.metadata.annotations = Some(BTreeMap::from([(ENCRYPTION_KEY.to_owned(), value.to_owned())]));
            peer(&node).unwrap().encryption_key
        };
        assert_eq!(with(&encryption_annotation(key)), Some(key));
        assert_eq!((with("nonsense"), with("")), (None, None));
    }

    #[test]
    fn a_node_is_in_doubt_that_nobody_hears_and_nobody_judges() {
        let of = |status: &str, reason: &str, taint: Option<&str>| {
            let mut node = (*node("a", Some("10.42.1.0/24"), "192.0.2.2", 1)).clone();
            let conditions = json!([{"type": "Ready", "status": status, "reason": reason}]);
            node.status.as_mut().unwrap().conditions = serde_json::from_value(conditions).unwrap();
            let taints: Vec<_> = taint.iter().map(|key| json!({"key": key, "effect": "NoSchedule"})).collect();
            node.spec.as_mut().unwrap().taints = serde_json::from_value(json!(taints)).unwrap();
            let peer = peer(&node).unwrap();
            host(&node, &peer).unwrap().is_in_doubt
        };
        assert!(of("Unknown", "NodeStatusUnknown", None));
        assert!(of("Unknown", "NodeStatusUnknown", Some("node.kubernetes.io/unschedulable")));
        assert!(!of("Unknown", "NodeStatusUnknown", Some("node.kubernetes.io/unreachable")));
        assert!(!of("Unknown", "AgentStopped", None) && !of("True", "KubeletReady", None));
    }

    #[test]
    fn only_what_routes_depend_on_is_a_change() {
        let mut others = Others::default();
        let hosts = others.hosts.subscribe();
        let mut take = |change| {
            let changed = others.take("own", change);
            let names = others.peers.keys().cloned().collect::<Vec<_>>().join(" ");
            let asked = hosts.borrow();
            assert!(
                others
                    .peers
                    .values()
                    .all(|one| asked.get(&one.name).map(|host| host.address.ip()) == Some(one.addresses[0]))
            );
            assert_eq!(asked.len(), others.peers.len());
            (changed, names)
        };
        let range = Some("10.42.1.0/24");
        let all = vec![node("own", Some("10.42.0.0/24"), "192.0.2.1", 1), node("a", range, "192.0.2.2", 1)];
        assert_eq!(take(Change::All(all)), (true, "a".into()));
        assert_eq!(take(Change::Put(node("a", range, "192.0.2.2", 2))), (false, "a".into()));
        assert_eq!(take(Change::Put(node("b", None, "192.0.2.3", 3))), (false, "a".into()));
        assert_eq!(take(Change::Put(node("b", Some("10.42.2.0/24"), "192.0.2.3", 4))), (true, "a b".into()));
        assert_eq!(take(Change::Put(node("a", range, "192.0.2.9", 5))), (true, "a b".into()));
        assert_eq!(take(Change::Put(node("own", Some("10.42.0.0/24"), "192.0.2.8", 6))), (false, "a b".into()));
        assert_eq!(take(Change::Gone(node("a", range, "192.0.2.9", 7))), (true, "b".into()));
    }
}
