//! What a node says about the addresses that it announces: asks first, tells, answers, and yields to newer decisions and to hosts. Pure: time
//! and frames come in, frames go out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::frame::{self, Heard, Mark};
use super::interfaces::Interface;
use crate::netlink::LinkAddress;

/// Addresses that one node announces.
pub(super) const ADDRESSES_MAX: usize = 4096;
/// Answers per second.
const ANSWERS_MAX: u32 = 1000;
const PROBES: u8 = 2;
const PROBE_EVERY: Duration = Duration::from_millis(50);
/// When all are told, after it was told first.
const TELL_AGAIN: [Duration; 2] = [Duration::from_millis(250), Duration::from_millis(750)];
/// So that neighbours and switches that missed it learn it.
const TELL_EVERY: Duration = Duration::from_secs(30);
/// Others of ours are contradicted no more often.
const CONTRADICT_EVERY: Duration = Duration::from_secs(1);
/// RFC 5227's DEFEND_INTERVAL: a second host that claims the address within it gets it.
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// A frame to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Send {
    pub(super) interface: u32,
    pub(super) frame: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Whether somebody has it: so many probes are to be sent still, the next step is due then.
    Asking { left: u8, at: Instant },
    /// It is answered for; told so often, and again then.
    Answering { told: usize, at: Instant },
    /// Another node of ours announces it by this decision.
    Yielded { to: u64 },
    /// A host has it; asked again then.
    Conflict { at: Instant },
}

struct Entry {
    decision: u64,
    state: State,
    interfaces: Vec<u32>,
    contradicted: Option<Instant>,
    defended: Option<Instant>,
    /// The host that had it when it was asked for last.
    host: Option<LinkAddress>,
}

/// The announcer's state.
#[derive(Default)]
pub(super) struct Machine {
    cluster: u64,
    interfaces: BTreeMap<u32, Interface>,
    entries: BTreeMap<IpAddr, Entry>,
    answers: u32,
    second: Option<Instant>,
    /// Answers that were not given.
    pub(super) withheld: u64,
}

impl Machine {
    /// Takes over which addresses are announced, by which decisions. What is not there any more is not answered for.
    pub(super) fn set(&mut self, cluster: u64, wanted: &BTreeMap<IpAddr, u64>, now: Instant) {
        // As many bits as the mark has.
        self.cluster = cluster & 0xffff_ffff_ffff;
        self.entries.retain(|address, _| wanted.contains_key(address));
        for (address, decision) in wanted.iter().take(ADDRESSES_MAX) {
            let interfaces = self.interfaces_of(*address);
            let begin = State::Asking { left: PROBES, at: now };
            let entry = self.entries.entry(*address).or_insert_with(|| Entry {
                decision: *decision,
                state: begin,
                interfaces,
                contradicted: None,
                defended: None,
                host: None,
            });
            if entry.decision == *decision {
                continue;
            }
            entry.decision = *decision;
            entry.state = match entry.state {
                State::Yielded { to } if to > *decision => State::Yielded { to },
                State::Yielded { .. } => begin,
                // It may have been elsewhere meanwhile.
                State::Answering { .. } => State::Answering { told: 0, at: now },
                other => other,
            };
        }
    }

    /// Takes over the host's interfaces. An address whose interfaces changed is asked for anew.
    pub(super) fn set_interfaces(&mut self, interfaces: Vec<Interface>, now: Instant) {
        let interfaces: BTreeMap<u32, Interface> = interfaces.into_iter().map(|one| (one.index, one)).collect();
        if interfaces == self.interfaces {
            return;
        }
        let before = std::mem::replace(&mut self.interfaces, interfaces);
        let addresses: Vec<IpAddr> = self.entries.keys().copied().collect();
        for address in addresses {
            let now_on = self.interfaces_of(address);
            let same =
                |index: &u32| self.interfaces.get(index).map(|one| one.link) == before.get(index).map(|one| one.link);
            let is_same = now_on.iter().all(same);
            if let Some(entry) = self.entries.get_mut(&address)
                && (entry.interfaces != now_on || !is_same)
            {
                entry.interfaces = now_on;
                if !matches!(entry.state, State::Yielded { .. }) {
                    entry.state = State::Asking { left: PROBES, at: now };
                }
            }
        }
    }

    fn interfaces_of(&self, address: IpAddr) -> Vec<u32> {
        let of = self.interfaces.values().filter(|one| one.subnets.iter().any(|subnet| subnet.contains(address)));
        of.map(|one| one.index).collect()
    }

