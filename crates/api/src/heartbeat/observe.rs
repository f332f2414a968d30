//! What the server concludes from what it sees of its nodes: a pure machine over signs and time (decision 0010).
//!
//! Time is what has passed since the server began, by a monotonic clock. No wall clock takes part.

use client::BEAT_PERIOD;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How often the machine is to be told the time while something is amiss.
pub(crate) const TICK: Duration = Duration::from_millis(50);
/// A tick that is later than this by so much is a stall of the server's own.
const STALL: Duration = Duration::from_millis(300);
/// How long an agent may be away or hang before it is said: a restart of it is no news.
const AGENT_AFTER: Duration = Duration::from_secs(1);
/// A node that did not come back in this time after the server began may be judged.
const GRACE: Duration = Duration::from_secs(10);
/// Nodes that fell silent within this time of each other did so at once.
const AT_ONCE: Duration = Duration::from_secs(2);
/// From here a silence counts for fast failover, and for `NoExecute`.
const REPLACE_AFTER: Duration = Duration::from_secs(1);
const EVICT_AFTER: Duration = Duration::from_secs(5);
/// So many changes in this time are flapping; it ends when the node was healthy for as long.
const FLAPPING_CHANGES: usize = 5;
const FLAPPING_WINDOW: Duration = Duration::from_secs(60);
/// Between two probes of a host whose agent is away, and between two that only find out whether probes get through.
const PROBE_AWAY: Duration = Duration::from_millis(200);
const PROBE_HEALTHY: Duration = Duration::from_secs(60);
/// A node that has just joined says only then where it can be asked.
const PROBE_UNPLACED: Duration = Duration::from_secs(2);

/// What a silence allows by its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Taint and endpoints.
    Fresh,
    /// A second: replacements of pods that want fast failover.
    Replace,
    /// Five seconds: `NoExecute`.
    Evict,
}

/// What is known of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Its agent beats.
    Healthy,
    /// The host lives, its agent does not beat: it hangs or is frozen.
    AgentHung,
    /// The host lived when its agent ended, and still does as far as one can ask it.
    AgentAway {
        /// Whether nobody can ask the host (behind NAT, or a firewall), so that its Lease says when it is lost.
        by_lease: bool,
    },
    /// Nothing is heard of it.
    Silent(Silence),
}

/// A node as the others are told about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What is known of it.
    pub presence: Presence,
    /// It has changed too often lately to be believed at once.
    pub flapping: bool,
    /// All nodes fell silent at once: it is this server that is cut off, and nothing may follow from it.
    pub held: bool,
}

/// All nodes that beat or have beaten.
pub type Picture = BTreeMap<String, Seen>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// A connection with this number.
    Open(u64),
    /// None since then.
    Away(Duration),
    /// None since the server began; it may be judged from then.
    Expected(Duration),
}

#[derive(Debug)]
struct Node {
    link: Link,
    /// The last beat.
    beat: Duration,
    /// The last proof that the host lives.
    proof: Duration,
    /// What answers take on this way, so that a long way is not taken for silence.
    slack: Duration,
    /// Probes of the host were answered while it was there.
    probeable: bool,
    /// The last probe since the last proof was answered by nothing.
    unanswered: bool,
    /// When to probe next; none while one is under way.
    probe_at: Option<Duration>,
    presence: Option<Presence>,
    /// Until then silence has no consequences.
    held_until: Duration,
    changes: VecDeque<Duration>,
    flapping: bool,
    changed: Duration,
}

/// The machine.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    nodes: BTreeMap<String, Node>,
    ticked: Option<Duration>,
    /// When the next tick was to come.
    planned: Option<Duration>,
    cut_off: bool,
    /// The node of this process, which lives as long as it does.
    own: Option<String>,
    next: u64,
    period: Period,
}

/// How often agents are asked to beat.
#[derive(Debug)]
struct Period {
    asked: Duration,
    stalls: VecDeque<Duration>,
}

impl Default for Period {
    fn default() -> Self {
        Period { asked: BEAT_PERIOD, stalls: VecDeque::new() }
    }
}

/// Fewer beats than this in a second are not what makes a server late.
const BEATS_PER_SECOND_EASY: u128 = 1_000;
const STALLS_MAX: usize = 3;
const STALLS_WINDOW: Duration = Duration::from_secs(10);

