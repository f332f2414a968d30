//! The agent's side: what the process is to know, told as the kernel's WireGuard is told.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::device::{self, Held};
use super::error::Error;
use super::protocol::{Message, Setup};
use super::{Options, Tunnel};
use crate::Prefix;
use crate::netlink::{NetworkNamespace, PublicKey, WireguardChange, WireguardInfo, WireguardPeer};
use crate::process::{Changes, Health, Link, Source, Supervised, supervise, take_up};

/// How long a change is waited for; where it takes longer, it is in force later.
const IN_FORCE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a process that was found may take to list its peers.
const LIST_TIMEOUT: Duration = Duration::from_secs(3);

/// The encryption in user space as a process of its own.
pub struct Process;

/// Tells the process about changes. Dropping it leaves the process as it is.
pub struct Handle {
    setup: Setup,
    held: Arc<Held>,
    shared: Arc<Shared>,
    supervised: Supervised,
}

#[derive(Default)]
struct Shared {
    wanted: Mutex<Wanted>,
    wake: Notify,
    /// The number of the newest change that the process has acknowledged.
    acknowledged: Mutex<u64>,
    is_acknowledged: Condvar,
}

/// What the process is to know.
#[derive(Default)]
struct Wanted {
    peers: BTreeMap<PublicKey, WireguardPeer>,
    /// Whose each range is; it is among that peer's.
    owners: HashMap<Prefix, PublicKey>,
    /// Whether these are all; if not, a process of another version knows more.
    is_complete: bool,
    /// What the process has not been told, with where the peer is if that is new.
    changed: BTreeMap<PublicKey, Option<SocketAddr>>,
    /// The number of the newest change.
    number: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    /// Takes up the process that is there, or starts one, in this namespace.
    ///
    /// # Errors
    /// The device or the port cannot be had, or no process can be started.
    pub async fn run(options: Options, namespace: NetworkNamespace) -> Result<Handle, Error> {
        let setup = options.setup.clone();
        let open = move || Held::open(&namespace, &setup.interface, setup.port);
        let (held, mut attached) = take_up::<Tunnel, Error>(&options, open, device::is_taken).await?;
        let mut wanted = Wanted { is_complete: true, ..Wanted::default() };
        if attached.is_adopted {
            let listed = if attached.is_understood { list(&mut attached.link).await } else { None };
            match listed {
                Some(peers) => {
                    let ranges =
                        |peer: &WireguardPeer| peer.allowed.iter().map(|range| (*range, peer.key)).collect::<Vec<_>>();
                    wanted.owners = peers.iter().flat_map(ranges).collect();
                    wanted.peers = peers.into_iter().map(|peer| (peer.key, peer)).collect();
                }
                None => {
                    attached.distrust();
                    wanted.is_complete = false;
                }
            }
        }
        let shared = Arc::new(Shared { wanted: Mutex::new(wanted), ..Shared::default() });
        let held = Arc::new(held);
        let setup = options.setup.clone();
        let supervised = supervise(options, Arc::clone(&held), Arc::clone(&shared), attached);
        Ok(Handle { setup, held, shared, supervised })
    }
}

/// The peers that a process has.
async fn list(link: &mut Link<Tunnel>) -> Option<Vec<WireguardPeer>> {
    let listed = async {
        link.send_messages([&Message::List(0)]).await.ok()?;
        let mut peers = Vec::new();
        loop {
            match link.receive().await.ok()?? {
                Message::Set(peer) => peers.push(peer),
                Message::Synced(_) => return Some(peers),
                _ => return None,
            }
        }
    };
    timeout(LIST_TIMEOUT, listed).await.ok()?
}

impl Handle {
    /// This node's public key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.setup.public_key
    }

    /// What the process is to know, and knows but for moments.
    #[must_use]
    pub fn device(&self) -> WireguardInfo {
        let peers = lock(&self.shared.wanted).peers.values().cloned().collect();
        WireguardInfo { key: Some(self.setup.public_key), port: self.setup.port, peers }
    }

    /// Changes peers, and waits until that is in force, or the process is being started.
    pub fn change_peers(&self, changes: &[WireguardChange]) {
        let number = {
            let mut wanted = lock(&self.shared.wanted);
            for change in changes {
                wanted.change(change);
            }
            wanted.number += 1;
            wanted.number
        };
        self.shared.wake.notify_one();
        let acknowledged = lock(&self.shared.acknowledged);
        let is_waited_for = |acknowledged: &mut u64| *acknowledged < number;
        let waited = self.shared.is_acknowledged.wait_timeout_while(acknowledged, IN_FORCE_TIMEOUT, is_waited_for);
        if waited.is_ok_and(|(_, waited)| waited.timed_out()) {
            tracing::warn!("a change of the encryption's peers is not yet in force");
        }
    }

    /// All peers have been told.
    pub fn complete(&self) {
        let mut wanted = lock(&self.shared.wanted);
        if !std::mem::replace(&mut wanted.is_complete, true) {
            self.shared.wake.notify_one();
        }
    }

    /// Makes the device again that others removed.
    ///
    /// # Errors
    /// Its name is another device's by now.
    pub fn attach_again(&self) -> Result<(), Error> {
        let interface = &self.setup.interface;
        self.held.attach_again(interface).map_err(|source| Error::Device { interface: interface.clone(), source })
    }

    /// How the process is.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.supervised.health.clone()
    }

    /// The process's number; none while there is none.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        *self.supervised.process.borrow()
    }
}

