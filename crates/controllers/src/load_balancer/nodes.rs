//! What nodes have to do with load balancers: their addresses where there is no pool, and which of them announces a pool's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};

use super::pools::Range;
use super::wish::{Port, Wish, held};
use crate::presence::Presence;
use crate::view::View;
use crate::{meta, pods};

/// Upstream's label (KEP-1143) that takes a node out, whatever its value.
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The prefixes of a node's own networks, as its agent says them.
const SUBNETS: &str = "klynge.io/subnets";
/// How long a node has to be Ready before it takes addresses over from one that announces them.
const SETTLED_AFTER: SignedDuration = SignedDuration::from_secs(30);
/// SSH: whoever gives this port of a machine's address to a Service locks its people out.
const SSH_PORT: i32 = 22;

/// What matters of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeFacts {
    pub(super) name: String,
    pub(super) ready: bool,
    ready_since: Option<Timestamp>,
    excluded: bool,
    internal: Vec<IpAddr>,
    external: Vec<IpAddr>,
    /// None where the agent says nothing: it is of a version that announces nothing.
    subnets: Option<Vec<Range>>,
    kubelet_port: i32,
    /// Of its name.
    number: u64,
}

impl NodeFacts {
    pub(super) fn of(node: &Node) -> Self {
        let status = node.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let ready = conditions.iter().find(|one| one.type_ == "Ready").filter(|one| one.status == "True");
        let addresses = |wanted: &str| {
            let all = status.and_then(|status| status.addresses.as_deref()).unwrap_or_default().iter();
            all.filter(|one| one.type_ == wanted).filter_map(|one| one.address.parse().ok()).collect()
        };
        let subnets = meta::annotation(&node.metadata, SUBNETS);
        let endpoint = status.and_then(|status| status.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref());
        Self {
            name: meta::name(&node.metadata).to_owned(),
            ready: ready.is_some() && !meta::is_deleting(&node.metadata),
            ready_since: ready.and_then(|one| one.last_transition_time.as_ref()).map(|time| time.0),
            excluded: meta::label(&node.metadata, EXCLUDE).is_some(),
            internal: addresses("InternalIP"),
            external: addresses("ExternalIP"),
            subnets: subnets.map(|text| text.split(',').filter_map(|one| subnet(one.trim())).collect()),
            kubelet_port: endpoint.map_or(0, |endpoint| endpoint.port),
            number: hash(meta::name(&node.metadata)),
        }
    }

    fn is_on_subnet_of(&self, address: IpAddr) -> bool {
        self.subnets.as_ref().is_some_and(|subnets| subnets.iter().any(|subnet| subnet.contains(address)))
    }
}

fn subnet(text: &str) -> Option<Range> {
    let (start, length) = text.split_once('/')?;
    Range::of_prefix(start.parse().ok()?, length.parse().ok()?)
}

/// All nodes, by name.
pub(super) fn facts(view: &View) -> Vec<NodeFacts> {
    let mut all: Vec<NodeFacts> = view.nodes.all().map(|node| NodeFacts::of(node)).collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

/// Addresses that a pool may contain and that are not given: those of nodes, and of their IPv4 subnets the first and the last.
pub(super) fn unusable(nodes: &[NodeFacts]) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    for node in nodes {
        found.extend(node.internal.iter().chain(&node.external));
        // Subnets of two addresses have neither (RFC 3021).
        let broadcast = node.subnets.iter().flatten().filter(|subnet| match (subnet.first, subnet.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => last.to_bits() - first.to_bits() > 1,
            _ => false,
        });
        found.extend(broadcast.flat_map(|subnet| [subnet.first, subnet.last]));
    }
    found
}

/// Nodes that lead traffic of load balancers: ready, not silent, not excluded.
pub(super) fn leading<'a>(view: &View, nodes: &'a [NodeFacts]) -> Vec<&'a NodeFacts> {
    let is_silent = |node: &NodeFacts| view.settings.seen.get(&node.name).is_some_and(|seen| seen.silence().is_some());
    nodes.iter().filter(|node| node.ready && !node.excluded && !is_silent(node)).collect()
}

/// The names of nodes with ready endpoints of a Service.
fn with_endpoints<'v>(view: &'v View, wish: &Wish<'_>) -> BTreeSet<&'v str> {
    let name = wish.name();
    let slices = view.endpoint_slices.indexed(&name);
    let endpoints = slices.flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints.filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|conditions| conditions.ready).unwrap_or(true)
    });
    let names: BTreeSet<&str> = ready.filter_map(|endpoint| endpoint.node_name.as_deref()).collect();
    names
}