    /// Where questions for IPv6 addresses arrive: interface and address.
    pub(super) fn listens(&self) -> BTreeSet<(u32, std::net::Ipv6Addr)> {
        let all = self.entries.iter().filter_map(|(address, entry)| match address {
            IpAddr::V6(address) => Some((frame::solicited_node(*address), entry)),
            IpAddr::V4(_) => None,
        });
        all.flat_map(|(group, entry)| entry.interfaces.iter().map(move |index| (*index, group))).collect()
    }

    /// Whether addresses of a family are announced.
    pub(super) fn has_family(&self, v6: bool) -> bool {
        self.entries.keys().any(|address| address.is_ipv6() == v6)
    }

    /// Addresses that hosts have, and which.
    pub(super) fn conflicts(&self) -> BTreeMap<IpAddr, LinkAddress> {
        self.entries.iter().filter_map(|(address, entry)| Some((*address, entry.host?))).collect()
    }

    /// When something is due by itself.
    pub(super) fn next(&self) -> Option<Instant> {
        let due =
            self.entries.values().filter(|entry| !entry.interfaces.is_empty()).filter_map(|entry| match entry.state {
                State::Asking { at, .. } | State::Answering { at, .. } | State::Conflict { at } => Some(at),
                State::Yielded { .. } => None,
            });
        due.min()
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Send> {
        let mut sends = Vec::new();
        for (address, entry) in &mut self.entries {
            let mark = Mark { cluster: self.cluster, decision: entry.decision };
            let links = entry.interfaces.iter().filter_map(|index| Some((*index, self.interfaces.get(index)?.link)));
            let mut tell = |links: &mut dyn Iterator<Item = (u32, LinkAddress)>| {
                for (interface, link) in links {
                    let frames = frame::announcement(link, *address, mark);
                    sends.extend(frames.into_iter().map(|frame| Send { interface, frame }));
                }
            };
            match entry.state {
                _ if entry.interfaces.is_empty() => {}
                State::Asking { left: 0, at } if at <= now => {
                    tell(&mut links.into_iter());
                    entry.host = None;
                    entry.state = State::Answering { told: 1, at: now + TELL_AGAIN[0] };
                }
                State::Asking { left, at } if at <= now => {
                    sends.extend(
                        links.map(|(interface, link)| Send { interface, frame: frame::probe(link, *address, mark) }),
                    );
                    entry.state = State::Asking { left: left - 1, at: now + PROBE_EVERY };
                }
                State::Answering { told, at } if at <= now => {
                    tell(&mut links.into_iter());
                    let wait = TELL_AGAIN.get(told).copied().unwrap_or(TELL_EVERY);
                    entry.state = State::Answering { told: told.saturating_add(1), at: now + wait };
                }
                State::Conflict { at } if at <= now => {
                    entry.state = State::Asking { left: PROBES, at: now };
                }
                _ => {}
            }
        }
        sends
    }

    /// Takes in what an interface received, and gives what is to be said to it.
    pub(super) fn heard(&mut self, interface: u32, heard: &Heard, now: Instant) -> Vec<Send> {
        let Some(own) = self.interfaces.get(&interface).map(|one| one.link) else { return Vec::new() };
        if self.interfaces.values().any(|one| one.link == heard.from) {
            return Vec::new();
        }
        let ours = heard.mark.filter(|mark| mark.cluster == self.cluster);
        let mut sends = Vec::new();
        if let Some(claim) = &heard.claim
            && let Some(entry) =
                self.entries.get_mut(&claim.address).filter(|entry| entry.interfaces.contains(&interface))
        {
            let tells = match ours {
                Some(mark) => entry.met(mark.decision, now),
                None => entry.contested(claim.link, now),
            };
            if tells {
                let mark = Mark { cluster: self.cluster, decision: entry.decision };
                let frames = frame::announcement(own, claim.address, mark);
                sends.extend(frames.into_iter().map(|frame| Send { interface, frame }));
            }
        }
        if let Some(question) = &heard.question
            && let Some(entry) =
                self.entries.get_mut(&question.target).filter(|entry| entry.interfaces.contains(&interface))
        {
            if let Some(mark) = ours {
                entry.met(mark.decision, now);
            } else if let (None, State::Asking { .. }) = (question.asker, entry.state) {
                // Both ask at once: the host gets it (RFC 5227, section 2.1.1).
                entry.lose_to(question.asker_link, now);
            }
            let mark = Mark { cluster: self.cluster, decision: entry.decision };
            if matches!(entry.state, State::Answering { .. })
                && let Some(frame) = frame::answer(own, question, mark)
                && self.may_answer(now)
            {
                sends.push(Send { interface, frame });
            }
        }
        sends
    }

    fn may_answer(&mut self, now: Instant) -> bool {
        if self.second.is_none_or(|second| now.duration_since(second) >= Duration::from_secs(1)) {
            self.second = Some(now);
            self.answers = 0;
        }
        self.answers = self.answers.saturating_add(1);
        let may = self.answers <= ANSWERS_MAX;
        self.withheld += u64::from(!may);
        may
    }
}

impl Entry {
    /// Another node of ours speaks for the address; whether all are to be told that it is here.
    fn met(&mut self, decision: u64, now: Instant) -> bool {
        if decision > self.decision {
            let to = match self.state {
                State::Yielded { to } => to.max(decision),
                _ => decision,
            };
            self.state = State::Yielded { to };
            return false;
        }
        let answers = matches!(self.state, State::Answering { .. }) && decision < self.decision;
        let lately = self.contradicted.is_some_and(|at| now.duration_since(at) < CONTRADICT_EVERY);
        if answers && !lately {
            self.contradicted = Some(now);
        }
        answers && !lately
    }

