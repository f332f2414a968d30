//! A programmer without the kernel, what the kernel would hold, and what the policies say when they are read directly.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use object::selector::labels::Selector;

use super::super::compiler::Compiler;
use super::super::judge::{Connection, allows};
use super::super::layout::{ChainName, ChainRule, Direction, PeerSet, PortSet};
use super::super::ranges::{PortRanges, Ranges};
use super::super::selections::{Member, matches};
use super::super::state::{Labels, LocalPod, NamedPort, Peer, PodState, Policy, PolicyKey, Port, Rule};
use super::super::tracked::{Changed, Tracked};
use crate::services::TransportProtocol::{self, Tcp, Udp};

/// What a programmer does, without the kernel.
#[derive(Default)]
pub(super) struct World {
    pub(super) compiler: Compiler,
    pub(super) kernel: Kernel,
}

/// What the kernel would hold, kept up by differences alone.
#[derive(Default)]
pub(super) struct Kernel {
    pub(super) members: BTreeMap<u32, BTreeSet<Member>>,
    pub(super) blocks: BTreeMap<u32, Arc<Ranges>>,
    pub(super) ports: BTreeMap<u32, Arc<PortRanges>>,
    pub(super) chains: BTreeMap<ChainName, Vec<ChainRule>>,
    pub(super) isolated: BTreeMap<(Direction, IpAddr), u32>,
    pub(super) policed: BTreeMap<IpAddr, ()>,
    pub(super) senders: BTreeMap<(String, IpAddr), ()>,
}

/// What a layout says, without the numbers that its contents happen to have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Meaning {
    /// For each isolated address what each of its policies accepts.
    pub(super) isolated: BTreeMap<(Direction, IpAddr), Vec<Vec<String>>>,
    pub(super) policed: Vec<IpAddr>,
    pub(super) senders: Vec<(String, IpAddr)>,
    /// How many there are of selections, blocks, ports, chains: none that nobody uses.
    pub(super) counts: [usize; 4],
}