/// Who announces an address, where somebody has to be chosen.
pub(super) enum Choice {
    /// This node; look again at that time where another one is waited for.
    Node(String, Option<Timestamp>),
    /// Nobody can; why.
    Nobody(String),
}

/// Nodes that can announce: the answers are the agent's, without which there are none though its host lives.
pub(super) fn announcing<'a>(view: &View, nodes: &'a [NodeFacts]) -> Vec<&'a NodeFacts> {
    let has_agent = |node: &&NodeFacts| {
        let presence = view.settings.seen.get(&node.name).map(|seen| (seen.presence, seen.held));
        !matches!(presence, Some((Presence::AgentAway { .. } | Presence::AgentHung, false)))
    };
    leading(view, nodes).into_iter().filter(has_agent).collect()
}

/// Chooses who of `announcing` announces `address`, which `now_by` does at the moment.
pub(super) fn announcer(
    view: &View,
    announcing: &[&NodeFacts],
    wish: &Wish<'_>,
    address: IpAddr,
    now_by: Option<&str>,
    now: Timestamp,
) -> Choice {
    if announcing.is_empty() {
        return Choice::Nobody("no node is ready".into());
    }
    let mut candidates: Vec<&NodeFacts> =
        announcing.iter().copied().filter(|node| node.is_on_subnet_of(address)).collect();
    if candidates.is_empty() {
        return Choice::Nobody(format!(
            "no ready node has a network that {address} is in: it is reached only where a router leads it to a node"
        ));
    }
    if wish.is_local {
        let local = with_endpoints(view, wish);
        candidates.retain(|node| local.contains(node.name.as_str()));
    }
    let number = hash(&address.to_string());
    let Some(winner) = candidates.iter().max_by_key(|node| (mixed(number ^ node.number), &node.name)) else {
        let why = "externalTrafficPolicy is Local, and no node of its network has a ready endpoint";
        return Choice::Nobody(why.into());
    };
    let goes_on = now_by.filter(|name| *name != winner.name && candidates.iter().any(|node| node.name == *name));
    let settles = winner.ready_since.and_then(|since| since.checked_add(SETTLED_AFTER).ok()).filter(|at| *at > now);
    match (goes_on, settles) {
        (Some(name), Some(at)) => Choice::Node(name.to_owned(), Some(at)),
        _ => Choice::Node(winner.name.clone(), None),
    }
}

/// FNV-1a.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Rendezvous hashing: the order of nodes for one address does not depend on who else is there. The last step of SplitMix64.
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Host ports of pods: who listens on a node's own addresses.
pub(super) type HostPorts = BTreeMap<String, BTreeSet<Port>>;

/// The host ports of a pod that has a node.
pub(super) fn host_ports(pod: &Pod) -> impl Iterator<Item = Port> {
    let containers =
        pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        Some((port.protocol.clone().unwrap_or_else(|| "TCP".into()), number))
    })
}

pub(super) fn all_host_ports(view: &View) -> HostPorts {
    let mut found = HostPorts::new();
    for pod in view.pods.all().filter(|pod| !scheduler::is_terminal(pod)) {
        let node = pods::node_name(pod);
        for port in host_ports(pod).filter(|_| !node.is_empty()) {
            found.entry(node.to_owned()).or_default().insert(port);
        }
    }
    found
}

