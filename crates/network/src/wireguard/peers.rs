//! The peers of the process: what each is, and how packets find theirs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use boringtun::noise::Tunn;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519;

use super::ranges::Ranges;
use crate::Prefix;
use crate::netlink::{PublicKey, WireguardPeer};

/// A session's number is its peer's, and eight bits.
const SESSION_BITS: u32 = 8;
/// So many peers have numbers of their own.
const PEERS_MAX: u32 = 1 << 20;

/// Another end.
pub(super) struct Peer {
    pub(super) key: PublicKey,
    /// Its number, which its packets carry.
    number: u32,
    state: Mutex<State>,
    endpoint: Mutex<Option<SocketAddr>>,
    /// Whether its timers are looked at.
    pub(super) is_active: AtomicBool,
    /// When packets last went or came, in seconds of the process.
    pub(super) used_at: AtomicU64,
    /// When it was last greeted because of packets of a former process's session.
    pub(super) hailed_at: AtomicU64,
}

/// Its sessions.
pub(super) struct State {
    pub(super) tunnel: Tunn,
    /// Packets that wait for a session.
    pub(super) queued: usize,
}

impl Peer {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn endpoint(&self) -> Option<SocketAddr> {
        *self.endpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is where its packets come from.
    pub(super) fn is_at(&self, endpoint: SocketAddr) {
        *self.endpoint.lock().unwrap_or_else(PoisonError::into_inner) = Some(endpoint);
    }
}

/// How packets find their peers, as it is at a moment.
#[derive(Default)]
pub(super) struct Table {
    by_key: HashMap<PublicKey, Arc<Peer>>,
    by_number: HashMap<u32, Arc<Peer>>,
    by_endpoint: HashMap<SocketAddr, Arc<Peer>>,
    pub(super) ranges: Ranges<Arc<Peer>>,
}

impl Table {
    pub(super) fn by_key(&self, key: &[u8; 32]) -> Option<&Arc<Peer>> {
        self.by_key.get(&PublicKey(*key))
    }

    /// Whose session this is.
    pub(super) fn by_session(&self, session: u32) -> Option<&Arc<Peer>> {
        self.by_number.get(&(session >> SESSION_BITS))
    }

    pub(super) fn by_endpoint(&self, endpoint: SocketAddr) -> Option<&Arc<Peer>> {
        self.by_endpoint.get(&endpoint)
    }
}

/// All peers, and who has which range: a range is one peer's only, the last that it was told for.
pub(super) struct Peers {
    private_key: x25519::StaticSecret,
    own_key: PublicKey,
    /// Handshakes have been counted before they come to a peer.
    unlimited: Arc<RateLimiter>,
    all: BTreeMap<PublicKey, Arc<Peer>>,
    owners: BTreeMap<Prefix, PublicKey>,
    /// The ranges that each was told to have.
    told: HashMap<PublicKey, Vec<Prefix>>,
    /// Those that are in use, and the one to try next: they come round after a million peers.
    numbers: HashSet<u32>,
    next_number: u32,
}

impl Peers {
    pub(super) fn new(private_key: x25519::StaticSecret) -> Self {
        let public_key = x25519::PublicKey::from(&private_key);
        Self {
            private_key,
            own_key: PublicKey(public_key.to_bytes()),
            unlimited: Arc::new(RateLimiter::new(&public_key, u64::MAX)),
            all: BTreeMap::new(),
            owners: BTreeMap::new(),
            told: HashMap::new(),
            numbers: HashSet::new(),
            next_number: 0,
        }
    }

    /// Makes a peer, or changes where it is (if told) and its ranges. Its sessions stay.
    pub(super) fn set(&mut self, told: &WireguardPeer) {
        // As the kernel: nobody is one's own peer.
        if told.key == self.own_key {
            return;
        }
        self.disown(&told.key);
        self.owners.extend(told.allowed.iter().map(|range| (*range, told.key)));
        self.told.insert(told.key, told.allowed.clone());
        if let Some(peer) = self.all.get(&told.key) {
            if let Some(endpoint) = told.endpoint {
                peer.is_at(endpoint);
            }
            return;
        }
        let Some(number) = self.free_number() else {
            tracing::error!(peers = self.all.len(), "there are more peers than numbers; one is left out");
            return;
        };
        let (own, theirs) = (self.private_key.clone(), x25519::PublicKey::from(told.key.0));
        let tunnel = Tunn::new(own, theirs, None, None, number, Some(Arc::clone(&self.unlimited)));
        let peer = Peer {
            key: told.key,
            number,
            state: Mutex::new(State { tunnel, queued: 0 }),
            endpoint: Mutex::new(told.endpoint),
            is_active: AtomicBool::new(false),
            used_at: AtomicU64::new(0),
            hailed_at: AtomicU64::new(0),
        };
        self.all.insert(told.key, Arc::new(peer));
    }

