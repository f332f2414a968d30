//! The observation machine put to work: connections tell it signs, a task tells it the time, probes ask hosts whose agent is away.

use super::observe::{Observer, Picture};
use crate::core::{Core, decoded};
use object::Value;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, watch};

/// A host that says nothing to a probe in this time says nothing.
const PROBE_TIMEOUT: Duration = Duration::from_millis(400);
/// Probes under way; more wait their turn, and no verdict falls without one.
const PROBES_MAX: usize = 256;
const KUBELET_PORT: u16 = 10_250;
/// How often nodes that were deleted are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(10);
/// The annotation of nodes whose agent has heartbeats, so that a new server knows whom to expect.
pub(crate) const ANNOTATION: &str = "klynge.io/heartbeat";
const NODES: &str = "nodes";

/// The heartbeats of this server's nodes.
pub(crate) struct Heartbeats {
    observer: Mutex<Observer>,
    /// Where each node's connection came from.
    peers: Mutex<HashMap<String, IpAddr>>,
    began: Instant,
    picture: watch::Sender<Arc<Picture>>,
    /// A connection came or went.
    stirred: Notify,
}

impl Default for Heartbeats {
    fn default() -> Self {
        Heartbeats {
            observer: Mutex::default(),
            peers: Mutex::default(),
            began: Instant::now(),
            picture: watch::channel(Arc::default()).0,
            stirred: Notify::new(),
        }
    }
}

impl Heartbeats {
    fn observer(&self) -> MutexGuard<'_, Observer> {
        self.observer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// What is known of the nodes, at each change.
    pub(crate) fn picture(&self) -> watch::Receiver<Arc<Picture>> {
        self.picture.subscribe()
    }

    /// Says which node is this process itself.
    pub(crate) fn set_own(&self, node: &str) {
        self.observer().set_own(node);
    }

    pub(super) fn opened(&self, node: &str, peer: IpAddr) -> u64 {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned(), peer);
        let now = self.now();
        let number = self.observer().opened(node, now);
        self.stirred.notify_one();
        number
    }

    pub(super) fn beat(&self, node: &str, number: u64) -> bool {
        let now = self.now();
        self.observer().beat(node, number, now)
    }

    pub(super) fn heard(&self, node: &str, number: u64, ago: Duration, round_trip: Duration) {
        let now = self.now();
        self.observer().heard(node, number, ago, round_trip, now);
    }

    pub(super) fn closed(&self, node: &str, number: u64, by_peer: bool) {
        let now = self.now();
        self.observer().closed(node, number, by_peer, now);
        self.stirred.notify_one();
    }

    pub(super) fn period(&self) -> Duration {
        self.observer().period()
    }

    pub(super) fn overdue_after(&self) -> Duration {
        self.observer().overdue_after()
    }

    fn peer(&self, node: &str) -> Option<IpAddr> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).get(node).copied()
    }

    fn publish(&self) {
        let picture = self.observer().picture();
        self.picture.send_if_modified(|known| {
            let changed = **known != picture;
            if changed {
                *known = Arc::new(picture);
            }
            changed
        });
    }
}

/// Runs until the server stops.
pub(crate) async fn run(core: Arc<Core>) {
    let heartbeats = &core.heartbeats;
    expect_known_nodes(&core);
    let probes = Arc::new(Semaphore::new(PROBES_MAX));
    let mut stopping = core.stopping.subscribe();
    let mut forgot = Instant::now();
    loop {
        let next = {
            let now = heartbeats.now();
            heartbeats.observer().next_tick(now).map(|next| next.saturating_sub(now))
        };
        tokio::select! {
            () = async {
                match next {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            } => {}
            () = heartbeats.stirred.notified() => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        let now = heartbeats.now();
        let due = {
            let mut observer = heartbeats.observer();
            observer.tick(now);
            observer.probes(now)
        };
        heartbeats.publish();
        for node in due {
            let (core, probes) = (Arc::clone(&core), Arc::clone(&probes));
            tokio::spawn(async move {
                let _permit = probes.acquire_owned().await;
                let answered = match place(&core, &node) {
                    Some(place) => Some(probe(place).await),
                    None => None,
                };
                let now = core.heartbeats.now();
                core.heartbeats.observer().probed(&node, answered, now);
            });
        }
        if forgot.elapsed() >= FORGET_EVERY {
            forgot = Instant::now();
            heartbeats.observer().retain(|node| core.lookup(NODES, node).is_some());
            let mut peers = heartbeats.peers.lock().unwrap_or_else(PoisonError::into_inner);
            peers.retain(|node, _| core.lookup(NODES, node).is_some());
        }
    }
}

/// Nodes that beat before this server began get time to come back.
fn expect_known_nodes(core: &Core) {
    let Ok(list) = core.store.list(NODES, "", None, None, None) else { return };
    let now = core.heartbeats.now();
    let mut observer = core.heartbeats.observer();
    for entry in &list.entries {
        let node = decoded(entry);
        if node.str_at(&["metadata", "annotations", ANNOTATION]).is_some()
            && let Some(name) = node.str_at(&["metadata", "name"])
        {
            observer.expect(name, now);
        }
    }
}

/// Where a node's host can be asked: its kubelet port, at the address that it says it has, provided that its connection
/// came from there. Behind NAT an answer would be another machine's.
fn place(core: &Core, name: &str) -> Option<SocketAddr> {
    let entry = core.lookup(NODES, name)?;
    let node = decoded(&entry);
    let peer = core.heartbeats.peer(name);
    let addresses = node.at(&["status", "addresses"]).and_then(Value::as_array).unwrap_or_default();
    let mut own = addresses
        .iter()
        .filter(|address| address.str_at(&["type"]) == Some("InternalIP"))
        .filter_map(|address| address.str_at(&["address"])?.parse::<IpAddr>().ok());
    let address = match peer {
        Some(peer) => own.find(|address| *address == peer.to_canonical()),
        None => own.next(),
    }?;
    let port = node.at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).and_then(Value::as_i64);
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0).unwrap_or(KUBELET_PORT);
    Some(SocketAddr::new(address, port))
}

/// Whether a host says anything to a connection attempt; that it refuses is an answer too.
async fn probe(place: SocketAddr) -> bool {
    match tokio::time::timeout(PROBE_TIMEOUT, TcpStream::connect(place)).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset),
        Err(_) => false,
    }
}
