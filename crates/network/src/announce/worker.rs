//! The thread with the sockets, behind a cheap handle.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::sync::watch;

use super::frame;
use super::interfaces;
use super::machine::{ADDRESSES_MAX, Machine, Send};
use super::socket::{FrameSocket, Memberships};
use crate::netlink::{Error, LinkAddress, NetworkNamespace, Result, Rtnetlink};

/// How often interfaces are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// After a failure.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Addresses that are wanted but that hosts have, with where.
pub type Conflicts = BTreeMap<IpAddr, LinkAddress>;

/// Where addresses are announced.
#[derive(Clone, Debug)]
pub struct Options {
    /// The host's namespace.
    pub namespace: NetworkNamespace,
}

/// Announces addresses.
pub struct Announcer;

/// Tells the thread what to announce; cheap to clone. The thread ends when all handles are gone, and nothing is answered afterwards.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    conflicts: watch::Receiver<Conflicts>,
    // Wakes the thread when the last handle goes.
    _alive: Arc<Alive>,
}

struct Shared {
    wanted: Mutex<Wanted>,
    wake: OwnedFd,
}

#[derive(Default)]
struct Wanted {
    changed: Option<(u64, BTreeMap<IpAddr, u64>)>,
    ended: bool,
}

struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.wake();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Wanted> {
        // What is written under it is replaced as a whole.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // The counter is full only if the thread is awake anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl Announcer {
    /// Starts the thread. Sockets are opened when there is something to announce.
    ///
    /// # Errors
    /// The system has no more descriptors or threads.
    pub fn start(options: Options) -> Result<Handle> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|source| Error::system("make an event descriptor", source))?;
        let shared = Arc::new(Shared { wanted: Mutex::default(), wake });
        let (sender, conflicts) = watch::channel(Conflicts::new());
        let worker = Worker {
            machine: Machine::default(),
            namespace: options.namespace,
            shared: Arc::clone(&shared),
            conflicts: sender,
            arp: None,
            neighbours: None,
            memberships: None,
            rtnetlink: None,
            withheld: 0,
            look_at: None,
        };
        std::thread::Builder::new()
            .name("announce".to_owned())
            .spawn(move || worker.run())
            .map_err(|source| Error::system("start the thread that announces addresses", source))?;
        Ok(Handle { conflicts, _alive: Arc::new(Alive(Arc::clone(&shared))), shared })
    }
}

impl Handle {
    /// Announces these addresses and no others, each by the number of its decision. `cluster` is a number that nodes of one cluster have in
    /// common, and that those of others have not. Does not wait.
    pub fn set(&self, cluster: u64, wanted: BTreeMap<IpAddr, u64>) {
        if wanted.len() > ADDRESSES_MAX {
            tracing::warn!(
                addresses = wanted.len(),
                limit = ADDRESSES_MAX,
                "this node cannot announce so many addresses; the rest is left out"
            );
        }
        self.shared.lock().changed = Some((cluster, wanted));
        self.shared.wake();
    }

    /// Addresses that hosts have.
    #[must_use]
    pub fn conflicts(&self) -> watch::Receiver<Conflicts> {
        self.conflicts.clone()
    }
}

struct Worker {
    machine: Machine,
    namespace: NetworkNamespace,
    shared: Arc<Shared>,
    conflicts: watch::Sender<Conflicts>,
    arp: Option<FrameSocket>,
    neighbours: Option<FrameSocket>,
    memberships: Option<Memberships>,
    rtnetlink: Option<Rtnetlink>,
    withheld: u64,
    /// When interfaces are looked at; none while nothing is announced.
    look_at: Option<Instant>,
}

impl Worker {
    fn run(mut self) {
        let mut told: Option<String> = None;
        loop {
            let changed = {
                let mut wanted = self.shared.lock();
                if wanted.ended {
                    return;
                }
                wanted.changed.take()
            };
            let now = Instant::now();
            if let Some((cluster, wanted)) = changed {
                self.machine.set(cluster, &wanted, now);
                self.look_at = Some(now);
            }
            match self.step(now) {
                Ok(()) => told = None,
                Err(error) => {
                    let text = error.to_string();
                    if told.as_ref() != Some(&text) {
                        tracing::warn!(%error, "addresses of load balancers cannot be announced; trying again");
                    }
                    told = Some(text);
                    self.rtnetlink = None;
                    self.look_at = Some(now + RETRY_AFTER);
                }
            }
            self.wait();
        }
    }