impl Period {
    /// Three stalls within ten seconds under many beats: half as many beats from now on. True where it changed.
    fn stalled(&mut self, nodes: usize, now: Duration) -> bool {
        self.stalls.push_back(now);
        while self.stalls.front().is_some_and(|at| now.saturating_sub(*at) > STALLS_WINDOW) {
            self.stalls.pop_front();
        }
        let beats = nodes as u128 * 1_000 / self.asked.as_millis().max(1);
        if self.stalls.len() < STALLS_MAX || beats < BEATS_PER_SECOND_EASY || self.asked >= client::BEAT_PERIOD_MAX {
            return false;
        }
        self.stalls.clear();
        self.asked = (self.asked * 2).min(client::BEAT_PERIOD_MAX);
        true
    }
}

impl Observer {
    /// Says which node is this process itself.
    pub(crate) fn set_own(&mut self, node: &str) {
        self.own = Some(node.to_owned());
    }

    /// A node that beat before the server began: it gets time to come back. Whether its host answered probes is known from the server before.
    pub(crate) fn expect(&mut self, node: &str, probeable: bool, now: Duration) {
        if self.own.as_deref() == Some(node) {
            return;
        }
        let new = || Node { probeable, ..Node::new(Link::Expected(now + GRACE), now) };
        self.nodes.entry(node.to_owned()).or_insert_with(new);
    }

    /// The nodes whose hosts have answered probes, and may be missed when they do not.
    pub(crate) fn answering(&self) -> impl Iterator<Item = &String> {
        self.nodes.iter().filter(|(_, node)| node.probeable).map(|(name, _)| name)
    }

    /// A node's connection; a newer one replaces the older. Its number.
    ///
    /// `moved`: it comes from another address than the one before. Where that one was still open, two machines may have one identity: a clone of a
    /// disk has. It counts as coming and going.
    pub(crate) fn opened(&mut self, node: &str, moved: bool, now: Duration) -> u64 {
        self.next += 1;
        let entry = self.nodes.entry(node.to_owned()).or_insert_with(|| Node::new(Link::Expected(now), now));
        if moved && matches!(entry.link, Link::Open(_)) {
            entry.note_change(now);
        }
        entry.link = Link::Open(self.next);
        entry.probe_at = Some(now);
        self.beat(node, self.next, now);
        self.next
    }

    /// A beat on a connection; false where a newer connection has replaced it.
    pub(crate) fn beat(&mut self, name: &str, number: u64, now: Duration) -> bool {
        let Some(node) = self.nodes.get_mut(name).filter(|node| node.link == Link::Open(number)) else { return false };
        (node.beat, node.proof, node.unanswered) = (now, now, false);
        node.held_until = Duration::ZERO;
        node.turn(Presence::Healthy, now);
        if self.cut_off {
            self.cut_off = false;
            // The way is open again; the others get time to find it, too.
            for other in self.nodes.values_mut().filter(|other| matches!(other.presence, Some(Presence::Silent(_)))) {
                other.held_until = now + GRACE;
                other.proof = now + GRACE;
            }
        }
        true
    }

    /// The host's kernel acknowledged something so long ago; `round_trip` is what that takes.
    pub(crate) fn heard(&mut self, name: &str, number: u64, ago: Duration, round_trip: Duration, now: Duration) {
        let Some(node) = self.nodes.get_mut(name).filter(|node| node.link == Link::Open(number)) else { return };
        node.proof = node.proof.max(now.saturating_sub(ago));
        node.slack = (round_trip * 2).min(GRACE);
    }

    /// The connection ended; `by_peer` where its host said so (FIN or RST), which proves that it lived.
    pub(crate) fn closed(&mut self, name: &str, number: u64, by_peer: bool, now: Duration) {
        let Some(node) = self.nodes.get_mut(name).filter(|node| node.link == Link::Open(number)) else { return };
        node.link = Link::Away(now);
        node.probe_at = Some(now);
        if by_peer {
            (node.proof, node.unanswered) = (node.proof.max(now), false);
        }
    }