    fn free_number(&mut self) -> Option<u32> {
        if u32::try_from(self.all.len()).ok()? >= PEERS_MAX {
            return None;
        }
        loop {
            let number = self.next_number;
            self.next_number = (number + 1) % PEERS_MAX;
            if self.numbers.insert(number) {
                return Some(number);
            }
        }
    }

    pub(super) fn remove(&mut self, key: &PublicKey) {
        if let Some(peer) = self.all.remove(key) {
            self.numbers.remove(&peer.number);
        }
        self.disown(key);
    }

    /// Takes a peer's ranges from it, but for those that are another's by now.
    fn disown(&mut self, key: &PublicKey) {
        for range in self.told.remove(key).unwrap_or_default() {
            if self.owners.get(&range) == Some(key) {
                self.owners.remove(&range);
            }
        }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = PublicKey> {
        self.all.keys().copied()
    }

    /// All of them as they are now, also where they have been heard.
    pub(super) fn list(&self) -> Vec<WireguardPeer> {
        let mut ranges: BTreeMap<PublicKey, Vec<Prefix>> = BTreeMap::new();
        for (range, owner) in &self.owners {
            ranges.entry(*owner).or_default().push(*range);
        }
        let told = |peer: &Arc<Peer>| WireguardPeer {
            key: peer.key,
            endpoint: peer.endpoint(),
            allowed: ranges.remove(&peer.key).unwrap_or_default(),
        };
        self.all.values().map(told).collect()
    }

    /// How packets find their peers from now on.
    pub(super) fn table(&self) -> Table {
        let ranges = self.owners.iter().filter_map(|(range, owner)| Some((*range, Arc::clone(self.all.get(owner)?))));
        let each = || self.all.values();
        Table {
            by_key: each().map(|peer| (peer.key, Arc::clone(peer))).collect(),
            by_number: each().map(|peer| (peer.number, Arc::clone(peer))).collect(),
            by_endpoint: each().filter_map(|peer| Some((peer.endpoint()?, Arc::clone(peer)))).collect(),
            ranges: ranges.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn peer(number: u8, endpoint: Option<&str>, ranges: &[&str]) -> WireguardPeer {
        WireguardPeer {
            key: PublicKey([number; 32]),
            endpoint: endpoint.map(|text| text.parse().unwrap()),
            allowed: ranges.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_range_is_one_peers_and_endpoints_stay_unless_told() {
        let mut peers = Peers::new(x25519::StaticSecret::from([1; 32]));
        peers.set(&peer(2, Some("192.0.2.2:8478"), &["10.42.2.0/24", "10.42.9.0/24"]));
        peers.set(&peer(3, Some("192.0.2.3:8478"), &["10.42.9.0/24"]));
        let owner = |peers: &Peers, address: &str| {
            peers.table().ranges.find(address.parse().unwrap()).map(|peer| peer.key.0[0])
        };
        assert_eq!((owner(&peers, "10.42.2.7"), owner(&peers, "10.42.9.7")), (Some(2), Some(3)));
        let before = Arc::clone(peers.table().by_key(&[2; 32]).unwrap());
        before.is_at("198.51.100.1:7".parse().unwrap());
        peers.set(&peer(2, None, &["10.42.2.0/24"]));
        assert_eq!(
            peers.list(),
            [peer(2, Some("198.51.100.1:7"), &["10.42.2.0/24"]), peer(3, Some("192.0.2.3:8478"), &["10.42.9.0/24"])]
        );
        assert!(Arc::ptr_eq(&before, peers.table().by_key(&[2; 32]).unwrap()), "its sessions stay");
        let session = before.number << SESSION_BITS | 5;
        assert!(Arc::ptr_eq(&before, peers.table().by_session(session).unwrap()));
        peers.remove(&PublicKey([3; 32]));
        assert_eq!(owner(&peers, "10.42.9.7"), None);
        let own = x25519::PublicKey::from(&x25519::StaticSecret::from([1; 32]));
        peers.set(&WireguardPeer { key: PublicKey(own.to_bytes()), endpoint: None, allowed: Vec::new() });
        assert_eq!(peers.keys().count(), 1, "nobody is one's own peer");
    }

    #[test]
    fn numbers_come_round_without_meeting() {
        let mut peers = Peers::new(x25519::StaticSecret::from([1; 32]));
        peers.set(&peer(2, None, &[]));
        peers.next_number = PEERS_MAX - 1;
        peers.set(&peer(3, None, &[]));
        peers.set(&peer(4, None, &[]));
        let numbers: std::collections::BTreeSet<u32> = peers.all.values().map(|peer| peer.number).collect();
        assert_eq!(numbers.into_iter().collect::<Vec<_>>(), [0, 1, PEERS_MAX - 1]);
    }
}