    /// Everything that is due.
    fn step(&mut self, now: Instant) -> Result<()> {
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = None;
            self.prepare(now)?;
        }
        let mut heard = Vec::new();
        for socket in [&self.arp, &self.neighbours].into_iter().flatten() {
            let taken =
                socket.receive(|interface, frame| heard.extend(frame::parse(frame).map(|one| (interface, one))));
            // A link that went down says so once.
            if let Err(error) = taken {
                tracing::debug!(%error, "a packet socket reports");
            }
        }
        let mut sends = Vec::new();
        for (interface, heard) in &heard {
            sends.extend(self.machine.heard(*interface, heard, now));
        }
        sends.extend(self.machine.tick(now));
        for Send { interface, frame } in &sends {
            let is_arp = frame.get(12..14) == Some(&frame::ETHERNET_ARP.to_be_bytes());
            let socket = if is_arp { &self.arp } else { &self.neighbours };
            if let Some(Err(error)) = socket.as_ref().map(|socket| socket.send(*interface, frame)) {
                tracing::debug!(%error, interface, "a frame could not be sent");
            }
        }
        self.report();
        Ok(())
    }

    /// Opens and closes sockets as they are needed, and looks at interfaces.
    fn prepare(&mut self, now: Instant) -> Result<()> {
        let (four, six) = (self.machine.has_family(false), self.machine.has_family(true));
        match (four, &self.arp) {
            (true, None) => self.arp = Some(FrameSocket::arp(&self.namespace)?),
            (false, _) => self.arp = None,
            _ => {}
        }
        match (six, &self.neighbours) {
            (true, None) => {
                self.neighbours = Some(FrameSocket::neighbours(&self.namespace)?);
                self.memberships = Some(Memberships::open(&self.namespace)?);
            }
            (false, _) => (self.neighbours, self.memberships) = (None, None),
            _ => {}
        }
        if !four && !six {
            self.rtnetlink = None;
            return Ok(());
        }
        let rtnetlink = match &mut self.rtnetlink {
            Some(open) => open,
            closed => closed.insert(Rtnetlink::open_in(&self.namespace)?),
        };
        self.look_at = Some(now + LOOK_EVERY);
        self.machine.set_interfaces(interfaces::look(rtnetlink)?, now);
        if let Some(memberships) = &mut self.memberships {
            memberships.set(&self.machine.listens());
        }
        Ok(())
    }

    fn report(&mut self) {
        if self.machine.withheld > self.withheld {
            tracing::debug!(
                answers = self.machine.withheld - self.withheld,
                "more questions than are answered in a second"
            );
            self.withheld = self.machine.withheld;
        }
        let conflicts = self.machine.conflicts();
        self.conflicts.send_if_modified(|known| {
            let changed = *known != conflicts;
            *known = conflicts;
            changed
        });
    }

    /// Until a frame arrives, something is due, or somebody wants something.
    fn wait(&self) {
        let until = self.machine.next().into_iter().chain(self.look_at).min();
        let timeout = until.map(|at| {
            // Rounded up, so that what is waited for is due afterwards.
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_micros(100);
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() }
        });
        let sockets = [&self.arp, &self.neighbours].into_iter().flatten().map(FrameSocket::as_fd);
        let mut waiting: Vec<PollFd<'_>> = std::iter::once(self.shared.wake.as_fd())
            .chain(sockets)
            .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN))
            .collect();
        // Interrupted, or out of memory: the loop looks at everything anyway.
        let _ = poll(&mut waiting, timeout.as_ref());
        let mut counter = [0; 8];
        let _ = rustix::io::read(&self.shared.wake, &mut counter);
    }
}