    /// What came of a probe of the host: an answer (also a refusal), or nothing. `None` where there was nowhere to ask.
    pub(crate) fn probed(&mut self, name: &str, answered: Option<bool>, now: Duration) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        let is_open = matches!(node.link, Link::Open(_));
        match answered {
            Some(true) => {
                node.probeable = true;
                (node.proof, node.unanswered) = (node.proof.max(now), false);
            }
            // Unreachable while its agent beats: not a way to ask about its host.
            Some(false) if is_open && node.presence == Some(Presence::Healthy) => node.probeable = false,
            Some(false) => node.unanswered = true,
            None => node.probeable = false,
        }
        let again = match (is_open, answered) {
            (true, None) => PROBE_UNPLACED,
            (true, Some(_)) => PROBE_HEALTHY,
            (false, _) => PROBE_AWAY,
        };
        node.probe_at = Some(now + again);
    }

    /// The hosts that are to be probed now; each is named once until its answer is told.
    pub(crate) fn probes(&mut self, now: Duration) -> Vec<String> {
        let due = self.nodes.iter_mut().filter(|(_, node)| {
            let lost = matches!(node.presence, Some(Presence::Silent(_))) && !matches!(node.link, Link::Open(_));
            !lost && node.probe_at.is_some_and(|at| at <= now)
        });
        due.map(|(name, node)| {
            node.probe_at = None;
            name.clone()
        })
        .collect()
    }

    /// Forgets nodes that are not connected and that `is_known` does not know.
    pub(crate) fn retain(&mut self, is_known: impl Fn(&str) -> bool) {
        self.nodes.retain(|name, node| matches!(node.link, Link::Open(_)) || is_known(name));
    }

    /// The period that agents are asked to beat in.
    pub(crate) fn period(&self) -> Duration {
        self.period.asked
    }

    /// After how long without a beat the server begins to ask.
    pub(crate) fn overdue_after(&self) -> Duration {
        self.period.asked * 3 / 2
    }

    /// When to be told the time again; none while there is no node. Where all is well nothing can be amiss before the first node's
    /// next beat is overdue.
    pub(crate) fn next_tick(&mut self, now: Duration) -> Option<Duration> {
        let overdue_after = self.overdue_after();
        let next = |node: &Node| {
            let is_well =
                matches!(node.link, Link::Open(_)) && node.presence == Some(Presence::Healthy) && !node.flapping;
            let overdue = node.proof.min(node.beat) + overdue_after;
            let probe = node.probe_at.unwrap_or(overdue);
            if is_well { overdue.min(probe) } else { now }
        };
        let first = self.nodes.values().map(next).min();
        // Without nodes nobody knows when the next tick comes: then none is late.
        self.ticked = self.ticked.filter(|_| first.is_some());
        self.planned = first.map(|first| if self.cut_off { now + TICK } else { first.max(now + TICK) });
        self.planned
    }

    /// Moves on to this time.
    pub(crate) fn tick(&mut self, now: Duration) {
        let planned = self.planned.take().or(self.ticked.map(|ticked| ticked + TICK));
        let late = planned.map_or(Duration::ZERO, |planned| now.saturating_sub(planned));
        self.ticked = Some(now);
        if late > STALL {
            // What was not looked at was not silent.
            for node in self.nodes.values_mut() {
                node.beat += late;
                node.proof += late;
                if let Link::Away(since) | Link::Expected(since) = &mut node.link {
                    *since += late;
                }
            }
            if self.period.stalled(self.nodes.len(), now) {
                let period_ms = self.period.asked.as_millis();
                tracing::warn!(period_ms, "this server is late; agents are asked for fewer heartbeats");
            }
        }
        let silent_after = self.period.asked * 3;
        let suspicious_after = self.overdue_after();
        let is_candidate = |node: &Node| node.is_silent(silent_after, now);
        // Of those that lived lately: did all of them fall silent together?
        let others = || self.nodes.iter().filter(|(name, _)| self.own.as_ref() != Some(*name));
        let last = others().map(|(_, node)| node.proof).max().unwrap_or_default();
        let together = || {
            let lately = others().filter(|(_, node)| node.proof + AT_ONCE >= last && node.presence.is_some());
            lately.map(|(_, node)| node)
        };
        let several = together().nth(1).is_some();
        let is_silent = |node: &Node| matches!(node.presence, Some(Presence::Silent(_))) || is_candidate(node);
        let all_silent = several && together().all(is_silent);
        let all_suspicious = several
            && together().all(|node| is_silent(node) || now.saturating_sub(node.proof) > suspicious_after + node.slack);
        if all_silent && together().any(is_candidate) {
            self.cut_off = true;
        }
        for (name, node) in &mut self.nodes {
            if self.own.as_ref() == Some(name) {
                node.presence = Some(Presence::Healthy);
                continue;
            }
            if node.is_silent(silent_after, now) {
                // Where the others may turn out to be silent as well, a moment tells.
                let waits = all_suspicious && !all_silent;
                if !waits || now.saturating_sub(node.proof) >= silent_after + silent_after / 2 + node.slack {
                    node.turn(Presence::Silent(Silence::Fresh), now);
                }
            }
            node.age(self.period.asked, now);
        }
    }

    /// What others are told.
    pub(crate) fn picture(&self) -> Picture {
        let now = self.ticked.unwrap_or_default();
        let told = self.nodes.iter().filter_map(|(name, node)| {
            let silent = matches!(node.presence?, Presence::Silent(_));
            let held = silent && (self.cut_off || now < node.held_until);
            Some((name.clone(), Seen { presence: node.presence?, flapping: node.flapping, held }))
        });
        let own = self.own.clone().map(|own| (own, Seen { presence: Presence::Healthy, flapping: false, held: false }));
        told.chain(own).collect()
    }
}