/// Gives the nodes' own addresses. Who holds some keeps its ports; the older goes first otherwise.
pub(super) fn assign(
    view: &View,
    nodes: &[NodeFacts],
    wishes: &[&Wish<'_>],
    host_ports: &HostPorts,
) -> Vec<Result<Vec<IpAddr>, String>> {
    let mut order: Vec<usize> = (0..wishes.len()).collect();
    order.sort_by_key(|index| (held(wishes[*index].service).is_empty(), wishes[*index].age()));
    let reserved = reserved(view, nodes);
    let leading = leading(view, nodes);
    let mut outcome: Vec<Result<Vec<IpAddr>, String>> = vec![Ok(Vec::new()); wishes.len()];
    let mut served: BTreeMap<&Port, &Wish<'_>> = BTreeMap::new();
    for index in order {
        let wish = wishes[index];
        outcome[index] = own_addresses(view, nodes, &leading, wish, host_ports, &reserved, &served);
        if outcome[index].is_ok() {
            served.extend(wish.ports.iter().map(|port| (port, wish)));
        }
    }
    outcome
}

/// Ports of machines that no Service may take, and whose they are.
fn reserved(view: &View, nodes: &[NodeFacts]) -> BTreeMap<Port, &'static str> {
    let tcp = |port: i32| ("TCP".to_owned(), port);
    let kubelets = nodes.iter().map(|node| (tcp(node.kubelet_port), "the agents'"));
    let api = view.endpoint_slices.indexed("default/kubernetes");
    let api = api.flat_map(|slice| slice.ports.iter().flatten()).filter_map(|port| port.port);
    let mut found: BTreeMap<Port, &'static str> = kubelets.collect();
    found.extend(api.map(|port| (tcp(port), "the API server's")));
    found.insert(tcp(SSH_PORT), "the machines' own SSH");
    found
}

fn own_addresses(
    view: &View,
    nodes: &[NodeFacts],
    leading: &[&NodeFacts],
    wish: &Wish<'_>,
    host_ports: &HostPorts,
    reserved: &BTreeMap<Port, &'static str>,
    served: &BTreeMap<&Port, &Wish<'_>>,
) -> Result<Vec<IpAddr>, String> {
    let wanted = wish.addresses.as_ref().map_err(Clone::clone)?;
    if let Some(pool) = wish.pool {
        return Err(format!("pool {pool:?} is wanted, but there are none: write {}", super::assign::CONFIG));
    }
    let other = |port: &Port| -> Option<String> {
        let whose = reserved.get(port).map(|whose| format!("is {whose}"));
        whose.or_else(|| served.get(port).map(|other| format!("is Service {}'s", other.name())))
    };
    if let Some(((protocol, port), whose)) = wish.ports.iter().find_map(|port| Some((port, other(port)?))) {
        return Err(format!(
            "port {port}/{protocol} of the nodes' addresses {whose}: choose another, or give Services addresses of their own by {}",
            super::assign::CONFIG
        ));
    }
    let holds = held(wish.service);
    // What it holds must still be some node's: of a pool that is gone nothing stays.
    let known: BTreeSet<IpAddr> =
        nodes.iter().flat_map(|node| node.internal.iter().chain(&node.external)).copied().collect();
    let stays = || {
        Some(holds.iter().copied().filter(|one| known.contains(one)).collect::<Vec<_>>()).filter(|all| !all.is_empty())
    };
    let local = wish.is_local.then(|| with_endpoints(view, wish));
    let mut candidates: Vec<&NodeFacts> = leading.to_vec();
    candidates.retain(|node| local.as_ref().is_none_or(|local| local.contains(node.name.as_str())));
    if candidates.is_empty() {
        let why = if local.is_some() {
            "externalTrafficPolicy is Local, and no ready node has a ready endpoint"
        } else {
            "no node is ready"
        };
        return stays().ok_or_else(|| why.to_owned());
    }
    let is_taken =
        |node: &NodeFacts| host_ports.get(&node.name).and_then(|ports| wish.ports.intersection(ports).next().cloned());
    let taken: Vec<Port> = candidates.iter().filter_map(|node| is_taken(node)).collect();
    candidates.retain(|node| is_taken(node).is_none());
    if let (true, Some((protocol, port))) = (candidates.is_empty(), taken.first()) {
        return Err(format!("port {port}/{protocol} is a pod's hostPort on every node"));
    }
    let mut found: Vec<IpAddr> = Vec::new();
    for v6 in &wish.families {
        for node in &candidates {
            let of_family =
                |all: &[IpAddr]| -> Vec<IpAddr> { all.iter().copied().filter(|one| one.is_ipv6() == *v6).collect() };
            let external = of_family(&node.external);
            let addresses = if external.is_empty() { of_family(&node.internal) } else { external };
            found.extend(addresses.into_iter().filter(|one| wanted.is_empty() || wanted.contains(one)));
        }
    }
    if found.is_empty() {
        let why = match wanted.first() {
            Some(address) => {
                format!(
                    "{address} is wanted, but is no ready node's address; for others write {}",
                    super::assign::CONFIG
                )
            }
            None => "no ready node has an address of the Service's families".to_owned(),
        };
        return Err(why);
    }
    Ok(found)
}
