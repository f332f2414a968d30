//! Random histories of changes: what is followed change by change says what the policies say, and is what comes out of compiling all anew.

use std::collections::BTreeMap;
use std::net::IpAddr;

use object::selector::labels::Selector;
use proptest::prelude::*;

use super::super::judge::Connection;
use super::super::state::{NamedPort, Peer, PodState, Policy, Port, Rule};
use super::world::*;
use crate::services::TransportProtocol::{Sctp, Tcp, Udp};

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
    /// The lists come anew, without what is at these places.
    Lists(usize, usize),
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
        (0..4_usize, 0..4_usize).prop_map(|(policy, namespace)| Step::Lists(policy, namespace)),
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
                Step::Lists(policy, namespace) => world.lists(policy, namespace),
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