impl Wanted {
    fn change(&mut self, change: &WireguardChange) {
        match change {
            WireguardChange::Set(told) => {
                for range in &told.allowed {
                    // A range is one peer's only: the last that it was told for.
                    let former = self.owners.insert(*range, told.key).filter(|former| *former != told.key);
                    if let Some(former) = former.and_then(|former| self.peers.get_mut(&former)) {
                        former.allowed.retain(|other| other != range);
                    }
                }
                let known = self.peers.get(&told.key);
                let lost =
                    known.into_iter().flat_map(|known| &known.allowed).filter(|range| !told.allowed.contains(range));
                for range in lost {
                    self.owners.remove(range);
                }
                let known = known.and_then(|known| known.endpoint);
                let peer = WireguardPeer { endpoint: told.endpoint.or(known), ..told.clone() };
                self.peers.insert(told.key, peer);
                let untold = self.changed.entry(told.key).or_default();
                *untold = told.endpoint.or(*untold);
            }
            WireguardChange::Remove(key) => {
                for range in self.peers.remove(key).into_iter().flat_map(|peer| peer.allowed) {
                    self.owners.remove(&range);
                }
                self.changed.insert(*key, None);
            }
        }
    }
}

impl Source<Tunnel> for Shared {
    fn is_complete(&self) -> bool {
        lock(&self.wanted).is_complete
    }

    fn changes(&self, is_new: bool) -> Changes {
        let mut wanted = lock(&self.wanted);
        let mut frames = Vec::new();
        let changed = std::mem::take(&mut wanted.changed);
        let is_whole = is_new && wanted.is_complete;
        if is_whole {
            Message::Begin.append_to(&mut frames);
            for (key, peer) in &wanted.peers {
                // Where a process that was found has heard of a peer counts, unless that is new.
                let endpoint = changed.get(key).copied().flatten().or(peer.endpoint);
                Message::Set(WireguardPeer { endpoint, ..peer.clone() }).append_to(&mut frames);
            }
            Message::Commit.append_to(&mut frames);
        } else {
            for (key, endpoint) in changed {
                match wanted.peers.get(&key) {
                    Some(peer) => Message::Set(WireguardPeer { endpoint, ..peer.clone() }).append_to(&mut frames),
                    None => Message::Remove(key).append_to(&mut frames),
                };
            }
        }
        Message::Sync(wanted.number).append_to(&mut frames);
        Changes { frames, number: wanted.number, is_whole }
    }

    fn in_force(&self, number: u64) {
        *lock(&self.acknowledged) = number;
        self.is_acknowledged.notify_all();
    }

    fn wake(&self) -> &Notify {
        &self.wake
    }

    fn hand_over(&self) -> Option<[Message; 2]> {
        Some([Message::Rest, Message::Resume])
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn set(key: u8, endpoint: Option<&str>, ranges: &[&str]) -> WireguardChange {
        WireguardChange::Set(WireguardPeer {
            key: PublicKey([key; 32]),
            endpoint: endpoint.map(|text| text.parse().unwrap()),
            allowed: ranges.iter().map(|text| text.parse().unwrap()).collect(),
        })
    }

    fn read(frames: &[u8]) -> Vec<Message> {
        let mut rest = frames;
        let mut all = Vec::new();
        while let Some((length, body)) = rest.split_first_chunk::<4>() {
            let (frame, others) = body.split_at(u32::from_le_bytes(*length) as usize);
            all.push(Message::read(frame).unwrap());
            rest = others;
        }
        all
    }

    #[test]
    fn a_process_is_told_what_it_does_not_know() {
        let shared =
            Shared { wanted: Mutex::new(Wanted { is_complete: true, ..Wanted::default() }), ..Shared::default() };
        let change = |changes: &[WireguardChange]| {
            let mut wanted = lock(&shared.wanted);
            changes.iter().for_each(|change| wanted.change(change));
            wanted.number += 1;
        };
        let told = |change: WireguardChange| match change {
            WireguardChange::Set(peer) => Message::Set(peer),
            WireguardChange::Remove(key) => Message::Remove(key),
        };
        let one = || set(1, Some("192.0.2.1:8478"), &["10.42.1.0/24"]);
        change(&[one(), set(2, Some("192.0.2.2:8478"), &["10.42.2.0/24", "10.42.3.0/24"])]);
        let first = read(&shared.changes(true).frames);
        let two = || set(2, Some("192.0.2.2:8478"), &["10.42.2.0/24", "10.42.3.0/24"]);
        assert_eq!(first, [Message::Begin, told(one()), told(two()), Message::Commit, Message::Sync(1)]);
        assert_eq!(read(&shared.changes(false).frames), [Message::Sync(1)]);
        // A range goes over to another; where that is was told before.
        change(&[set(1, None, &["10.42.1.0/24", "10.42.3.0/24"])]);
        let next = read(&shared.changes(false).frames);
        assert_eq!(next, [told(set(1, None, &["10.42.1.0/24", "10.42.3.0/24"])), Message::Sync(2)]);
        let ranges = |key: u8| lock(&shared.wanted).peers.get(&PublicKey([key; 32])).unwrap().allowed.len();
        assert_eq!((ranges(1), ranges(2)), (2, 1));
        change(&[WireguardChange::Remove(PublicKey([2; 32])), set(1, None, &["10.42.1.0/24"])]);
        let next = read(&shared.changes(false).frames);
        assert_eq!(
            next,
            [told(set(1, None, &["10.42.1.0/24"])), Message::Remove(PublicKey([2; 32])), Message::Sync(3)]
        );
        assert_eq!(lock(&shared.wanted).owners.len(), 1);
        // A new process is told where a peer is.
        assert_eq!(
            read(&shared.changes(true).frames),
            [Message::Begin, told(one()), Message::Commit, Message::Sync(3)]
        );
    }
}
