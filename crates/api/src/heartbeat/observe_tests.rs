//! Scripts of signs over time, and what must be concluded from them.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

/// A server with its nodes; time moves in ticks.
struct World {
    observer: Observer,
    now: u64,
    links: BTreeMap<String, u64>,
    /// Nodes that beat, nodes whose kernel alone answers, nodes whose host answers probes.
    beating: Vec<String>,
    acknowledging: Vec<String>,
    answering: Vec<String>,
    seen: Vec<(u64, String, Seen)>,
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl World {
    fn new(nodes: &[&str]) -> Self {
        let mut observer = Observer::default();
        observer.set_own("own");
        let (links, seen) = (BTreeMap::new(), Vec::new());
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut world = World {
            observer,
            now: 0,
            links,
            beating: Vec::new(),
            acknowledging: Vec::new(),
            answering: named(nodes),
            seen,
        };
        for node in nodes {
            world.open(node);
        }
        world.run(1_000);
        world.seen.clear();
        world
    }

    fn open(&mut self, node: &str) {
        let number = self.observer.opened(node, false, ms(self.now));
        self.links.insert(node.to_owned(), number);
        self.beating.push(node.to_owned());
    }

    fn stop(&mut self, node: &str) {
        for list in [&mut self.beating, &mut self.acknowledging, &mut self.answering] {
            list.retain(|one| one != node);
        }
    }

    /// The host answers on, its agent does not.
    fn freeze(&mut self, node: &str) {
        self.beating.retain(|one| one != node);
        self.acknowledging.push(node.to_owned());
    }

    fn close(&mut self, node: &str, by_peer: bool) {
        self.beating.retain(|one| one != node);
        self.observer.closed(node, self.links[node], by_peer, ms(self.now));
    }

    fn run(&mut self, millis: u64) {
        let until = self.now + millis;
        while self.now < until {
            self.now += 50;
            if self.now.is_multiple_of(200) {
                for node in &self.beating {
                    self.observer.beat(node, self.links[node], ms(self.now));
                }
            }
            for node in &self.acknowledging {
                self.observer.heard(node, self.links[node], ms(20), ms(1), ms(self.now));
            }
            let before = self.observer.picture();
            self.observer.tick(ms(self.now));
            for node in self.observer.probes(ms(self.now)) {
                let answered = self.answering.contains(&node);
                self.observer.probed(&node, Some(answered), ms(self.now));
            }
            for (name, seen) in self.observer.picture() {
                if before.get(&name) != Some(&seen) {
                    self.seen.push((self.now, name, seen));
                }
            }
        }
    }

    fn presence(&self, node: &str) -> Presence {
        self.observer.picture()[node].presence
    }

    /// When a node was first told as `presence`, counted from `since`.
    fn when(&self, since: u64, node: &str, presence: Presence) -> u64 {
        let found = self.seen.iter().find(|(_, name, seen)| name == node && seen.presence == presence);
        found.unwrap().0 - since
    }
}

#[test]
fn silence_is_told_within_a_second_and_ages() {
    let mut world = World::new(&["a", "b", "c"]);
    let since = world.now;
    world.stop("a");
    world.run(6_000);
    assert!(world.when(since, "a", Presence::Silent(Silence::Fresh)) <= 700);
    let replace = world.when(since, "a", Presence::Silent(Silence::Replace));
    assert!((1_000..=1_050).contains(&replace), "{replace}");
    let evict = world.when(since, "a", Presence::Silent(Silence::Evict));
    assert!((5_000..=5_050).contains(&evict), "{evict}");
    assert_eq!((world.presence("b"), world.presence("own")), (Presence::Healthy, Presence::Healthy));
    assert!(world.seen.iter().all(|(_, name, seen)| name == "a" && !seen.held), "{:?}", world.seen);
    world.beating.push("a".into());
    world.run(250);
    assert_eq!(world.presence("a"), Presence::Healthy);
}

#[test]
fn a_frozen_agent_on_a_living_host_hangs_and_is_never_silent() {
    let mut world = World::new(&["a", "b"]);
    let since = world.now;
    world.freeze("a");
    world.run(60_000);
    assert_eq!(world.presence("a"), Presence::AgentHung);
    let hung = world.when(since, "a", Presence::AgentHung);
    assert!((1_000..=1_050).contains(&hung), "{hung}");
    assert!(!world.seen.iter().any(|(_, _, seen)| matches!(seen.presence, Presence::Silent(_))));
    // Then its host goes as well.
    let since = world.now;
    world.stop("a");
    world.run(1_000);
    assert!(world.when(since, "a", Presence::Silent(Silence::Fresh)) <= 700);
}

#[test]
fn a_killed_agent_is_away_while_its_host_refuses_and_silent_when_it_says_nothing() {
    let mut world = World::new(&["a", "b"]);
    world.close("a", true);
    world.run(60_000);
    assert_eq!(world.presence("a"), Presence::AgentAway { by_lease: false });
    assert_eq!(world.seen.len(), 1, "{:?}", world.seen);
    let since = world.now;
    world.stop("a");
    world.run(1_000);
    assert!(world.when(since, "a", Presence::Silent(Silence::Fresh)) <= 850);
    // A restart within a second is no news.
    let mut world = World::new(&["a", "b"]);
    world.close("a", true);
    world.run(800);
    world.open("a");
    world.run(5_000);
    assert_eq!(world.seen, []);
}

#[test]
fn a_host_that_cannot_be_asked_is_left_to_its_lease() {
    let mut world = World::new(&["a", "b"]);
    world.answering.clear();
    world.run(120_000); // the look at whether probes get through
    world.close("a", true);
    world.run(60_000);
    assert_eq!(world.presence("a"), Presence::AgentAway { by_lease: true });
}

#[test]
fn all_silent_at_once_is_this_servers_own_trouble() {
    for spread in [0, 150, 250] {
        let mut world = World::new(&["a", "b", "c"]);
        world.stop("a");
        world.run(spread);
        world.stop("b");
        world.stop("c");
        world.run(120_000);
        let silent = |seen: &Seen| matches!(seen.presence, Presence::Silent(_));
        assert!(world.seen.iter().all(|(_, _, seen)| silent(seen) && seen.held), "{spread}: {:?}", world.seen);
        assert!(world.observer.picture().iter().all(|(name, seen)| name == "own" || silent(seen)));
        // The way opens again; the one that stays away is judged after ten seconds.
        world.beating.extend(["a".into(), "b".into()]);
        world.run(300);
        assert_eq!(world.presence("b"), Presence::Healthy);
        assert!(world.observer.picture()["c"].held);
        world.run(11_000);
        assert!(!world.observer.picture()["c"].held && world.presence("c") == Presence::Silent(Silence::Replace));
    }
    // One of two that goes alone, the other later: each on its own.
    let mut world = World::new(&["a", "b"]);
    world.stop("a");
    world.run(5_000);
    world.stop("b");
    world.run(5_000);
    assert!(world.seen.iter().all(|(_, _, seen)| !seen.held), "{:?}", world.seen);
    // A single other node: its silence is taken for its own.
    let mut world = World::new(&["a"]);
    world.stop("a");
    world.run(1_000);
    assert!(!world.observer.picture()["a"].held && matches!(world.presence("a"), Presence::Silent(_)));
}

#[test]
fn the_servers_own_stall_is_nobodys_silence() {
    let mut world = World::new(&["a", "b"]);
    for stall in [400, 3_000, 60_000] {
        world.now += stall;
        world.observer.tick(ms(world.now));
        world.run(1_000);
        assert_eq!(world.seen, []);
    }
}

#[test]
fn a_new_server_gives_known_nodes_time() {
    let mut world = World::new(&[]);
    world.observer.expect("a", false, ms(world.now));
    world.observer.expect("b", false, ms(world.now));
    world.observer.expect("own", false, ms(world.now));
    world.answering.push("a".into());
    world.run(9_000);
    assert_eq!(world.seen, []);
    world.run(3_000);
    assert_eq!(world.presence("a"), Presence::AgentAway { by_lease: false });
    assert!(!world.observer.picture().contains_key("b"), "its Lease tells");
}

#[test]
fn a_machine_that_died_while_the_server_was_away_is_silent_after_the_time_to_come_back() {
    let mut world = World::new(&[]);
    for node in ["dead", "alive", "behind-nat"] {
        world.observer.expect(node, node != "behind-nat", ms(world.now));
    }
    world.answering.push("alive".into());
    let since = world.now;
    world.run(9_900);
    assert_eq!(world.seen, []);
    world.run(1_000);
    assert!(world.when(since, "dead", Presence::Silent(Silence::Evict)) <= 10_200);
    assert_eq!(world.presence("alive"), Presence::AgentAway { by_lease: false });
    let picture = world.observer.picture();
    assert!(!picture["dead"].held && !picture.contains_key("behind-nat"), "its Lease tells");
    // Where none answers, it is the server that is cut off.
    let mut world = World::new(&[]);
    for node in ["a", "b"] {
        world.observer.expect(node, true, ms(world.now));
    }
    world.run(20_000);
    assert!(world.observer.picture().values().all(|seen| seen.held || seen.presence == Presence::Healthy));
    // One that beats proves the way; the other gets time again.
    world.open("a");
    world.run(9_000);
    assert!(world.observer.picture()["b"].held);
    world.run(2_000);
    assert!(!world.observer.picture()["b"].held);
}

#[test]
fn a_node_that_does_not_say_yet_where_it_is_is_asked_again_soon() {
    let mut observer = Observer::default();
    observer.opened("a", false, ms(0));
    assert_eq!(observer.probes(ms(50)), ["a"]);
    observer.probed("a", None, ms(100));
    assert!(observer.probes(ms(1_000)).is_empty() && observer.answering().next().is_none());
    assert_eq!(observer.probes(ms(2_100)), ["a"]);
    observer.probed("a", Some(true), ms(2_150));
    assert_eq!(observer.answering().count(), 1);
    assert!(observer.probes(ms(30_000)).is_empty());
}

#[test]
fn five_changes_in_a_minute_are_flapping_until_a_healthy_minute() {
    let mut world = World::new(&["a", "b"]);
    for _ in 0..3 {
        world.stop("a");
        world.run(2_000);
        world.beating.push("a".into());
        world.run(2_000);
    }
    let seen = world.observer.picture()["a"];
    assert!(seen.flapping && seen.presence == Presence::Healthy);
    world.run(50_000);
    assert!(world.observer.picture()["a"].flapping);
    world.run(15_000);
    assert!(!world.observer.picture()["a"].flapping);
}

#[test]
fn two_machines_with_one_identity_are_flapping() {
    let mut world = World::new(&["a", "b"]);
    for _ in 0..5 {
        assert!(!world.observer.picture()["a"].flapping);
        let number = world.observer.opened("a", true, ms(world.now));
        world.links.insert("a".to_owned(), number);
        world.run(400);
    }
    let seen = world.observer.picture()["a"];
    assert!(seen.flapping && seen.presence == Presence::Healthy);
    world.run(65_000);
    assert!(!world.observer.picture()["a"].flapping);
}

#[test]
fn an_older_connection_says_nothing_once_a_newer_one_is_there() {
    let mut world = World::new(&["a", "b"]);
    let old = world.links["a"];
    world.open("a");
    assert!(!world.observer.beat("a", old, ms(world.now)));
    world.observer.closed("a", old, true, ms(world.now));
    world.run(5_000);
    assert_eq!(world.seen, []);
}

#[test]
fn many_beats_that_make_a_server_late_are_asked_for_less_often() {
    let mut observer = Observer::default();
    for node in 0..1_000 {
        observer.opened(&format!("n{node}"), false, ms(0));
    }
    for round in 1..=3 {
        observer.tick(ms(round * 1_000));
    }
    assert_eq!(observer.period(), BEAT_PERIOD, "the first is no stall");
    observer.tick(ms(4_000));
    assert_eq!(observer.period(), BEAT_PERIOD * 2);
    for round in 5..200 {
        observer.tick(ms(round * 1_000));
    }
    assert_eq!(observer.period(), BEAT_PERIOD * 8, "a thousand nodes are 625 beats in a second now");
}

#[test]
fn the_time_is_asked_for_only_while_something_may_be_amiss() {
    let mut observer = Observer::default();
    observer.set_own("own");
    assert_eq!(observer.next_tick(ms(0)), None, "no other node: nothing to look at");
    // A minute in which nobody looked is no stall of the server's.
    let number = observer.opened("a", false, ms(60_000));
    assert_eq!(observer.next_tick(ms(60_000)), Some(ms(60_050)), "it is to be probed at once");
    observer.tick(ms(60_050));
    assert_eq!(observer.probes(ms(60_050)), ["a"]);
    observer.probed("a", Some(true), ms(60_060));
    // All is well: the next look is when the next beat is overdue.
    assert!(observer.beat("a", number, ms(60_100)));
    assert_eq!(observer.next_tick(ms(60_100)), Some(ms(60_400)));
    // Where that look is late, so was the server; in time it was not.
    observer.tick(ms(60_400));
    assert_eq!(observer.next_tick(ms(60_400)), Some(ms(60_450)), "a beat is missing");
    observer.tick(ms(60_450));
    observer.tick(ms(60_700));
    assert!(matches!(observer.picture()["a"].presence, Presence::Silent(_)), "{:?}", observer.picture());
    assert_eq!(observer.next_tick(ms(60_700)), Some(ms(60_750)));
    observer.tick(ms(60_750));
    assert!(observer.beat("a", number, ms(60_760)));
    assert_eq!(observer.next_tick(ms(60_760)), Some(ms(61_060)));
    observer.tick(ms(62_000));
    assert_eq!(
        observer.picture()["a"].presence,
        Presence::Healthy,
        "940 ms late: what was not looked at was not silent"
    );
    observer.closed("a", number, true, ms(62_010));
    assert_eq!(observer.next_tick(ms(62_010)), Some(ms(62_060)));
}
