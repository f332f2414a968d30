//! Compiled rules against a direct reading of the policies: upstream's cases by name, then random histories of changes.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use object::selector::labels::Selector;
use proptest::prelude::*;

use super::compiler::Compiler;
use super::judge::{Connection, allows};
use super::layout::{ChainName, ChainRule, Direction, Layout, PeerSet, PortSet};
use super::ranges::{PortRanges, Ranges};
use super::selections::{Member, matches};
use super::state::{Labels, LocalPod, NamedPort, Peer, PodState, Policy, PolicyKey, Port, Rule};
use super::tracked::{Changed, Tracked};
use crate::services::TransportProtocol::{self, Sctp, Tcp, Udp};

/// What a programmer does, without the kernel.
#[derive(Default)]
struct World {
    compiler: Compiler,
    kernel: Kernel,
}

/// What the kernel would hold, kept up by differences alone.
#[derive(Default)]
struct Kernel {
    members: BTreeMap<u32, BTreeSet<Member>>,
    blocks: BTreeMap<u32, Arc<Ranges>>,
    ports: BTreeMap<u32, Arc<PortRanges>>,
    chains: BTreeMap<ChainName, Vec<ChainRule>>,
    isolated: BTreeMap<(Direction, IpAddr), u32>,
    policed: BTreeMap<IpAddr, ()>,
    senders: BTreeMap<(String, IpAddr), ()>,
}

/// What a layout says, without the numbers that its contents happen to have.
#[derive(Debug, PartialEq, Eq)]
struct Meaning {
    /// For each isolated address what each of its policies accepts.
    isolated: BTreeMap<(Direction, IpAddr), Vec<Vec<String>>>,
    policed: Vec<IpAddr>,
    senders: Vec<(String, IpAddr)>,
    /// How many there are of selections, blocks, ports, chains: none that nobody uses.
    counts: [usize; 4],
}