    /// A host says that it has the address; whether all are to be told that it is here.
    fn contested(&mut self, by: LinkAddress, now: Instant) -> bool {
        match self.state {
            State::Yielded { .. } => false,
            State::Answering { .. } if self.defended.is_none_or(|at| now.duration_since(at) >= DEFEND_INTERVAL) => {
                self.defended = Some(now);
                true
            }
            _ => {
                self.lose_to(by, now);
                false
            }
        }
    }

    fn lose_to(&mut self, host: LinkAddress, now: Instant) {
        self.host = Some(host);
        self.state = State::Conflict { at: now + ASK_AGAIN_AFTER };
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::super::frame::{Claim, Question, parse};
    use super::*;

    const OWN: LinkAddress = [2, 0, 0, 0, 0, 1];
    const OTHER: LinkAddress = [2, 0, 0, 0, 0, 2];
    const CLUSTER: u64 = 77;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn machine() -> Machine {
        let mut machine = Machine::default();
        let interface = |index, subnet: &str, last| Interface {
            index,
            link: [2, 0, 0, 0, 0, last],
            subnets: vec![subnet.parse().unwrap()],
        };
        let interfaces = vec![interface(7, "192.0.2.0/24", 1), interface(8, "198.51.100.0/24", 1)];
        machine.set_interfaces(interfaces, Instant::now());
        machine
    }

    fn wanted(decision: u64) -> BTreeMap<IpAddr, u64> {
        BTreeMap::from([(ip("192.0.2.240"), decision)])
    }

    /// Time goes on; what was sent, as words.
    fn pass(machine: &mut Machine, now: &mut Instant, time: Duration) -> String {
        let end = *now + time;
        let mut sent = Vec::new();
        while let Some(at) = machine.next().filter(|at| *at <= end) {
            *now = at.max(*now);
            sent.extend(machine.tick(*now));
        }
        *now = end;
        words(&sent)
    }

    fn words(sent: &[Send]) -> String {
        let word = |send: &Send| {
            let heard = parse(&send.frame).unwrap();
            let what = if heard.claim.is_some() { "claim" } else { "probe" };
            format!("{what}@{} by {}", send.interface, heard.mark.unwrap().decision)
        };
        let mut all: Vec<String> = sent.iter().map(word).collect();
        all.dedup();
        all.join(", ")
    }

    fn question(mark: Option<u64>, asker: Option<&str>) -> Heard {
        let question = Question { target: ip("192.0.2.240"), asker: asker.map(ip), asker_link: OTHER };
        Heard { from: OTHER, question: Some(question), claim: None, mark: mark.map(ours) }
    }

    fn claim(mark: Option<Mark>) -> Heard {
        Heard { from: OTHER, question: None, claim: Some(Claim { address: ip("192.0.2.240"), link: OTHER }), mark }
    }

    fn ours(decision: u64) -> Mark {
        Mark { cluster: CLUSTER, decision }
    }

    #[test]
    fn it_asks_tells_and_answers() {
        let (mut machine, mut now) = (machine(), Instant::now());
        machine.set(CLUSTER, &wanted(5), now);
        assert!(machine.heard(7, &question(None, Some("192.0.2.9")), now).is_empty(), "not before it has asked");
        assert_eq!(pass(&mut machine, &mut now, Duration::from_millis(99)), "probe@7 by 5");
        assert_eq!(pass(&mut machine, &mut now, Duration::from_millis(1)), "claim@7 by 5");
        assert_eq!(words(&machine.heard(7, &question(None, Some("192.0.2.9")), now)), "claim@7 by 5");
        assert!(machine.heard(8, &question(None, Some("192.0.2.9")), now).is_empty(), "not on another network");
        let mut told = 0;
        while machine.next().unwrap() < now + Duration::from_secs(2) {
            pass(&mut machine, &mut now, Duration::from_millis(250));
            told += 1;
        }
        assert!(told >= 4, "told again within a second");
        machine.set(CLUSTER, &BTreeMap::new(), now);
        assert!(machine.heard(7, &question(None, Some("192.0.2.9")), now).is_empty());
        assert_eq!(machine.next(), None);
    }

    #[test]
    fn answers_have_a_limit() {
        let (mut machine, mut now) = (machine(), Instant::now());
        machine.set(CLUSTER, &wanted(5), now);
        pass(&mut machine, &mut now, Duration::from_millis(200));
        let mut answers = |now: Instant| {
            (0..2 * ANSWERS_MAX)
                .filter(|_| !machine.heard(7, &question(None, Some("192.0.2.9")), now).is_empty())
                .count()
        };
        assert_eq!(answers(now), ANSWERS_MAX as usize);
        assert_eq!(answers(now + Duration::from_secs(1)), ANSWERS_MAX as usize);
        assert_eq!(machine.withheld, u64::from(2 * ANSWERS_MAX));
    }

    #[test]
    fn newer_decisions_win_without_the_server() {
        let (mut machine, mut now) = (machine(), Instant::now());
        machine.set(CLUSTER, &wanted(5), now);
        pass(&mut machine, &mut now, Duration::from_millis(200));
        // A node that does not know better is told again, not more than once a second.
        assert_eq!(words(&machine.heard(7, &claim(Some(ours(4))), now)), "claim@7 by 5");
        assert!(machine.heard(7, &claim(Some(ours(4))), now).is_empty());
        // The probe of the node that was chosen after us.
        assert!(machine.heard(7, &question(Some(6), None), now).is_empty());
        assert!(machine.heard(7, &question(None, Some("192.0.2.9")), now).is_empty());
        assert!(machine.conflicts().is_empty());
        machine.set(CLUSTER, &wanted(5), now);
        assert_eq!(pass(&mut machine, &mut now, Duration::from_secs(60)), "", "the same old decision changes nothing");
        machine.set(CLUSTER, &wanted(7), now);
        assert_eq!(pass(&mut machine, &mut now, Duration::from_millis(100)), "probe@7 by 7, claim@7 by 7");
    }

    #[test]
    fn what_a_host_has_is_left_to_it() {
        let (mut machine, mut now) = (machine(), Instant::now());
        machine.set(CLUSTER, &wanted(5), now);
        pass(&mut machine, &mut now, Duration::from_millis(50));
        assert!(machine.heard(7, &claim(None), now).is_empty());
        assert_eq!(machine.conflicts().get(&ip("192.0.2.240")), Some(&OTHER));
        assert!(machine.heard(7, &question(None, Some("192.0.2.9")), now).is_empty());
        assert_eq!(pass(&mut machine, &mut now, Duration::from_secs(29)), "");
        assert_eq!(machine.conflicts().len(), 1, "until it is known that it is over");
        assert_eq!(pass(&mut machine, &mut now, Duration::from_secs(2)), "probe@7 by 5, claim@7 by 5");
        assert!(machine.conflicts().is_empty());
        // Later it is defended once.
        assert_eq!(words(&machine.heard(7, &claim(None), now)), "claim@7 by 5");
        let other_cluster = Mark { cluster: 1, decision: 99 };
        assert!(machine.heard(7, &claim(Some(other_cluster)), now + Duration::from_secs(1)).is_empty());
        assert_eq!(machine.conflicts().len(), 1);
    }

    #[test]
    fn interfaces_come_and_go() {
        let (mut machine, mut now) = (Machine::default(), Instant::now());
        machine.set(CLUSTER, &wanted(5), now);
        assert_eq!(machine.next(), None);
        let interface = Interface { index: 3, link: OWN, subnets: vec!["192.0.2.0/24".parse().unwrap()] };
        machine.set_interfaces(vec![interface.clone()], now);
        assert_eq!(pass(&mut machine, &mut now, Duration::from_millis(100)), "probe@3 by 5, claim@3 by 5");
        machine.set_interfaces(vec![Interface { link: [2, 0, 0, 0, 0, 7], ..interface }], now);
        assert_eq!(pass(&mut machine, &mut now, Duration::from_millis(100)), "probe@3 by 5, claim@3 by 5");
        machine.set_interfaces(Vec::new(), now);
        assert_eq!(machine.next(), None);
    }
}
