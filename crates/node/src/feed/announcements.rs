//! Which addresses of load balancers this node announces: those that a Service's status holds and its annotation gives to us.

use crate::agent::Recorder;
use k8s_openapi::api::core::v1::Service;
use network::announce::{Conflicts, Handle};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use tokio::sync::watch;

/// Written by the controller of load balancers.
const ANNOUNCED_BY: &str = "klynge.io/announced-by";
/// The Service whose uid all nodes of a cluster know, and no others.
const OF_THE_CLUSTER: (&str, &str) = ("default", "kubernetes");

type Key = (String, String);

#[derive(Deserialize)]
struct Announced {
    node: String,
    since: u64,
}

/// The addresses of one Service that `node` announces, with the numbers of the decisions.
fn addresses(service: &Service, node: &str) -> BTreeMap<IpAddr, u64> {
    let is_balanced = service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer");
    let text = service.metadata.annotations.as_ref().and_then(|all| all.get(ANNOUNCED_BY)).filter(|_| is_balanced);
    let Some(text) = text else { return BTreeMap::new() };
    let given: BTreeMap<IpAddr, Announced> = serde_json::from_str(text).unwrap_or_default();
    // The annotation can be written by whoever may change the Service, its status by fewer.
    let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    let held: Vec<IpAddr> = ingress.into_iter().flatten().filter_map(|one| one.ip.as_ref()?.parse().ok()).collect();
    let ours = given.into_iter().filter(|(address, by)| by.node == node && held.contains(address));
    ours.map(|(address, by)| (address, by.since)).collect()
}

/// What this node announces, by Service.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Assignments {
    /// None as long as the cluster is not known.
    cluster: Option<u64>,
    services: BTreeMap<Key, BTreeMap<IpAddr, u64>>,
}

impl Assignments {
    /// Of all Services.
    pub(super) fn of<'a>(services: impl Iterator<Item = (&'a Key, &'a Service)>, node: &str) -> Self {
        let mut found = Self::default();
        for (key, service) in services {
            found.update(key, Some(service), node);
        }
        found
    }

    /// Takes a Service's new state over; whether that changes what is announced.
    pub(super) fn update(&mut self, key: &Key, service: Option<&Service>, node: &str) -> bool {
        let mut changed = false;
        if (key.0.as_str(), key.1.as_str()) == OF_THE_CLUSTER {
            // It comes back at once where somebody deletes it; meanwhile the former number holds.
            let uid = service.and_then(|service| service.metadata.uid.as_deref());
            let cluster = uid.map(number).or(self.cluster);
            changed = cluster != self.cluster;
            self.cluster = cluster;
        }
        let addresses = service.map(|service| addresses(service, node)).unwrap_or_default();
        let before = if addresses.is_empty() {
            self.services.remove(key).unwrap_or_default()
        } else {
            self.services.insert(key.clone(), addresses.clone()).unwrap_or_default()
        };
        changed | (before != addresses)
    }

    /// Services that share an address have it by one decision; while they are being written the later one counts.
    fn all(&self) -> BTreeMap<IpAddr, u64> {
        let mut all = BTreeMap::new();
        for (address, since) in self.services.values().flatten() {
            let known = all.entry(*address).or_insert(*since);
            *known = (*since).max(*known);
        }
        all
    }
}

/// A number that follows from a uid (FNV-1a: any stable hash will do).
fn number(uid: &str) -> u64 {
    uid.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Announces addresses, and tells of those that hosts have.
pub struct Announcing {
    handle: Handle,
    recorder: Recorder,
}

impl Announcing {
    /// Through this announcer.
    #[must_use]
    pub fn new(handle: Handle, recorder: Recorder) -> Self {
        Self { handle, recorder }
    }

    pub(super) fn set(&self, assignments: &Assignments) {
        if let Some(cluster) = assignments.cluster {
            self.handle.set(cluster, assignments.all());
        }
    }

    pub(super) fn conflicts(&self) -> watch::Receiver<Conflicts> {
        self.handle.conflicts()
    }

    /// Tells each Service whose address a host has.
    pub(super) fn tell_conflicts<'a>(
        &self,
        conflicts: &Conflicts,
        services: impl Iterator<Item = &'a Service>,
        node: &str,
    ) {
        if conflicts.is_empty() {
            return;
        }
        for service in services {
            for address in addresses(service, node).keys() {
                let Some(link) = conflicts.get(address) else { continue };
                let link = link.map(|byte| format!("{byte:02x}")).join(":");
                let message = format!(
                    "{address} is not announced: a host with the Ethernet address {link} has it; take the address out of its pool, or from that host"
                );
                tracing::warn!(%address, %link, "an address of a load balancer is a host's, and not announced");
                self.recorder.service(service, "AddressConflict", message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn service(kind: &str, held: &[&str], text: &str) -> Service {
        let ingress: Vec<_> = held.iter().map(|ip| json!({ "ip": ip })).collect();
        serde_json::from_value(json!({
            "metadata": {"uid": "u", "annotations": {"klynge.io/announced-by": text}},
            "spec": {"type": kind}, "status": {"loadBalancer": {"ingress": ingress}},
        }))
        .unwrap()
    }

    fn shown(assignments: &Assignments) -> String {
        let all = assignments.all();
        all.iter().map(|(address, since)| format!("{address}@{since}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn only_what_the_status_holds_and_we_are_given_is_announced() {
        let both = r#"{"192.0.2.240": {"node": "a", "since": 7}, "2001:db8::1": {"node": "b", "since": 8}}"#;
        for (kind, held, text, wanted) in [
            ("LoadBalancer", &["192.0.2.240", "2001:db8::1"][..], both, "192.0.2.240@7"),
            ("LoadBalancer", &["2001:db8::1"], both, ""),
            ("ClusterIP", &["192.0.2.240"], both, ""),
            ("LoadBalancer", &["192.0.2.240"], "nonsense", ""),
        ] {
            let service = service(kind, held, text);
            let key = ("d".to_owned(), "web".to_owned());
            assert_eq!(shown(&Assignments::of([(&key, &service)].into_iter(), "a")), wanted, "{kind} {held:?} {text}");
        }
    }

    #[test]
    fn changes_are_told() {
        let key = |name: &str| ("default".to_owned(), name.to_owned());
        let by = |since: u32| format!(r#"{{"192.0.2.240": {{"node": "a", "since": {since}}}}}"#);
        let mut assignments = Assignments::default();
        let one = service("LoadBalancer", &["192.0.2.240"], &by(1));
        assert!(assignments.update(&key("one"), Some(&one), "a"));
        assert!(!assignments.update(&key("one"), Some(&one), "a"));
        assert_eq!(assignments.cluster, None);
        assert!(assignments.update(&key("kubernetes"), Some(&service("ClusterIP", &[], "")), "a"));
        assert_eq!(assignments.cluster, Some(number("u")));
        assert!(!assignments.update(&key("kubernetes"), None, "a"));
        assert!(assignments.update(&key("two"), Some(&service("LoadBalancer", &["192.0.2.240"], &by(2))), "a"));
        assert_eq!(shown(&assignments), "192.0.2.240@2");
        assert!(assignments.update(&key("two"), None, "a"));
        assert_eq!(shown(&assignments), "192.0.2.240@1");
    }
}