impl Node {
    fn new(link: Link, now: Duration) -> Self {
        Node {
            link,
            beat: now,
            proof: now,
            slack: Duration::ZERO,
            probeable: false,
            unanswered: false,
            probe_at: Some(now),
            presence: None,
            held_until: Duration::ZERO,
            changes: VecDeque::new(),
            flapping: false,
            changed: now,
        }
    }

    /// Whether the silence has just become one.
    fn is_silent(&self, after: Duration, now: Duration) -> bool {
        if matches!(self.presence, None | Some(Presence::Silent(_))) {
            return false;
        }
        let long = |since: Duration| now.saturating_sub(since) >= after + self.slack;
        match self.link {
            Link::Open(_) => long(self.proof) && long(self.beat),
            Link::Away(_) | Link::Expected(_) => self.probeable && self.unanswered && long(self.proof),
        }
    }

    /// What follows from time alone.
    fn age(&mut self, period: Duration, now: Duration) {
        let since = |then: Duration| now.saturating_sub(then);
        match (self.presence, self.link) {
            (Some(Presence::Silent(_)), _) => {
                let silence = match since(self.proof) {
                    long if long >= EVICT_AFTER => Silence::Evict,
                    long if long >= REPLACE_AFTER => Silence::Replace,
                    _ => Silence::Fresh,
                };
                self.presence = Some(Presence::Silent(silence));
            }
            (_, Link::Open(_)) => {
                if since(self.beat) >= AGENT_AFTER.max(period * 5) {
                    self.turn(Presence::AgentHung, now);
                }
            }
            (_, Link::Away(away)) => {
                if since(away) >= AGENT_AFTER {
                    self.turn(Presence::AgentAway { by_lease: !self.probeable }, now);
                }
            }
            (_, Link::Expected(until)) => {
                if now >= until && self.probeable {
                    self.turn(Presence::AgentAway { by_lease: false }, now);
                }
            }
        }
        while self.changes.front().is_some_and(|at| since(*at) > FLAPPING_WINDOW) {
            self.changes.pop_front();
        }
        if self.changes.len() >= FLAPPING_CHANGES {
            self.flapping = true;
        } else if self.presence == Some(Presence::Healthy) && since(self.changed) >= FLAPPING_WINDOW {
            self.flapping = false;
        }
    }

    fn note_change(&mut self, now: Duration) {
        if self.changes.len() == FLAPPING_CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(now);
        self.changed = now;
    }

    fn turn(&mut self, presence: Presence, now: Duration) {
        if self.presence == Some(presence) {
            return;
        }
        let healthy = |presence: Option<Presence>| presence == Some(Presence::Healthy);
        if self.presence.is_some() && healthy(self.presence) != healthy(Some(presence)) {
            self.note_change(now);
        }
        self.presence = Some(presence);
    }
}

#[cfg(test)]
#[path = "observe_tests.rs"]
mod tests;
