//! Watches over the hosts of other nodes while no server is heard, so that a machine that dies together with the control plane, or with it
//! on board, does not keep a share of every Service's connections (docs/decisions/0010-node-loss-and-fencing.md).

use super::checkpoint;
use super::peers;
use crate::machine::Contact;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// Silence of the server after which hosts are asked.
const SERVER_SILENCE: Duration = Duration::from_millis(600);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long a host has for its answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(400);
/// How often one host is asked while no server is heard, and while it is absent.
const ASK_EVERY: Duration = Duration::from_millis(300);
/// How often one is asked otherwise: only hosts that have answered can be missed.
const ASK_CALMLY_EVERY: Duration = Duration::from_secs(30);
/// Hosts that are asked in one look; in larger clusters each is asked less often.
const ASKED_MAX: usize = 16;
/// Questions without an answer, one after another, that make a host absent.
const MISSES: u8 = 2;
/// How long after the server is heard again its word alone counts.
const SERVER_KNOWS_AFTER: Duration = Duration::from_secs(60);

/// The version of the file; of another one nothing is taken over.
const VERSION: u32 = 1;

/// The hosts that have answered, for an agent that starts while no server is heard.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    version: u32,
    answered: BTreeMap<String, SocketAddr>,
}

/// The nodes whose hosts do not answer.
pub(super) type Absent = Arc<BTreeSet<String>>;

#[derive(Debug)]
struct Host {
    address: SocketAddr,
    due: Instant,
    /// The servers know no better.
    is_in_doubt: bool,
    has_answered: bool,
    misses: u8,
}

impl Host {
    fn new(address: SocketAddr, due: Instant) -> Self {
        Host { address, due, is_in_doubt: false, has_answered: false, misses: 0 }
    }

    fn is_absent(&self) -> bool {
        self.has_answered && self.misses >= MISSES
    }
}

/// What is known of the hosts. Pure.
#[derive(Debug, Default)]
struct Hosts(BTreeMap<String, Host>);

impl Hosts {
    /// The kubelet ports of the other nodes; what is known of those that stay is kept.
    fn set(&mut self, all: &BTreeMap<String, peers::Host>, now: Instant) {
        self.0.retain(|name, host| all.get(name).is_some_and(|told| told.address == host.address));
        for (name, told) in all {
            let host = self.0.entry(name.clone()).or_insert_with(|| Host::new(told.address, now));
            if told.is_in_doubt && !host.is_in_doubt {
                host.due = now;
            }
            host.is_in_doubt = told.is_in_doubt;
        }
    }

    /// Whether the servers' word counts of all of them.
    fn has_doubts(&self) -> bool {
        self.0.values().any(|host| host.is_in_doubt)
    }

    /// What the agent before knew of hosts: that they answered once.
    fn restored(saved: Saved, now: Instant) -> Self {
        let known = saved.answered.into_iter().filter(|_| saved.version == VERSION);
        Hosts(known.map(|(name, address)| (name, Host { has_answered: true, ..Host::new(address, now) })).collect())
    }

    fn answered(&self) -> impl Iterator<Item = (&String, &SocketAddr)> {
        self.0.iter().filter(|(_, host)| host.has_answered).map(|(name, host)| (name, &host.address))
    }

    fn saved(&self) -> Saved {
        let answered = self.answered().map(|(name, address)| (name.clone(), *address));
        Saved { version: VERSION, answered: answered.collect() }
    }

    /// Who is to be asked now: those first that have waited longest.
    fn due(&mut self, is_silent: bool, now: Instant) -> Vec<(String, SocketAddr)> {
        let is_urgent = |host: &Host| is_silent || host.is_in_doubt || host.misses > 0;
        let every = |host: &Host| if is_urgent(host) { ASK_EVERY } else { ASK_CALMLY_EVERY };
        let mut due: Vec<_> =
            self.0.iter_mut().filter(|(_, host)| host.due <= now || is_silent && host.due > now + ASK_EVERY).collect();
        due.sort_by_key(|(_, host)| host.due);
        due.truncate(ASKED_MAX);
        let ask = |(name, host): (&String, &mut Host)| {
            host.due = now + every(host);
            (name.clone(), host.address)
        };
        due.into_iter().map(ask).collect()
    }

