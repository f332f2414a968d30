//! What the process knows and does for all its threads: peers, sessions, timers, and where datagrams go.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use rustix::event::{EventfdFlags, eventfd};

use super::REST_SOCKET;
use super::device::Held;
use super::flood::{Handshakes, WITHOUT_COOKIE_PER_SECOND};
use super::peers::{Peer, Peers, State, Table};
use super::system;

/// How often timers are looked at.
pub(super) const TICK: Duration = Duration::from_millis(250);
/// Packets of all peers together that wait for sessions; each peer has 256 at most.
const QUEUED_MAX: usize = 16_384;
/// A peer that is silent so long has no session any more (three times REJECT_AFTER_TIME), so that it has no timers either.
const SILENT_SECONDS: u64 = 600;
/// Sessions of a process that was here before may be used so long (REJECT_AFTER_TIME).
const FORMER_SECONDS: u64 = 180;
/// How often a peer is greeted anew at most.
const HAIL_SECONDS: u64 = 5;
/// The longest datagram and what is put around a packet.
pub(super) const DATAGRAM_BYTES_MAX: usize = 65_535;
pub(super) const OVERHEAD_BYTES: usize = 32;
/// Space for a handshake, and for the longest packet with what is put around it.
pub(super) const SPACE_BYTES: usize = DATAGRAM_BYTES_MAX + OVERHEAD_BYTES + 1;

/// Whether threads work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Not yet, or another process does it.
    Rests,
    Goes,
    Ended,
}

