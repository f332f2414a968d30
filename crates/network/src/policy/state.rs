//! What the rest of the node tells the data plane about policies, pods and namespaces.

use std::collections::BTreeMap;
use std::net::IpAddr;

use object::selector::labels::Selector;
use serde::{Deserialize, Serialize};

use crate::Prefix;
use crate::services::TransportProtocol;

/// Labels of a pod or namespace.
pub type Labels = BTreeMap<String, String>;

/// Names one policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    /// Its namespace, whose pods it selects.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl PolicyKey {
    /// The policy of this namespace and name.
    #[must_use]
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The pods of its namespace that it selects.
    pub pods: Selector,
    /// Who may call them; none where it does not isolate them in this direction.
    pub ingress: Option<Vec<Rule>>,
    /// Whom they may call; none where it does not isolate them in this direction.
    pub egress: Option<Vec<Rule>>,
}

/// What is allowed: one of the peers at one of the ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The other side; an empty list is everybody.
    pub peers: Vec<Peer>,
    /// The destination's ports; an empty list is all of every protocol.
    pub ports: Vec<Port>,
}

/// The other side of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Pods.
    Pods {
        /// Their namespaces; the policy's own where absent.
        namespaces: Option<Selector>,
        /// The pods within these.
        pods: Selector,
    },
    /// Addresses.
    Block {
        /// The range.
        range: Prefix,
        /// Parts of it that do not count.
        except: Vec<Prefix>,
    },
    /// One that cannot be understood: nobody.
    Nobody,
}

/// A destination's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// Numbers from the first to the last.
    Numbers {
        /// The protocol.
        protocol: TransportProtocol,
        /// The first.
        first: u16,
        /// The last; below the first means none.
        last: u16,
    },
    /// The container port of this name, whatever its number is in each pod.
    Named {
        /// The protocol.
        protocol: TransportProtocol,
        /// The name.
        name: String,
    },
}

/// A container port with a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// Its protocol's number.
    pub protocol: u8,
    /// Its number.
    pub port: u16,
}

/// A pod as policies see it. Pods of the host's network and pods that have ended are not told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodState {
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: Labels,
    /// Its container ports that have a name.
    pub ports: Vec<NamedPort>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A pod that is attached to this node's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// Its uid.
    pub uid: String,
    /// The host's interface to it.
    pub interface: String,
    /// What it is like, with its addresses; labels and ports hold until the feed has told of the pod.
    pub state: PodState,
}
