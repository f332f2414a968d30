//! What the data plane needs to know of NetworkPolicies, namespaces and pods, taken from the API's objects: pure.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use network::Prefix;
use network::policy::{Labels, NamedPort, Peer, PodState, Policy, PolicyKey, Port, Rule};
use object::Str;
use object::selector::labels::{Error, Operator, Requirement, Selector};
use serde::Deserialize;

use crate::adapters::protocol;

/// A pod as far as policies are concerned: the rest of it is not even read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodFacts {
    metadata: Metadata,
    spec: Spec,
    status: Status,
}

/// A namespace as far as policies are concerned.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NamespaceFacts {
    metadata: Metadata,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
    namespace: String,
    uid: String,
    labels: Option<Labels>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    host_network: Option<bool>,
    containers: Vec<Container>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Container {
    ports: Option<Vec<ContainerPort>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerPort {
    name: Option<String>,
    protocol: Option<String>,
    container_port: i32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

impl NamespaceFacts {
    /// Its name and labels.
    pub(super) fn into_parts(self) -> (String, Labels) {
        (self.metadata.name, self.metadata.labels.unwrap_or_default())
    }
}

impl PodFacts {
    /// Its uid.
    pub(super) fn uid(&self) -> &str {
        &self.metadata.uid
    }

    /// What policies see; none of a pod of the host's network, which is the node, and of one that has ended, whose address may be another's.
    pub(super) fn state(&self) -> Option<PodState> {
        let has_ended = matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if has_ended || self.spec.host_network == Some(true) {
            return None;
        }
        let containers = self.spec.containers.iter().chain(self.spec.init_containers.iter().flatten());
        let ports = containers.flat_map(|container| container.ports.iter().flatten());
        let ports =
            ports.filter_map(|port| named_port(port.name.as_deref(), port.protocol.as_deref(), port.container_port));
        Some(PodState {
            namespace: self.metadata.namespace.clone(),
            labels: self.metadata.labels.clone().unwrap_or_default(),
            ports: ports.collect(),
            addresses: self.status.pod_ips.iter().flatten().filter_map(|one| one.ip.parse().ok()).collect(),
        })
    }
}

fn named_port(name: Option<&str>, of: Option<&str>, number: i32) -> Option<NamedPort> {
    let name = name.filter(|name| !name.is_empty())?.to_owned();
    Some(NamedPort { name, protocol: protocol(of).number(), port: u16::try_from(number).ok()? })
}

/// What policies see of a pod that is being attached: its addresses are still to be filled in.
pub(crate) fn pod_state(pod: &Pod) -> PodState {
    let spec = pod.spec.as_ref();
    let containers = spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let ports =
        ports.filter_map(|port| named_port(port.name.as_deref(), port.protocol.as_deref(), port.container_port));
    PodState {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        ports: ports.collect(),
        addresses: Vec::new(),
    }
}

/// The key of a policy.
pub(super) fn policy_key(policy: &NetworkPolicy) -> PolicyKey {
    let meta = &policy.metadata;
    PolicyKey::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// A policy as the data plane takes it. What cannot be understood allows nobody; a policy whose own selector cannot be understood
/// selects no pod.
#[must_use]
pub fn policy(object: &NetworkPolicy) -> Policy {
    let Some(spec) = &object.spec else { return Policy { pods: Selector::nothing(), ingress: None, egress: None } };
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let is_of = |name: &str| types.iter().any(|one| one == name);
    let has_egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
    let (is_ingress, is_egress) =
        if types.is_empty() { (true, has_egress) } else { (is_of("Ingress"), is_of("Egress")) };
    let pods = spec.pod_selector.as_ref().map_or_else(|| Ok(Selector::everything()), selector);
    let pods = pods.unwrap_or_else(|error| {
        let key = policy_key(object);
        tracing::warn!(namespace = key.namespace, policy = key.name, %error, "this policy's podSelector cannot be understood");
        Selector::nothing()
    });
    let ingress = |one: &NetworkPolicyIngressRule| rule(one.from.as_deref(), one.ports.as_deref());
    let egress = |one: &NetworkPolicyEgressRule| rule(one.to.as_deref(), one.ports.as_deref());
    Policy {
        pods,
        ingress: is_ingress.then(|| spec.ingress.iter().flatten().map(ingress).collect()),
        egress: is_egress.then(|| spec.egress.iter().flatten().map(egress).collect()),
    }
}

fn rule(peers: Option<&[NetworkPolicyPeer]>, ports: Option<&[NetworkPolicyPort]>) -> Rule {
    Rule {
        peers: peers.unwrap_or_default().iter().map(|one| peer(one).unwrap_or(Peer::Nobody)).collect(),
        ports: ports.unwrap_or_default().iter().map(port).collect(),
    }
}

fn peer(peer: &NetworkPolicyPeer) -> Option<Peer> {
    if let Some(block) = &peer.ip_block {
        let range: Prefix = block.cidr.parse().ok()?;
        let except = block.except.iter().flatten().map(|text| text.parse().ok()).collect::<Option<Vec<Prefix>>>()?;
        return Some(Peer::Block { range, except });
    }
    if peer.pod_selector.is_none() && peer.namespace_selector.is_none() {
        return None;
    }
    Some(Peer::Pods {
        namespaces: peer.namespace_selector.as_ref().map(selector).transpose().ok()?,
        pods: peer.pod_selector.as_ref().map_or_else(|| Ok(Selector::everything()), selector).ok()?,
    })
}

fn port(port: &NetworkPolicyPort) -> Port {
    let protocol = protocol(port.protocol.as_deref());
    let number = |number: i32| u16::try_from(number).ok();
    match &port.port {
        None => Port::Numbers { protocol, first: 0, last: u16::MAX },
        Some(IntOrString::String(name)) => Port::Named { protocol, name: name.clone() },
        Some(IntOrString::Int(first)) => match (number(*first), number(port.end_port.unwrap_or(*first))) {
            (Some(first), Some(last)) => Port::Numbers { protocol, first, last },
            // No port has such a number.
            _ => Port::Numbers { protocol, first: 1, last: 0 },
        },
    }
}

fn selector(selector: &LabelSelector) -> Result<Selector, Error> {
    let mut requirements = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        requirements.push(Requirement::new(key, Operator::In, [Str::from(value.as_str())])?);
    }
    for one in selector.match_expressions.iter().flatten() {
        let operator = match one.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => return Err(Error(format!("{other:?} is not a valid label selector operator"))),
        };
        let values = one.values.iter().flatten().map(|value| Str::from(value.as_str()));
        requirements.push(Requirement::new(&one.key, operator, values)?);
    }
    Ok(Selector::of(requirements))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use network::services::TransportProtocol::{Sctp, Tcp, Udp};
    use serde_json::{Value, json};

    fn translated(spec: Value) -> Policy {
        policy(&serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})).unwrap())
    }

    #[test]
    fn directions_follow_policy_types_and_their_defaults() {
        let directions = |spec: Value| {
            let policy = translated(spec);
            (policy.ingress.map(|rules| rules.len()), policy.egress.map(|rules| rules.len()))
        };
        for (spec, wanted) in [
            (json!({"podSelector": {}}), (Some(0), None)),
            (json!({"podSelector": {}, "egress": [{}]}), (Some(0), Some(1))),
            (json!({"podSelector": {}, "egress": []}), (Some(0), None)),
            (json!({"podSelector": {}, "policyTypes": ["Egress"]}), (None, Some(0))),
            (json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [{}]}), (None, Some(0))),
            (json!({"podSelector": {}, "policyTypes": ["Ingress"], "egress": [{}]}), (Some(0), None)),
            (json!({"policyTypes": ["Ingress", "Egress"], "ingress": [{}, {}]}), (Some(2), Some(0))),
        ] {
            assert_eq!(directions(spec.clone()), wanted, "{spec}");
        }
    }

    #[test]
    fn peers_and_ports() {
        let rule = |rule: Value| translated(json!({"podSelector": {}, "ingress": [rule]})).ingress.unwrap().remove(0);
        let text = |selector: &Selector| selector.to_string();
        assert_eq!(rule(json!({})), Rule::default());
        let peers = rule(json!({"from": [
            {"podSelector": {"matchLabels": {"a": "b"}}},
            {"namespaceSelector": {}},
            {"namespaceSelector": {"matchExpressions": [{"key": "t", "operator": "In", "values": ["x", "y"]}]}, "podSelector": {}},
            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
            {"ipBlock": {"cidr": "10.0.0.0/99"}},
            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}},
            {"podSelector": {"matchExpressions": [{"key": "t", "operator": "Near", "values": ["x"]}]}},
            {},
        ]}))
        .peers;
        let shown: Vec<String> = peers
            .iter()
            .map(|peer| match peer {
                Peer::Pods { namespaces, pods } => format!("{:?} {}", namespaces.as_ref().map(text), text(pods)),
                Peer::Block { range, except } => format!("{range} {except:?}").chars().take(10).collect(),
                Peer::Nobody => "nobody".to_owned(),
            })
            .collect();
        assert_eq!(
            shown,
            ["None a=b", "Some(\"\") ", "Some(\"t in (x,y)\") ", "10.0.0.0/8", "nobody", "nobody", "nobody", "nobody"]
        );
        let ports = rule(json!({"ports": [
            {}, {"port": 80}, {"port": 80, "endPort": 90, "protocol": "UDP"}, {"port": "web"}, {"protocol": "SCTP"},
            {"port": 70000},
        ]}))
        .ports;
        let numbers = |protocol, first, last| Port::Numbers { protocol, first, last };
        assert_eq!(
            ports,
            [
                numbers(Tcp, 0, 65535),
                numbers(Tcp, 80, 80),
                numbers(Udp, 80, 90),
                Port::Named { protocol: Tcp, name: "web".to_owned() },
                numbers(Sctp, 0, 65535),
                numbers(Tcp, 1, 0),
            ]
        );
    }

    #[test]
    fn pods_that_count() {
        let facts = |spec: Value, phase: &str| -> PodFacts {
            let status = json!({"phase": phase, "podIPs": [{"ip": "10.42.0.5"}, {"ip": "fd00::5"}], "conditions": []});
            let metadata = json!({"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "b"}, "generation": 1});
            serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()
        };
        let spec = json!({"nodeName": "x", "containers": [{"name": "c", "image": "i", "ports": [
            {"containerPort": 80, "name": "web"}, {"containerPort": 53, "name": "dns", "protocol": "UDP"}, {"containerPort": 1}]}]});
        let state = facts(spec.clone(), "Running").state().unwrap();
        assert_eq!((state.namespace.as_str(), state.labels["a"].as_str(), state.addresses.len()), ("n", "b", 2));
        let ports: Vec<_> = state.ports.iter().map(|port| (port.name.as_str(), port.protocol, port.port)).collect();
        assert_eq!(ports, [("web", 6, 80), ("dns", 17, 53)]);
        assert!(facts(spec.clone(), "Succeeded").state().is_none() && facts(spec, "Failed").state().is_none());
        assert!(facts(json!({"hostNetwork": true, "containers": []}), "Running").state().is_none());
        assert!(serde_json::from_value::<PodFacts>(json!({})).unwrap().state().is_some());
    }
}