pub(super) struct Engine {
    pub(super) held: Held,
    private_key: x25519::StaticSecret,
    public_key: x25519::PublicKey,
    limiter: RateLimiter,
    handshakes: Mutex<Handshakes>,
    peers: Mutex<Peers>,
    table: RwLock<Arc<Table>>,
    /// Peers whose timers are looked at.
    active: Mutex<Vec<Arc<Peer>>>,
    queued: AtomicUsize,
    /// Seconds since the beginning, as of the last tick.
    now: AtomicU64,
    begun: Instant,
    work: Mutex<Work>,
    work_changed: Condvar,
    /// Readable while threads are not to wait for packets.
    pub(super) interrupt: rustix::fd::OwnedFd,
    /// Whether the kernel splits datagrams for us.
    splits: AtomicBool,
    directory: PathBuf,
    strays: Option<UnixDatagram>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    pub(super) fn new(held: Held, private_key: [u8; 32], directory: &Path) -> std::io::Result<Self> {
        let private_key = x25519::StaticSecret::from(private_key);
        let public_key = x25519::PublicKey::from(&private_key);
        let strays = UnixDatagram::unbound()?;
        strays.set_nonblocking(true)?;
        let interrupt = eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            held,
            limiter: RateLimiter::new(&public_key, WITHOUT_COOKIE_PER_SECOND),
            peers: Mutex::new(Peers::new(private_key.clone())),
            private_key,
            public_key,
            handshakes: Mutex::default(),
            table: RwLock::default(),
            active: Mutex::default(),
            queued: AtomicUsize::new(0),
            now: AtomicU64::new(0),
            begun: Instant::now(),
            work: Mutex::new(Work::Rests),
            work_changed: Condvar::new(),
            interrupt,
            splits: AtomicBool::new(true),
            directory: directory.to_owned(),
            strays: Some(strays),
        })
    }

    /// Changes peers; in force for the next packets.
    pub(super) fn change_peers<T>(&self, change: impl FnOnce(&mut Peers) -> T) -> T {
        change(&mut lock(&self.peers))
    }

    /// Makes what was changed hold.
    pub(super) fn publish(&self) {
        let table = Arc::new(lock(&self.peers).table());
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        // Those that are gone have no timers.
        let table = self.table();
        lock(&self.active).retain(|peer| table.by_key(&peer.key.0).is_some_and(|known| Arc::ptr_eq(known, peer)));
    }

    pub(super) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets the threads work, or not.
    pub(super) fn set_working(&self, works: bool) {
        let mut work = lock(&self.work);
        let wanted = if works { Work::Goes } else { Work::Rests };
        if *work == Work::Ended || *work == wanted {
            return;
        }
        *work = wanted;
        if works {
            // Drained, so that threads wait for packets again; it may be empty.
            let _ = rustix::io::read(&self.interrupt, &mut [0; 8]);
            self.work_changed.notify_all();
        } else {
            let _ = rustix::io::write(&self.interrupt, &1_u64.to_ne_bytes());
        }
    }

    /// Lets the threads end.
    pub(super) fn end(&self) {
        *lock(&self.work) = Work::Ended;
        let _ = rustix::io::write(&self.interrupt, &1_u64.to_ne_bytes());
        self.work_changed.notify_all();
    }

    pub(super) fn works(&self) -> bool {
        *lock(&self.work) == Work::Goes
    }

    /// Waits until there is work; false at the end.
    pub(super) fn wait_for_work(&self) -> bool {
        let mut work = lock(&self.work);
        while *work == Work::Rests {
            work = self.work_changed.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
        *work == Work::Goes
    }

    fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Notes that a peer's packets go or come. Its timers stand still while it is silent, so they are looked at first.
    pub(super) fn uses(&self, peer: &Arc<Peer>) {
        peer.used_at.store(self.now(), Ordering::Relaxed);
        if peer.is_active.swap(true, Ordering::AcqRel) {
            return;
        }
        self.look_at_timers(peer);
        lock(&self.active).push(Arc::clone(peer));
    }

    fn look_at_timers(&self, peer: &Peer) {
        let mut space = [0; 256];
        let mut state = peer.state();
        match state.tunnel.update_timers(&mut space) {
            TunnResult::WriteToNetwork(datagram) => self.send(datagram, None, peer.endpoint()),
            // It gave up what waited.
            TunnResult::Err(_) => self.forget_queued(&mut state),
            _ => {}
        }
    }

    /// Looks at all timers.
    pub(super) fn tick(&self) {
        self.now.store(self.begun.elapsed().as_secs(), Ordering::Relaxed);
        self.limiter.reset_count();
        let now = self.now();
        let active = lock(&self.active).clone();
        for peer in &active {
            self.look_at_timers(peer);
        }
        lock(&self.active).retain(|peer| {
            let is_silent = peer.used_at.load(Ordering::Relaxed) + SILENT_SECONDS < now;
            if is_silent {
                self.forget_queued(&mut peer.state());
                peer.is_active.store(false, Ordering::Release);
            }
            !is_silent
        });
    }

    fn forget_queued(&self, state: &mut State) {
        self.queued.fetch_sub(std::mem::take(&mut state.queued), Ordering::Relaxed);
    }

    /// Encrypts a packet for a peer whose state is held. How long the datagram in `space` is; None where it waits, or is dropped.
    pub(super) fn encrypt(
        &self,
        state: &mut State,
        packet: &[u8],
        space: &mut [u8],
        has_session: bool,
    ) -> Option<usize> {
        if !has_session {
            if self.queued.load(Ordering::Relaxed) >= QUEUED_MAX {
                // Dropped, but asked for a session.
                return written(state.tunnel.format_handshake_initiation(space, false));
            }
            state.queued += 1;
            self.queued.fetch_add(1, Ordering::Relaxed);
        }
        written(state.tunnel.encapsulate(packet, space))
    }

    /// Sends what waited for a session.
    pub(super) fn send_queued(&self, state: &mut State, space: &mut [u8], to: Option<SocketAddr>) {
        if state.queued == 0 {
            return;
        }
        self.forget_queued(state);
        while let TunnResult::WriteToNetwork(datagram) = state.tunnel.decapsulate(None, &[], space) {
            self.send(datagram, None, to);
        }
    }

    /// Whether a handshake is looked at. An answer that asks for a cookie is sent.
    pub(super) fn admits(&self, datagram: &[u8], from: SocketAddr) -> bool {
        let mut space = [0; 256];
        match self.limiter.verify_packet(Some(from.ip()), datagram, &mut space) {
            Ok(_) => lock(&self.handshakes).admits(from.ip(), self.now()),
            Err(TunnResult::WriteToNetwork(cookie)) => {
                self.send(cookie, None, Some(from));
                false
            }
            Err(_) => false,
        }
    }

    /// Who begins a handshake.
    pub(super) fn initiator(&self, init: &boringtun::noise::HandshakeInit<'_>) -> Option<[u8; 32]> {
        let half = boringtun::noise::handshake::parse_handshake_anon(&self.private_key, &self.public_key, init);
        half.ok().map(|half| half.peer_static_public)
    }

    /// A datagram of no session: while one of a former process may be meant, it is handed to that one if it is there still, and the peer
    /// is greeted, so that it changes to a session of this one.
    pub(super) fn stray(&self, datagram: &[u8], from: SocketAddr) {
        if self.now() > FORMER_SECONDS {
            return;
        }
        if let Some(strays) = &self.strays {
            // Usually nobody is there.
            let _ = strays.send_to(datagram, self.directory.join(REST_SOCKET));
        }
        let table = self.table();
        let Some(peer) = table.by_endpoint(from) else { return };
        let due = |hailed: u64| (hailed == 0 || hailed + HAIL_SECONDS <= self.now() + 1).then_some(self.now() + 1);
        if peer.hailed_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_err() {
            return;
        }
        self.uses(peer);
        let mut space = [0; 256];
        if let TunnResult::WriteToNetwork(init) = peer.state().tunnel.format_handshake_initiation(&mut space, false) {
            self.send(init, None, Some(from));
        }
    }

    /// Sends a datagram, or several of one length at once.
    pub(super) fn send(&self, bytes: &[u8], segment: Option<u16>, to: Option<SocketAddr>) {
        let Some(to) = to else { return };
        let Some(socket) = self.socket(to) else { return };
        let segment = segment.filter(|segment| usize::from(*segment) < bytes.len());
        let Some(length) = segment else {
            // What cannot be sent is lost, as on any wire.
            let _ = system::send(socket.as_fd(), bytes, None, to);
            return;
        };
        if self.splits.load(Ordering::Relaxed) {
            match system::send(socket.as_fd(), bytes, segment, to) {
                Ok(()) => return,
                // The way there cannot (EIO: no checksums), or not that much of it.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EIO)) => {
                    self.splits.store(false, Ordering::Relaxed);
                }
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE)) => {}
                Err(_) => return,
            }
        }
        for datagram in bytes.chunks(usize::from(length).max(1)) {
            let _ = system::send(socket.as_fd(), datagram, None, to);
        }
    }

    fn socket(&self, to: SocketAddr) -> Option<&UdpSocket> {
        let is_of = |socket: &&UdpSocket| socket.local_addr().is_ok_and(|own| own.is_ipv4() == to.is_ipv4());
        self.held.sockets.iter().find(is_of)
    }
}

/// How long a datagram in the space that was given is.
fn written(result: TunnResult<'_>) -> Option<usize> {
    match result {
        TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
        _ => None,
    }
}

/// Whether there is a session to send with.
pub(super) fn has_session(tunnel: &Tunn) -> bool {
    tunnel.time_since_last_handshake().is_some()
}
