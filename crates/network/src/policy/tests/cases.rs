//! Upstream's cases by name, and which changes touch what.

use std::collections::BTreeMap;

use super::super::compiler::Compiler;
use super::super::layout::{Direction, Layout};
use super::super::state::{PodState, Policy, Rule};
use super::world::*;
use crate::services::TransportProtocol::{self, Sctp, Tcp, Udp};

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