    /// A host has answered or not. One that does not while the server is heard is the server's business, unless it was absent before.
    fn heard(&mut self, name: &str, has_answered: bool, is_silent: bool) {
        let Some(host) = self.0.get_mut(name) else { return };
        if has_answered {
            (host.has_answered, host.misses) = (true, 0);
        } else if is_silent || host.is_in_doubt || host.misses > 0 {
            host.misses = host.misses.saturating_add(1);
        }
    }

    /// The server has been heard for long enough to know better.
    fn forgive(&mut self) {
        for host in self.0.values_mut().filter(|host| !host.is_in_doubt) {
            host.misses = 0;
        }
    }

    fn absent(&self) -> BTreeSet<String> {
        self.0.iter().filter(|(_, host)| host.is_absent()).map(|(name, _)| name.clone()).collect()
    }
}

/// Whether a host lives: it accepts the connection or refuses it.
async fn answers(address: SocketAddr) -> bool {
    match timeout(ANSWER_WITHIN, TcpStream::connect(address)).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset),
        Err(_) => false,
    }
}

/// Keeps `absent` until the process ends. `contact`: with the server, none where it is this process. `peers`: where the kubelets of the other nodes listen, from the server's first word on; until then
/// the hosts of the file `kept` are asked.
pub(crate) async fn keep_vigil(
    contact: Option<Arc<Contact>>,
    mut peers: watch::Receiver<BTreeMap<String, peers::Host>>,
    absent: watch::Sender<Absent>,
    kept: PathBuf,
) {
    let read = std::fs::read(&kept).ok().and_then(|bytes| serde_json::from_slice::<Saved>(&bytes).ok());
    let mut hosts = Hosts::restored(read.unwrap_or_default(), Instant::now());
    let mut saved = hosts.saved();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut questions: JoinSet<(String, bool)> = JoinSet::new();
    let mut last_silent: Option<Instant> = None;
    if peers.has_changed().is_ok_and(|changed| !changed) && !peers.borrow().is_empty() {
        peers.mark_changed();
    }
    loop {
        let is_silent = contact.as_ref().is_some_and(|contact| contact.silence() > SERVER_SILENCE);
        tokio::select! {
            changed = peers.changed() => {
                if changed.is_err() {
                    return;
                }
                hosts.set(&peers.borrow_and_update(), Instant::now());
            }
            Some(answer) = questions.join_next() => {
                if let Ok((name, has_answered)) = answer {
                    hosts.heard(&name, has_answered, is_silent);
                }
            }
            _ = looks.tick(), if !hosts.0.is_empty() => {
                let now = Instant::now();
                if is_silent || hosts.has_doubts() {
                    last_silent = Some(now);
                } else if last_silent.is_some_and(|last| now.duration_since(last) > SERVER_KNOWS_AFTER) {
                    last_silent = None;
                    hosts.forgive();
                }
                if questions.len() < ASKED_MAX {
                    for (name, address) in hosts.due(is_silent, now) {
                        questions.spawn(async move { (name, answers(address).await) });
                    }
                }
            }
        }
        // Seldom: when a host answers for the first time, moves, or goes.
        if !hosts.answered().eq(&saved.answered) {
            saved = hosts.saved();
            if let Err(error) = checkpoint::write(&kept, &saved) {
                tracing::warn!(%error, "which hosts of other nodes answer could not be written down");
            }
        }
        let now_absent = hosts.absent();
        absent.send_if_modified(|before| {
            let has_changed = **before != now_absent;
            if has_changed {
                tracing::info!(nodes = ?now_absent, "no server knows how these nodes are; where their hosts do not answer they get no new connections");
                *before = Arc::new(now_absent);
            }
            has_changed
        });
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn hosts(names: &[&str], now: Instant) -> Hosts {
        let mut hosts = Hosts::default();
        let address: SocketAddr = "192.0.2.1:10250".parse().unwrap();
        hosts.set(&names.iter().map(|name| told(name, address, false)).collect(), now);
        hosts
    }

    fn told(name: &str, address: SocketAddr, is_in_doubt: bool) -> (String, peers::Host) {
        (name.to_owned(), peers::Host { address, is_in_doubt })
    }

    fn names(asked: Vec<(String, SocketAddr)>) -> Vec<String> {
        asked.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn absent_is_who_answered_before_and_twice_does_not_while_no_server_is_heard() {
        let now = Instant::now();
        let mut hosts = hosts(&["a", "b", "never"], now);
        hosts.heard("a", true, false);
        hosts.heard("b", true, false);
        for _ in 0..3 {
            hosts.heard("a", false, false);
            hosts.heard("never", false, true);
        }
        assert!(hosts.absent().is_empty(), "the server is heard, and who never answered is not missed");
        hosts.heard("a", false, true);
        assert!(hosts.absent().is_empty(), "one question may be lost");
        hosts.heard("a", false, true);
        assert_eq!(hosts.absent(), BTreeSet::from(["a".to_owned()]));
        hosts.heard("a", false, false);
        assert_eq!(hosts.absent().len(), 1, "a server that is back may know less");
        hosts.heard("a", true, true);
        assert!(hosts.absent().is_empty());
        for _ in 0..2 {
            hosts.heard("b", false, true);
        }
        assert_eq!(hosts.absent(), BTreeSet::from(["b".to_owned()]));
        hosts.forgive();
        assert!(hosts.absent().is_empty());
    }

    #[test]
    fn hosts_of_which_the_servers_know_nothing_are_asked_though_a_server_is_heard() {
        let now = Instant::now();
        let mut hosts = hosts(&["a", "b"], now);
        let address: SocketAddr = "192.0.2.1:10250".parse().unwrap();
        for name in ["a", "b"] {
            hosts.heard(name, true, false);
        }
        hosts.due(false, now);
        hosts.set(&BTreeMap::from([told("a", address, true), told("b", address, false)]), now);
        for _ in 0..2 {
            assert_eq!(names(hosts.due(false, now + ASK_EVERY)), ["a"]);
            hosts.heard("a", false, false);
            hosts.heard("b", false, false);
            hosts.0.values_mut().for_each(|host| host.due -= ASK_EVERY);
        }
        assert_eq!(hosts.absent(), BTreeSet::from(["a".to_owned()]));
        hosts.forgive();
        assert_eq!(hosts.absent().len(), 1, "nobody knows better yet");
        hosts.set(&BTreeMap::from([told("a", address, false), told("b", address, false)]), now);
        assert_eq!(hosts.absent().len(), 1, "until it answers here");
        hosts.forgive();
        assert!(hosts.absent().is_empty());
    }

    #[test]
    fn a_host_that_moves_is_a_new_one_and_gone_ones_are_forgotten() {
        let now = Instant::now();
        let mut hosts = hosts(&["a", "b"], now);
        for name in ["a", "b"] {
            hosts.heard(name, true, true);
            hosts.heard(name, false, true);
            hosts.heard(name, false, true);
        }
        hosts.set(&BTreeMap::from([told("a", "192.0.2.9:10250".parse().unwrap(), false)]), now);
        assert!(hosts.absent().is_empty());
        assert_eq!(names(hosts.due(false, now)), ["a"]);
    }

    #[test]
    fn an_agent_that_starts_without_a_server_knows_who_answered_its_predecessor() {
        let now = Instant::now();
        let mut before = hosts(&["a", "never"], now);
        before.heard("a", true, false);
        let bytes = serde_json::to_vec(&before.saved()).unwrap();
        let mut after = Hosts::restored(serde_json::from_slice(&bytes).unwrap(), now);
        assert_eq!(names(after.due(true, now)), ["a"]);
        after.heard("a", false, true);
        after.heard("a", false, true);
        assert_eq!(after.absent(), BTreeSet::from(["a".to_owned()]));
        let newer = Saved { version: VERSION + 1, ..before.saved() };
        assert!(Hosts::restored(newer, now).0.is_empty());
    }

    #[test]
    fn few_are_asked_at_a_time_and_seldom_while_all_is_well() {
        let mut now = Instant::now();
        let all: Vec<String> = (0..40).map(|number| format!("node-{number:02}")).collect();
        let mut hosts = hosts(&all.iter().map(String::as_str).collect::<Vec<_>>(), now);
        let mut asked = Vec::new();
        for _ in 0..3 {
            asked.extend(names(hosts.due(false, now)));
            now += LOOK_EVERY;
        }
        assert_eq!(asked, all, "each once");
        assert!(hosts.due(false, now).is_empty());
        assert_eq!(hosts.due(true, now).len(), ASKED_MAX, "silence makes all due");
        assert_eq!(names(hosts.due(true, now)), all[16..32]);
    }
}
