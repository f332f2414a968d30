//! Compiled rules against a direct reading of the policies: upstream's cases by name, then random histories of changes.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use object::selector::labels::Selector;
use proptest::prelude::*;

use super::judge::{Connection, allows};
use super::layout::{Direction, Layout, Names, compile};
use super::model::Model;
use super::selections::{Member, Selections, matches};
use super::state::{Labels, LocalPod, NamedPort, Peer, PodState, Policy, PolicyKey, Port, Rule};
use crate::services::TransportProtocol::{self, Sctp, Tcp, Udp};

/// What a programmer does, without the kernel.
#[derive(Default)]
struct World {
    model: Model,
    selections: Selections,
    names: Names,
    layout: Layout,
    /// The members that the kernel's sets would have, kept up by differences alone.
    kernel: BTreeMap<u32, BTreeSet<Member>>,
}

fn labels(text: &str) -> Labels {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn selector(text: &str) -> Selector {
    Selector::parse(text).unwrap()
}

impl World {
    fn namespace(&mut self, name: &str, text: &str) {
        let after = Arc::new(labels(text));
        let before = self.model.namespaces.insert(name.to_owned(), Arc::clone(&after));
        for pod in self.model.pods_of(name) {
            self.selections.change(Some((pod, before.as_deref())), Some((pod, Some(&after))));
        }
    }

    fn pod(&mut self, uid: &str, state: Option<PodState>, is_local: bool) {
        let change = match (state, is_local) {
            (Some(state), true) => {
                let local = LocalPod { uid: uid.to_owned(), interface: format!("kly{uid}"), state };
                self.model.set_local(uid, Some(local))
            }
            (Some(state), false) => self.model.set_told(uid, Some(Arc::new(state))),
            (None, true) => self.model.set_local(uid, None),
            (None, false) => self.model.set_told(uid, None),
        };
        let of = |pod: &Option<Arc<PodState>>| {
            pod.clone().map(|pod| (Arc::clone(&pod), self.model.namespaces.get(&pod.namespace).cloned()))
        };
        let (before, after) = (of(&change.before), of(&change.after));
        self.selections.change(
            before.as_ref().map(|(pod, labels)| (&**pod, labels.as_deref())),
            after.as_ref().map(|(pod, labels)| (&**pod, labels.as_deref())),
        );
    }

    /// As a commit: compiles, and brings what the kernel would hold up to date by differences.
    fn commit(&mut self) {
        let layout = compile(&self.model, &mut self.selections, &mut self.names);
        let changes = self.selections.take_changes();
        for (id, _, all) in self.selections.sets() {
            if !layout.selections.contains_key(&id) {
                continue;
            }
            if self.layout.selections.contains_key(&id) {
                let set = self.kernel.get_mut(&id).unwrap();
                for member in changes.removed.get(&id).into_iter().flatten() {
                    assert!(set.remove(member), "an element is deleted that is not there");
                }
                for member in changes.added.get(&id).into_iter().flatten() {
                    assert!(set.insert(*member), "an element is added that is there");
                }
            } else {
                self.kernel.insert(id, all.copied().collect());
            }
        }
        self.selections.retain(|id| layout.selections.contains_key(&id));
        self.kernel.retain(|id, _| layout.selections.contains_key(id));
        for (id, _, all) in self.selections.sets() {
            assert_eq!(self.kernel[&id], all.copied().collect(), "what the kernel holds of set {id}");
        }
        self.layout = layout;
    }

    fn says(&self, connection: &Connection) -> bool {
        Direction::BOTH.iter().all(|direction| allows(&self.layout, &self.selections, *direction, connection))
    }

    /// The policies read directly, for pods of which none shares its address.
    fn should(&self, connection: &Connection) -> bool {
        let Connection { source, destination, .. } = *connection;
        if source == destination {
            return true;
        }
        let local = |address: IpAddr| {
            self.model.local.keys().filter_map(|uid| self.model.pod(uid)).find(|pod| pod.addresses.contains(&address))
        };
        let pods: Vec<&Arc<PodState>> = self.model.pods().collect();
        let permits = |own: Option<&Arc<PodState>>, peer: IpAddr, is_ingress: bool| {
            let Some(own) = own else { return true };
            let rules = |policy: &Policy| if is_ingress { policy.ingress.clone() } else { policy.egress.clone() };
            let mut isolating = self
                .model
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
                        Some(namespaces) => {
                            self.model.namespaces.get(&pod.namespace).is_some_and(|labels| matches(namespaces, labels))
                        }
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
            world.model.policies.insert(PolicyKey::new(namespace, number.to_string()), Arc::new(policy));
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
        world.model.policies.insert(PolicyKey::new("x", number.to_string()), Arc::new(ingress("", rules).1));
    }
    world.commit();
    let layout = &world.layout;
    assert_eq!((layout.selections.len(), layout.blocks.len(), layout.ports.len()), (1, 1, 1));
    assert_eq!(layout.chains.len(), 51, "one for each policy, one for their set");
    assert_eq!(layout.ingress.len(), 3);
    // Whatever else of the cluster is isolated is none of this node's business.
    let before = layout.clone();
    world.model.policies.insert(PolicyKey::new("w", "far"), Arc::new(ingress("", Some(vec![])).1));
    world.commit();
    assert_eq!(world.layout, before);
    world.model.policies.clear();
    world.commit();
    assert_eq!(world.layout, Layout { senders: before.senders, ..Layout::default() });
    assert!(world.kernel.is_empty());
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
                    let key = PolicyKey::new(NAMESPACES[at], name.to_string());
                    match policy {
                        Some(policy) => world.model.policies.insert(key, Arc::new(policy)),
                        None => world.model.policies.remove(&key),
                    };
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
