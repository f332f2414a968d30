//! Policies over the pods of a bed: one namespace "default" with pods labelled name=UID, more on request.

use std::collections::BTreeMap;
use std::sync::Arc;

use klynge_network::Prefix;
use klynge_network::netlink::{Family, NetworkNamespace};
use klynge_network::policy::{
    Change, Labels, LocalPod, NamedPort, Options, Peer, PodState, Policy, PolicyKey, Port, Programmer, Report, Rule,
};
use klynge_network::services::TransportProtocol;
use object::selector::labels::Selector;

use super::{Pod, prefix};

pub fn labels(text: &str) -> Labels {
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    pairs.filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

pub fn selector(text: &str) -> Selector {
    Selector::parse(text).unwrap()
}

pub fn tcp(first: u16, last: u16) -> Port {
    Port::Numbers { protocol: TransportProtocol::Tcp, first, last }
}

pub fn udp(first: u16, last: u16) -> Port {
    Port::Numbers { protocol: TransportProtocol::Udp, first, last }
}

pub fn named(name: &str) -> Port {
    Port::Named { protocol: TransportProtocol::Tcp, name: name.to_owned() }
}

/// Pods of the policy's own namespace.
pub fn own(pods: &str) -> Peer {
    Peer::Pods { namespaces: None, pods: selector(pods) }
}

pub fn of(namespaces: &str, pods: &str) -> Peer {
    Peer::Pods { namespaces: Some(selector(namespaces)), pods: selector(pods) }
}

pub fn block(range: &str, except: &[&str]) -> Peer {
    Peer::Block { range: prefix(range), except: except.iter().map(|text| prefix(text)).collect::<Vec<Prefix>>() }
}

pub fn rule(peers: Vec<Peer>, ports: Vec<Port>) -> Rule {
    Rule { peers, ports }
}

pub fn ingress(pods: &str, rules: Vec<Rule>) -> Policy {
    Policy { pods: selector(pods), ingress: Some(rules), egress: None }
}

pub fn egress(pods: &str, rules: Vec<Rule>) -> Policy {
    Policy { pods: selector(pods), ingress: None, egress: Some(rules) }
}

/// A programmer that knows everything: namespaces, and the pods of the bed.
pub struct Policies {
    pub programmer: Programmer,
    pub known: BTreeMap<String, LocalPod>,
}

impl Policies {
    pub fn new(namespace: &NetworkNamespace) -> Self {
        let mut policies = Self::unknown(namespace);
        policies.programmer.apply([Change::Recovered(Vec::new()), Change::Known]).unwrap();
        policies
    }

    /// As an agent begins: only the namespaces are known.
    pub fn unknown(namespace: &NetworkNamespace) -> Self {
        let stand_in = PodState {
            namespace: "kube-system".to_owned(),
            labels: labels("k8s-app=kube-dns"),
            ports: vec![NamedPort { name: "dns".to_owned(), protocol: 17, port: 53 }],
            addresses: vec![super::ip("10.43.0.10")],
        };
        let options = Options {
            namespace: namespace.clone(),
            families: vec![Family::Ip, Family::Ip6],
            stand_ins: vec![("dns".to_owned(), stand_in)],
        };
        let mut programmer = Programmer::new(options).unwrap();
        let namespaces = [("default", "team=a"), ("other", "team=b"), ("kube-system", "team=system")];
        let namespaces = namespaces.map(|(name, text)| (name.to_owned(), labels(text))).to_vec();
        programmer.apply([Change::Namespaces(namespaces)]).unwrap();
        Self { programmer, known: BTreeMap::new() }
    }

    /// Attaches pods with labels name=UID and more, in a namespace, with a port named "web" at 8080.
    pub fn attach(&mut self, pod: &Pod, namespace: &str, more: &str) -> Report {
        let mut all = labels(more);
        all.insert("name".to_owned(), pod.uid.clone());
        let state = PodState {
            namespace: namespace.to_owned(),
            labels: all,
            ports: vec![NamedPort { name: "web".to_owned(), protocol: 6, port: 8080 }],
            addresses: pod.addresses.clone(),
        };
        let local = LocalPod { uid: pod.uid.clone(), interface: pod.interface.clone(), state };
        self.known.insert(pod.uid.clone(), local.clone());
        self.programmer.apply([Change::Attached(local)]).unwrap()
    }

    /// The API tells of other labels.
    pub fn relabel(&mut self, uid: &str, text: &str) -> Report {
        let state = PodState { labels: labels(text), ..self.known[uid].state.clone() };
        self.programmer.apply([Change::Pod(uid.to_owned(), Some(Arc::new(state)))]).unwrap()
    }

    pub fn set(&mut self, name: &str, policy: Policy) -> Report {
        self.set_in("default", name, policy)
    }

    pub fn set_in(&mut self, namespace: &str, name: &str, policy: Policy) -> Report {
        let key = PolicyKey::new(namespace, name);
        self.programmer.apply([Change::Policy(key, Some(Arc::new(policy)))]).unwrap()
    }

    pub fn remove(&mut self, name: &str) -> Report {
        self.programmer.apply([Change::Policy(PolicyKey::new("default", name), None)]).unwrap()
    }
}