fn labels(text: &str) -> Labels {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn selector(text: &str) -> Selector {
    Selector::parse(text).unwrap()
}

/// Replays changes on what was there before, and insists that they are changes of that.
fn replay<K: Ord + Clone + std::fmt::Debug, V: Clone + PartialEq + std::fmt::Debug>(
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
    fn commit(&mut self, compiler: &Compiler) {
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
fn accepted(compiler: &Compiler, group: ChainName) -> Vec<Vec<String>> {
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

fn meaning(compiler: &Compiler) -> Meaning {
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
    fn namespace(&mut self, name: &str, text: &str) {
        self.compiler.set_namespace(name.to_owned(), Some(labels(text)));
    }

    fn policy(&mut self, namespace: &str, name: &str, policy: Option<Policy>) {
        self.compiler.set_policy(PolicyKey::new(namespace, name), policy.map(Arc::new));
    }

    fn pod(&mut self, uid: &str, state: Option<PodState>, is_local: bool) {
        if is_local {
            let local = state.map(|state| LocalPod { uid: uid.to_owned(), interface: format!("kly{uid}"), state });
            self.compiler.set_local(uid, local);
        } else {
            self.compiler.set_pod(uid, state.map(Arc::new));
        }
    }

    /// As a commit; and what was followed change by change is what comes out of laying everything out anew.
    fn commit(&mut self) {
        self.compiler.follow();
        self.kernel.commit(&self.compiler);
        self.compiler.settle();
        assert_eq!(meaning(&self.compiler), meaning(&self.anew()));
    }

    /// Another compiler that is told the same at once.
    fn anew(&self) -> Compiler {
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

    fn state(&self, uid: &str) -> PodState {
        PodState::clone(self.compiler.model().pod(uid).unwrap())
    }

    fn says(&self, connection: &Connection) -> bool {
        let (layout, selections) = (self.compiler.layout(), self.compiler.selections());
        Direction::BOTH.iter().all(|direction| allows(layout, selections, *direction, connection))
    }

    /// The policies read directly, for pods of which none shares its address.
    fn should(&self, connection: &Connection) -> bool {
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

    fn is_peer(&self, key: &PolicyKey, peer: &Peer, address: IpAddr, pods: &[&Arc<PodState>]) -> bool {
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

fn is_port(port: &Port, connection: &Connection, pods: &[&Arc<PodState>]) -> bool {
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

const OUTSIDE: [&str; 3] = ["192.0.2.9", "10.99.0.1", "2001:db8::9"];

/// The pods of upstream's matrix: a, b and c in x, y and z, all with ports 80 and 81 of which 80 is called serve-80.
fn matrix() -> World {
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

fn address(name: &str) -> IpAddr {
    if let Ok(address) = name.parse() {
        return address;
    }
    let place = |text: &str, of: &str| u8::try_from(of.find(text).unwrap() + 1).unwrap();
    let (namespace, pod) = name.split_once('/').unwrap();
    IpAddr::from([10, 42, place(namespace, "xyz"), place(pod, "abc")])
}

const PODS: [&str; 9] = ["x/a", "x/b", "x/c", "y/a", "y/b", "y/c", "z/a", "z/b", "z/c"];

/// Who reaches a pod at a port, as upstream's matrix shows it.
fn reached_by(world: &World, to: &str, protocol: TransportProtocol, port: u16) -> String {
    let from = PODS.iter().filter(|from| {
        let protocol = protocol.number();
        world.says(&Connection { source: address(from), destination: address(to), protocol, port })
    });
    from.copied().collect::<Vec<_>>().join(" ")
}

fn own(pods: &str) -> Peer {
    Peer::Pods { namespaces: None, pods: selector(pods) }
}

fn of(namespaces: &str, pods: &str) -> Peer {
    Peer::Pods { namespaces: Some(selector(namespaces)), pods: selector(pods) }
}

fn block(range: &str, except: &[&str]) -> Peer {
    Peer::Block { range: range.parse().unwrap(), except: except.iter().map(|text| text.parse().unwrap()).collect() }
}

fn numbers(protocol: TransportProtocol, first: u16, last: u16) -> Port {
    Port::Numbers { protocol, first, last }
}

fn called(protocol: TransportProtocol, name: &str) -> Port {
    Port::Named { protocol, name: name.to_owned() }
}

fn one(peers: Vec<Peer>, ports: Vec<Port>) -> Option<Vec<Rule>> {
    Some(vec![Rule { peers, ports }])
}

type Policies = Vec<(&'static str, Policy)>;

fn ingress(pods: &str, rules: Option<Vec<Rule>>) -> (&'static str, Policy) {
    ("x", Policy { pods: selector(pods), ingress: rules, egress: None })
}

fn egress(pods: &str, rules: Option<Vec<Rule>>) -> (&'static str, Policy) {
    ("x", Policy { pods: selector(pods), ingress: None, egress: rules })
}

#[test]
fn the_cases_of_upstream() {
    const ALL: &str = "x/a x/b x/c y/a y/b y/c z/a z/b z/c";
    const NOT_A: &str = "x/b x/c y/a y/b y/c z/a z/b z/c";
    const A_AND_REST: &str = "x/a y/a y/b y/c z/a z/b z/c";
    const REST: &str = "y/a y/b y/c z/a z/b z/c";
    let deny = |direction: fn(&str, Option<Vec<Rule>>) -> (&'static str, Policy)| direction("", Some(vec![]));
    let cases: Vec<(&str, Policies, &str, TransportProtocol, u16, &str)> = vec![
        ("default-deny-ingress", vec![deny(ingress)], "x/a", Tcp, 80, "x/a"),
        ("default-deny-egress: others call", vec![deny(egress)], "x/a", Tcp, 80, A_AND_REST),
        ("default-deny-egress: x calls y", vec![deny(egress)], "y/a", Tcp, 80, REST),
        ("default-deny-all", vec![deny(ingress), deny(egress)], "x/a", Tcp, 80, "x/a"),
        ("allow-all and deny", vec![deny(ingress), ingress("", one(vec![], vec![]))], "x/a", Tcp, 80, ALL),
        ("by pod selector", vec![ingress("pod=a", one(vec![own("pod=b")], vec![]))], "x/a", Tcp, 80, "x/a x/b"),
        (
            "by namespace selector",
            vec![ingress("pod=a", one(vec![of("ns=y", "")], vec![]))],
            "x/a",
            Tcp,
            80,
            "x/a y/a y/b y/c",
        ),
        (
            "by both, in one peer",
            vec![ingress("pod=a", one(vec![of("ns=y", "pod=b")], vec![]))],
            "x/a",
            Tcp,
            80,
            "x/a y/b",
        ),
        (
            "by either, in two",
            vec![ingress("pod=a", one(vec![of("ns=y", ""), own("pod=b")], vec![]))],
            "x/a",
            Tcp,
            80,
            "x/a x/b y/a y/b y/c",
        ),
        (
            "by a label's values",
            vec![ingress("pod=a", one(vec![of("ns notin (x)", "pod in (b,c)")], vec![]))],
            "x/a",
            Tcp,
            80,
            "x/a y/b y/c z/b z/c",
        ),
        (
            "by the namespace's name",
            vec![ingress("", one(vec![of("kubernetes.io/metadata.name=y", "")], vec![]))],
            "x/b",
            Tcp,
            80,
            "x/b y/a y/b y/c",
        ),
        ("all namespaces, as an empty selector", vec![ingress("", one(vec![of("", "")], vec![]))], "x/a", Tcp, 80, ALL),
        (
            "a port that is allowed",
            vec![ingress("", one(vec![of("ns=y", "")], vec![numbers(Tcp, 81, 81)]))],
            "x/a",
            Tcp,
            81,
            "x/a y/a y/b y/c",
        ),
        (
            "a port that is not",
            vec![ingress("", one(vec![of("ns=y", "")], vec![numbers(Tcp, 81, 81)]))],
            "x/a",
            Tcp,
            80,
            "x/a",
        ),
        (
            "two policies for two ports",
            vec![
                ingress("", one(vec![of("ns=y", "")], vec![numbers(Tcp, 81, 81)])),
                ingress("", one(vec![], vec![numbers(Tcp, 80, 80)])),
            ],
            "x/a",
            Tcp,
            80,
            ALL,
        ),
        ("a named port", vec![ingress("", one(vec![], vec![called(Tcp, "serve-81-tcp")]))], "x/a", Tcp, 81, ALL),
        (
            "another than the named one",
            vec![ingress("", one(vec![], vec![called(Tcp, "serve-81-tcp")]))],
            "x/a",
            Tcp,
            80,
            "x/a",
        ),
        ("a named port of UDP", vec![ingress("", one(vec![], vec![called(Udp, "serve-80-udp")]))], "x/a", Udp, 80, ALL),
        (
            "a named port in egress",
            vec![egress("pod=a", one(vec![], vec![called(Tcp, "serve-80-tcp")]))],
            "y/a",
            Tcp,
            80,
            ALL,
        ),
        (
            "another in egress",
            vec![egress("pod=a", one(vec![], vec![called(Tcp, "serve-80-tcp")]))],
            "y/a",
            Tcp,
            81,
            NOT_A,
        ),
        ("endPort", vec![ingress("", one(vec![], vec![numbers(Tcp, 80, 81)]))], "x/a", Tcp, 81, ALL),
        ("beyond endPort", vec![ingress("", one(vec![], vec![numbers(Tcp, 80, 81)]))], "x/a", Tcp, 82, "x/a"),
        ("UDP is not TCP", vec![ingress("", one(vec![], vec![numbers(Udp, 80, 80)]))], "x/a", Tcp, 80, "x/a"),
        ("SCTP", vec![ingress("", one(vec![], vec![numbers(Sctp, 80, 80)]))], "x/a", Sctp, 80, ALL),
        ("a block", vec![egress("pod=a", one(vec![block("10.42.2.1/32", &[])], vec![]))], "y/a", Tcp, 80, ALL),
        ("outside of it", vec![egress("pod=a", one(vec![block("10.42.2.1/32", &[])], vec![]))], "y/b", Tcp, 80, NOT_A),
        (
            "an exception",
            vec![egress("pod=a", one(vec![block("10.42.2.0/24", &["10.42.2.2/32"])], vec![]))],
            "y/b",
            Tcp,
            80,
            NOT_A,
        ),
        (
            "an exception that another block allows",
            vec![egress(
                "pod=a",
                one(vec![block("10.42.2.0/24", &["10.42.2.2/32"]), block("10.42.2.2/32", &[])], vec![]),
            )],
            "y/b",
            Tcp,
            80,
            ALL,
        ),
        (
            "egress adds up",
            vec![
                egress("pod=a", one(vec![of("ns=y", "")], vec![])),
                egress("pod=a", one(vec![of("ns=z", "")], vec![])),
            ],
            "z/c",
            Tcp,
            80,
            ALL,
        ),
        ("only policies of one's own namespace", vec![ingress("", Some(vec![]))], "y/a", Tcp, 80, ALL),
    ];
    for (what, policies, to, protocol, port, wanted) in cases {
        let mut world = matrix();
        for (number, (namespace, policy)) in policies.into_iter().enumerate() {
            world.policy(namespace, &number.to_string(), Some(policy));
        }
        world.commit();
        let mut wanted: Vec<&str> = wanted.split(' ').collect();
        wanted.sort_unstable();
        assert_eq!(reached_by(&world, to, protocol, port), wanted.join(" "), "{what}");
    }
}

#[test]
fn equal_contents_share_their_sets_and_pods_share_chains() {
    let mut world = matrix();
    for number in 0..50 {
        let rules = one(vec![own("pod=b"), block("192.0.2.0/24", &[])], vec![numbers(Tcp, 80, 80)]);
        world.policy("x", &number.to_string(), Some(ingress("", rules).1));
    }
    world.commit();
    let before = meaning(&world.compiler);
    assert_eq!(before.counts, [1, 1, 1, 51], "a chain for each policy, one for their set");
    assert_eq!(before.isolated.len(), 3);
    // Whatever else of the cluster is isolated is none of this node's business.
    world.policy("w", "far", Some(ingress("", Some(vec![])).1));
    world.compiler.follow();
    assert!(has_no_changes(&world.compiler));
    world.commit();
    for number in 0..50 {
        world.policy("x", &number.to_string(), None);
    }
    world.commit();
    let senders = before.senders;
    assert_eq!(
        meaning(&world.compiler),
        Meaning { isolated: BTreeMap::new(), policed: vec![], senders, counts: [0; 4] }
    );
    assert!(world.kernel.members.is_empty());
}

fn has_no_changes(compiler: &Compiler) -> bool {
    let Layout { selections, blocks, ports, chains, ingress, egress, policed, senders } = compiler.layout();
    let counts = [
        selections.changes().count(),
        blocks.changes().count(),
        ports.changes().count(),
        chains.changes().count(),
        ingress.changes().count(),
        egress.changes().count(),
        policed.changes().count(),
        senders.changes().count(),
    ];
    counts == [0; 8]
}

#[test]
fn what_merely_changes_hands_keeps_its_number_and_a_change_touches_only_what_it_concerns() {
    let mut world = matrix();
    let allow = |pods: &str, peers: &str| {
        let rules = one(vec![own(peers), block("192.0.2.0/24", &[])], vec![numbers(Tcp, 80, 80)]);
        Some(ingress(pods, rules).1)
    };
    world.policy("x", "one", allow("pod=a", "pod=b"));
    world.policy("y", "two", allow("pod=a", "pod=b"));
    world.commit();
    let names = |world: &World| world.compiler.layout().chains.now().keys().copied().collect::<Vec<_>>();
    let before = names(&world);
    // The pod leaves and another takes its place in the same transaction: the chains stay as they are.
    let state = PodState { addresses: vec![address("192.0.2.77")], ..world.state("x/a") };
    world.pod("x/a", None, true);
    world.pod("x/new", Some(state), true);
    world.compiler.follow();
    let layout = world.compiler.layout();
    assert_eq!((layout.chains.changes().count(), layout.blocks.changes().count()), (0, 0));
    assert_eq!((layout.ingress.changes().count(), layout.senders.changes().count()), (2, 2));
    world.commit();
    // What a policy allows changes: its chain and the sets that it alone used; pods stay where they are.
    world.policy("x", "one", allow("pod=a", "pod=c"));
    world.compiler.follow();
    let layout = world.compiler.layout();
    assert_eq!((layout.chains.changes().count(), layout.ingress.changes().count()), (1, 0));
    assert_eq!((layout.selections.changes().count(), layout.blocks.changes().count()), (2, 0));
    world.commit();
    assert_eq!(names(&world), before);
    // It selects others: the pods that it selected and selects.
    world.policy("x", "one", allow("pod=b", "pod=c"));
    world.compiler.follow();
    assert_eq!(world.compiler.layout().ingress.changes().count(), 2);
    world.commit();
    // Of two pods with one address the one that is left counts, whichever ends first.
    for first in ["x/b", "x/twin"] {
        let mut world = matrix();
        world.policy("x", "one", allow("", "pod=c"));
        let twin = world.state("x/b");
        world.pod("x/twin", Some(twin), true);
        world.commit();
        world.pod(first, None, true);
        world.commit();
        assert!(world.kernel.isolated.contains_key(&(Direction::Ingress, address("x/b"))), "{first} ends first");
    }
}

fn any_selector() -> impl Strategy<Value = Selector> {
    prop::sample::select(vec!["", "l=1", "l=2", "l!=1", "l in (1,2)", "!l", "l,m=1", "m"]).prop_map(selector)
}

fn any_peer() -> impl Strategy<Value = Peer> {
    let ranges =
        vec!["10.42.0.0/16", "10.42.0.0/30", "0.0.0.0/0", "192.0.2.0/24", "::/0", "10.42.0.2/32", "10.0.0.0/8"];
    prop_oneof![
        (prop::option::of(any_selector()), any_selector())
            .prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods }),
        (prop::sample::select(ranges.clone()), prop::collection::vec(prop::sample::select(ranges), 0..3))
            .prop_map(|(range, except)| block(range, &except)),
        Just(Peer::Nobody),
    ]
}

fn any_port() -> impl Strategy<Value = Port> {
    let protocol = prop::sample::select(vec![Tcp, Udp, Sctp]);
    prop_oneof![
        (protocol.clone(), 0_u16..5, 0_u16..5).prop_map(|(protocol, first, last)| numbers(protocol, first, last)),
        (protocol, prop::sample::select(vec!["one", "two"])).prop_map(|(protocol, name)| called(protocol, name)),
    ]
}

fn any_rules() -> impl Strategy<Value = Option<Vec<Rule>>> {
    let rule = (prop::collection::vec(any_peer(), 0..3), prop::collection::vec(any_port(), 0..3));
    prop::option::of(prop::collection::vec(rule.prop_map(|(peers, ports)| Rule { peers, ports }), 0..3))
}

#[derive(Clone, Debug)]
enum Step {
    Policy(usize, usize, Option<Policy>),
    Namespace(usize, &'static str),
    Pod(u8, bool, Option<(usize, &'static str, u8)>),
    Commit,
}

const NAMESPACES: [&str; 3] = ["x", "y", "z"];

fn any_step() -> impl Strategy<Value = Step> {
    let texts = || prop::sample::select(vec!["", "l=1", "l=2", "l=1,m=1", "m=2"]);
    let policy =
        (any_selector(), any_rules(), any_rules()).prop_map(|(pods, ingress, egress)| Policy { pods, ingress, egress });
    prop_oneof![
        (0..3_usize, 0..3_usize, prop::option::of(policy))
            .prop_map(|(at, name, policy)| Step::Policy(at, name, policy)),
        (0..3_usize, texts()).prop_map(|(at, text)| Step::Namespace(at, text)),
        (1..6_u8, any::<bool>(), prop::option::of((0..3_usize, texts(), 0..4_u8)))
            .prop_map(|(pod, is_local, state)| Step::Pod(pod, is_local, state)),
        Just(Step::Commit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_history_says_what_the_policies_say(steps in prop::collection::vec(any_step(), 1..40)) {
        let mut world = World::default();
        let mut homes: BTreeMap<u8, usize> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Policy(at, name, policy) => {
                    world.policy(NAMESPACES[at], &name.to_string(), policy);
                }
                Step::Namespace(at, text) => world.namespace(NAMESPACES[at], text),
                Step::Pod(number, is_local, state) => {
                    let state = state.map(|(at, text, port)| PodState {
                        // A pod never moves to another namespace.
                        namespace: NAMESPACES[*homes.entry(number).or_insert(at)].to_owned(),
                        labels: labels(text),
                        ports: vec![
                            NamedPort { name: "one".to_owned(), protocol: 6, port: u16::from(port) },
                            NamedPort { name: "two".to_owned(), protocol: 17, port: 2 },
                        ],
                        addresses: vec![IpAddr::from([10, 42, 0, number]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)])],
                    });
                    world.pod(&number.to_string(), state, is_local);
                }
                Step::Commit => world.commit(),
            }
        }
        world.commit();
        let four = (1..6).map(|number| IpAddr::from([10, 42, 0, number]));
        let six = (1..6).map(|number| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, number]));
        let outside = OUTSIDE.iter().map(|text| address(text));
        let all: Vec<IpAddr> = four.chain(six).chain(outside).collect();
        for source in &all {
            for destination in all.iter().filter(|one| one.is_ipv4() == source.is_ipv4()) {
                for (protocol, port) in [(6, 0), (6, 2), (17, 2), (132, 3), (1, 0)] {
                    let connection = Connection { source: *source, destination: *destination, protocol, port };
                    prop_assert_eq!(world.says(&connection), world.should(&connection), "{:?}", connection);
                }
            }
        }
    }
}