pub(super) fn labels(text: &str) -> Labels {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

pub(super) fn selector(text: &str) -> Selector {
    Selector::parse(text).unwrap()
}

/// Replays changes on what was there before, and insists that they are changes of that.
pub(super) fn replay<K: Ord + Clone + std::fmt::Debug, V: Clone + PartialEq + std::fmt::Debug>(
    kernel: &mut BTreeMap<K, V>,
    tracked: &Tracked<K, V>,
) {
    for Changed { key, before, after } in tracked.changes() {
        assert_eq!(kernel.get(key), before, "what was at {key:?}");
        match after {
            Some(value) => kernel.insert(key.clone(), value.clone()),
            None => kernel.remove(key),
        };
    }
    assert_eq!(kernel, tracked.now());
}

impl Kernel {
    pub(super) fn commit(&mut self, compiler: &Compiler) {
        let (layout, selections) = (compiler.layout(), compiler.selections());
        let changes = selections.changes();
        layout.selections.removed().for_each(|(id, _)| assert!(self.members.remove(id).is_some()));
        for (id, removed) in &changes.removed {
            let set = self.members.get_mut(id);
            removed.iter().for_each(|member| assert!(set.as_ref().is_none_or(|set| set.contains(member))));
            set.into_iter().for_each(|set| set.retain(|member| !removed.contains(member)));
        }
        for (id, added) in &changes.added {
            if let Some(set) = self.members.get_mut(id) {
                added.iter().for_each(|member| assert!(set.insert(*member), "an element is added that is there"));
            }
        }
        for (id, _) in layout.selections.added() {
            assert!(self.members.insert(*id, selections.members(*id).copied().collect()).is_none());
        }
        assert!(self.members.keys().eq(layout.selections.now().keys()));
        for (id, members) in &self.members {
            assert_eq!(*members, selections.members(*id).copied().collect(), "what the kernel holds of set {id}");
        }
        replay(&mut self.blocks, &layout.blocks);
        replay(&mut self.ports, &layout.ports);
        replay(&mut self.chains, &layout.chains);
        replay(&mut self.policed, &layout.policed);
        replay(&mut self.senders, &layout.senders);
        for direction in Direction::BOTH {
            let all = self.isolated.iter().filter(|((one, _), _)| *one == direction);
            let mut own = all.map(|((_, address), group)| (*address, *group)).collect();
            replay(&mut own, layout.isolated(direction));
            self.isolated.retain(|(one, _), _| *one != direction);
            self.isolated.extend(own.into_iter().map(|(address, group)| ((direction, address), group)));
        }
    }
}

/// What the policies of this set of policies accept.
pub(super) fn accepted(compiler: &Compiler, group: ChainName) -> Vec<Vec<String>> {
    let (layout, selections) = (compiler.layout(), compiler.selections());
    let members = |id: &u32| selections.members(*id).copied().collect::<BTreeSet<Member>>();
    let accepts = |rule: &ChainRule| match rule {
        ChainRule::Accept(peers, ports) => {
            let peers = match peers {
                PeerSet::Any => "any".to_owned(),
                PeerSet::Selection(id) => format!("{:?}", members(id)),
                PeerSet::Blocks(id) => format!("{:?}", layout.blocks.get(id).unwrap()),
            };
            match ports {
                PortSet::Any => format!("{peers} at any"),
                PortSet::Named(id) => format!("{peers} at {:?}", members(id)),
                PortSet::Numbers(id) => format!("{peers} at {:?}", layout.ports.get(id).unwrap()),
            }
        }
        other => panic!("{other:?} in a policy's chain"),
    };
    let (last, jumps) = layout.chains.get(&group).unwrap().split_last().unwrap();
    assert_eq!(*last, ChainRule::Drop);
    let chain = |rule: &ChainRule| {
        let ChainRule::Jump(policy) = rule else { panic!("{rule:?} in the chain of a set of policies") };
        let mut all: Vec<String> = layout.chains.get(policy).unwrap().iter().map(accepts).collect();
        // Sets are in the order of their numbers.
        all.sort_unstable();
        all
    };
    jumps.iter().map(chain).collect()
}

pub(super) fn meaning(compiler: &Compiler) -> Meaning {
    let layout = compiler.layout();
    let isolated =
        Direction::BOTH.iter().flat_map(|direction| {
            layout.isolated(*direction).now().iter().map(|(address, group)| {
                ((*direction, *address), accepted(compiler, ChainName::Group(*direction, *group)))
            })
        });
    Meaning {
        isolated: isolated.collect(),
        policed: layout.policed.now().keys().copied().collect(),
        senders: layout.senders.now().keys().cloned().collect(),
        counts: [
            layout.selections.now().len(),
            layout.blocks.now().len(),
            layout.ports.now().len(),
            layout.chains.now().len(),
        ],
    }
}

impl World {
    pub(super) fn namespace(&mut self, name: &str, text: &str) {
        self.compiler.set_namespace(name.to_owned(), Some(labels(text)));
    }

    pub(super) fn policy(&mut self, namespace: &str, name: &str, policy: Option<Policy>) {
        self.compiler.set_policy(PolicyKey::new(namespace, name), policy.map(Arc::new));
    }

    pub(super) fn pod(&mut self, uid: &str, state: Option<PodState>, is_local: bool) {
        if is_local {
            let local = state.map(|state| LocalPod { uid: uid.to_owned(), interface: format!("kly{uid}"), state });
            self.compiler.set_local(uid, local);
        } else {
            self.compiler.set_pod(uid, state.map(Arc::new));
        }
    }

    /// What is known is told as lists, without what is at these places.
    pub(super) fn lists(&mut self, policy: usize, namespace: usize) {
        let model = self.compiler.model();
        let mut policies: Vec<_> =
            model.policies.iter().map(|(key, policy)| (key.clone(), Arc::clone(policy))).collect();
        let mut namespaces: Vec<_> =
            model.namespaces.iter().map(|(name, labels)| (name.clone(), Labels::clone(labels))).collect();
        namespaces.sort_unstable();
        policies.drain(policy.min(policies.len())..(policy + 1).min(policies.len()));
        namespaces.drain(namespace.min(namespaces.len())..(namespace + 1).min(namespaces.len()));
        self.compiler.set_policies(policies);
        self.compiler.set_namespaces(namespaces);
    }

    /// As a commit; and what was followed change by change is what comes out of laying everything out anew.
    pub(super) fn commit(&mut self) {
        self.compiler.follow();
        self.kernel.commit(&self.compiler);
        self.compiler.settle();
        assert_eq!(meaning(&self.compiler), meaning(&self.anew()));
    }

    /// Another compiler that is told the same at once.
    pub(super) fn anew(&self) -> Compiler {
        let model = self.compiler.model();
        let mut other = Compiler::default();
        other.set_policies(model.policies.iter().map(|(key, policy)| (key.clone(), Arc::clone(policy))).collect());
        other.set_namespaces(
            model.namespaces.iter().map(|(name, labels)| (name.clone(), Labels::clone(labels))).collect(),
        );
        // Those of this node are told with what is known of them from both sides.
        for uid in model.told() {
            other.set_pod(uid, model.pod(uid).cloned());
        }
        model.local.iter().for_each(|(uid, pod)| other.set_local(uid, Some(pod.clone())));
        other.start_over();
        other
    }

    pub(super) fn state(&self, uid: &str) -> PodState {
        PodState::clone(self.compiler.model().pod(uid).unwrap())
    }

    pub(super) fn says(&self, connection: &Connection) -> bool {
        let (layout, selections) = (self.compiler.layout(), self.compiler.selections());
        Direction::BOTH.iter().all(|direction| allows(layout, selections, *direction, connection))
    }

    /// The policies read directly, for pods of which none shares its address.
    pub(super) fn should(&self, connection: &Connection) -> bool {
        let Connection { source, destination, .. } = *connection;
        if source == destination {
            return true;
        }
        let local = |address: IpAddr| {
            self.compiler
                .model()
                .local
                .keys()
                .filter_map(|uid| self.compiler.model().pod(uid))
                .find(|pod| pod.addresses.contains(&address))
        };
        let pods: Vec<&Arc<PodState>> = self.compiler.model().pods().collect();
        let permits = |own: Option<&Arc<PodState>>, peer: IpAddr, is_ingress: bool| {
            let Some(own) = own else { return true };
            let rules = |policy: &Policy| if is_ingress { policy.ingress.clone() } else { policy.egress.clone() };
            let mut isolating = self
                .compiler
                .model()
                .policies
                .iter()
                .filter(|(key, policy)| key.namespace == own.namespace && matches(&policy.pods, &own.labels))
                .filter_map(|(key, policy)| rules(policy).map(|rules| (key, rules)))
                .peekable();
            isolating.peek().is_none()
                || isolating.any(|(key, rules)| {
                    rules.iter().any(|rule| {
                        (rule.peers.is_empty() || rule.peers.iter().any(|one| self.is_peer(key, one, peer, &pods)))
                            && (rule.ports.is_empty() || rule.ports.iter().any(|one| is_port(one, connection, &pods)))
                    })
                })
        };
        permits(local(source), destination, false) && permits(local(destination), source, true)
    }

    pub(super) fn is_peer(&self, key: &PolicyKey, peer: &Peer, address: IpAddr, pods: &[&Arc<PodState>]) -> bool {
        match peer {
            Peer::Nobody => false,
            Peer::Block { range, except } => {
                range.contains(address) && !except.iter().any(|part| part.contains(address))
            }
            Peer::Pods { namespaces, pods: selector } => {
                pods.iter().filter(|pod| pod.addresses.contains(&address)).any(|pod| {
                    let is_in = match namespaces {
                        None => pod.namespace == key.namespace,
                        Some(namespaces) => self
                            .compiler
                            .model()
                            .namespaces
                            .get(&pod.namespace)
                            .is_some_and(|labels| matches(namespaces, labels)),
                    };
                    is_in && matches(selector, &pod.labels)
                })
            }
        }
    }
}

pub(super) fn is_port(port: &Port, connection: &Connection, pods: &[&Arc<PodState>]) -> bool {
    match port {
        Port::Numbers { protocol, first, last } => {
            protocol.number() == connection.protocol && (*first..=*last).contains(&connection.port)
        }
        Port::Named { protocol, name } => {
            protocol.number() == connection.protocol
                && pods.iter().filter(|pod| pod.addresses.contains(&connection.destination)).any(|pod| {
                    pod.ports.iter().any(|one| {
                        one.name == *name && one.protocol == protocol.number() && one.port == connection.port
                    })
                })
        }
    }
}

pub(super) const OUTSIDE: [&str; 3] = ["192.0.2.9", "10.99.0.1", "2001:db8::9"];

/// The pods of upstream's matrix: a, b and c in x, y and z, all with ports 80 and 81 of which 80 is called serve-80.
pub(super) fn matrix() -> World {
    let mut world = World::default();
    for (number, namespace) in (1_u8..).zip(["x", "y", "z"]) {
        world.namespace(namespace, &format!("ns={namespace},kubernetes.io/metadata.name={namespace}"));
        for (pod, name) in (1_u8..).zip(["a", "b", "c"]) {
            let ports = [("serve-80-tcp", Tcp, 80), ("serve-81-tcp", Tcp, 81), ("serve-80-udp", Udp, 80)];
            let state = PodState {
                namespace: namespace.to_owned(),
                labels: labels(&format!("pod={name}")),
                ports: ports
                    .map(|(name, protocol, port)| NamedPort { name: name.into(), protocol: protocol.number(), port })
                    .to_vec(),
                addresses: vec![IpAddr::from([10, 42, number, pod])],
            };
            world.pod(&format!("{namespace}/{name}"), Some(state), true);
        }
    }
    world
}

pub(super) fn address(name: &str) -> IpAddr {
    if let Ok(address) = name.parse() {
        return address;
    }
    let place = |text: &str, of: &str| u8::try_from(of.find(text).unwrap() + 1).unwrap();
    let (namespace, pod) = name.split_once('/').unwrap();
    IpAddr::from([10, 42, place(namespace, "xyz"), place(pod, "abc")])
}

pub(super) const PODS: [&str; 9] = ["x/a", "x/b", "x/c", "y/a", "y/b", "y/c", "z/a", "z/b", "z/c"];

/// Who reaches a pod at a port, as upstream's matrix shows it.
pub(super) fn reached_by(world: &World, to: &str, protocol: TransportProtocol, port: u16) -> String {
    let from = PODS.iter().filter(|from| {
        let protocol = protocol.number();
        world.says(&Connection { source: address(from), destination: address(to), protocol, port })
    });
    from.copied().collect::<Vec<_>>().join(" ")
}

pub(super) fn own(pods: &str) -> Peer {
    Peer::Pods { namespaces: None, pods: selector(pods) }
}

pub(super) fn of(namespaces: &str, pods: &str) -> Peer {
    Peer::Pods { namespaces: Some(selector(namespaces)), pods: selector(pods) }
}

pub(super) fn block(range: &str, except: &[&str]) -> Peer {
    Peer::Block { range: range.parse().unwrap(), except: except.iter().map(|text| text.parse().unwrap()).collect() }
}

pub(super) fn numbers(protocol: TransportProtocol, first: u16, last: u16) -> Port {
    Port::Numbers { protocol, first, last }
}

pub(super) fn called(protocol: TransportProtocol, name: &str) -> Port {
    Port::Named { protocol, name: name.to_owned() }
}

pub(super) fn one(peers: Vec<Peer>, ports: Vec<Port>) -> Option<Vec<Rule>> {
    Some(vec![Rule { peers, ports }])
}

pub(super) type Policies = Vec<(&'static str, Policy)>;

pub(super) fn ingress(pods: &str, rules: Option<Vec<Rule>>) -> (&'static str, Policy) {
    ("x", Policy { pods: selector(pods), ingress: rules, egress: None })
}

pub(super) fn egress(pods: &str, rules: Option<Vec<Rule>>) -> (&'static str, Policy) {
    ("x", Policy { pods: selector(pods), ingress: None, egress: rules })
}
