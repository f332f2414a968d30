//! The observation machine put to work: connections tell it signs, a task tells it the time, probes ask hosts whose agent is away.

use super::observe::{Observer, Picture};
use crate::core::{Core, decoded};
use object::Value;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
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
    /// The file that keeps whose hosts have answered.
    kept: Option<PathBuf>,
}

/// Its first line, with its version; of another one nothing is taken over.
const KEPT_HEAD: &str = "klynge-hosts 1";

impl Heartbeats {
    /// None are known yet but those of the file.
    pub(crate) fn new(kept: Option<PathBuf>) -> Self {
        Heartbeats {
            kept,
            observer: Mutex::default(),
            peers: Mutex::default(),
            began: Instant::now(),
            picture: watch::channel(Arc::default()).0,
            stirred: Notify::new(),
        }
    }

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
        let before = self.peers.lock().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned(), peer);
        let moved = before.is_some_and(|before| before != peer);
        if moved {
            tracing::info!(node, before = ?before, now = %peer, "the heartbeat of this node comes from another address");
        }
        let now = self.now();
        let number = self.observer().opened(node, moved, now);
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

    /// The nodes whose hosts have answered, where these are others than `known`: asked at every tick, so nothing is copied otherwise.
    fn answering_unlike(&self, known: &BTreeSet<String>) -> Option<BTreeSet<String>> {
        let observer = self.observer();
        let changed = !observer.answering().eq(known);
        changed.then(|| observer.answering().cloned().collect())
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
    let mut answering = expect_known_nodes(&core);
    let probes = Arc::new(Semaphore::new(PROBES_MAX));
    let mut stopping = core.stopping.subscribe();
    let mut forgot = Instant::now();
    let (kept, to_keep) = watch::channel(answering.clone());
    tokio::spawn(keep_hosts(Arc::clone(&core), to_keep));
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
        if let Some(changed) = heartbeats.answering_unlike(&answering) {
            answering = changed;
            kept.send_replace(answering.clone());
        }
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

/// Writes down whose hosts have answered, and where, beside the watching of beats: neither many nodes nor a slow disk may delay a verdict. Only the
/// newest counts; it is looked at again each ten seconds, since a host may have another address by then.
async fn keep_hosts(core: Arc<Core>, mut answering: watch::Receiver<BTreeSet<String>>) {
    let Some(path) = core.heartbeats.kept.clone() else { return };
    let mut known = String::new();
    loop {
        let has_hosts = !answering.borrow().is_empty();
        tokio::select! {
            changed = answering.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(FORGET_EVERY), if has_hosts => {}
        }
        let nodes = answering.borrow_and_update().clone();
        let (core, path, before) = (Arc::clone(&core), path.clone(), known.clone());
        let written = tokio::task::spawn_blocking(move || -> io::Result<String> {
            let lines = nodes.iter().filter_map(|node| Some(format!("{node} {}\n", place(&core, node)?)));
            let text = format!("{KEPT_HEAD}\n{}", lines.collect::<String>());
            if text != before {
                let temporary = path.with_extension("tmp");
                std::fs::write(&temporary, &text)?;
                std::fs::rename(&temporary, &path)?;
            }
            Ok(text)
        });
        match written.await {
            Ok(Ok(text)) => known = text,
            Ok(Err(error)) => tracing::warn!(
                %error,
                "which nodes' hosts answer could not be written down; after a restart their Leases tell who is lost"
            ),
            Err(_) => {} // the server ends
        }
    }
}

/// Where the hosts of nodes answered the server before; nothing where the file is damaged.
fn kept_hosts(core: &Core) -> HashMap<String, SocketAddr> {
    let text = core.heartbeats.kept.as_ref().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    let mut lines = text.lines();
    if lines.next() != Some(KEPT_HEAD) {
        return HashMap::new();
    }
    let host = |line: &str| line.split_once(' ').and_then(|(node, place)| Some((node.to_owned(), place.parse().ok()?)));
    lines.filter_map(host).collect()
}

/// Nodes that beat before this server began get time to come back. Those whose hosts have answered.
fn expect_known_nodes(core: &Core) -> BTreeSet<String> {
    let Ok(list) = core.store.list(NODES, "", None, None, None) else { return BTreeSet::new() };
    let kept = kept_hosts(core);
    let now = core.heartbeats.now();
    let mut observer = core.heartbeats.observer();
    for entry in &list.entries {
        let node = decoded(entry);
        if node.str_at(&["metadata", "annotations", ANNOTATION]).is_some()
            && let Some(name) = node.str_at(&["metadata", "name"])
        {
            // An answer from elsewhere says nothing of where it is now.
            let probeable = kept.get(name).is_some_and(|kept| place(core, name) == Some(*kept));
            observer.expect(name, probeable, now);
        }
    }
    observer.answering().cloned().collect()
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
