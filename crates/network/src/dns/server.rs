//! Serves cluster DNS over UDP and TCP: answers from the zone at once, and forwards the rest within limits.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::answer::{Outcome, answer};
use super::error::Error;
use super::forward::Forwarder;
use super::forwards::Forwards;
use super::name::{Name, NameError};
use super::resolv_conf::{HostResolvers, host_resolvers};
use super::state::DnsService;
use super::wire::{QUERY_BYTES_MAX, Query, RCODE_FAILURE, RCODE_NO_NAME, Unusable, empty_answer, header_answer};
use super::zone::Zone;
use crate::Prefix;
use crate::netlink::NetworkNamespace;
use crate::services::ServiceKey;

/// TCP clients at a time; more are not accepted until one leaves.
const TCP_CLIENTS_MAX: usize = 256;
/// A TCP client that sends nothing for this long is disconnected.
const TCP_IDLE_TIMEOUT_MS: u64 = 10_000;
/// How often the host's resolvers are looked at.
const RESOLVERS_INTERVAL_MS: u64 = 5000;
/// How long a process that ends waits for what it asked others; no question takes longer.
const DRAIN_TIMEOUT_MS: u64 = 5000;
/// Threads that read questions from one address.
const THREADS_PER_ADDRESS: usize = 2;

/// Where and for what cluster DNS answers.
#[derive(Clone, Debug)]
pub struct Options {
    /// The addresses to answer on; never the unspecified one, so that answers carry the address that was asked.
    pub listen: Vec<SocketAddr>,
    /// The namespace to serve in; none is the process's own.
    pub namespace: Option<NetworkNamespace>,
    /// The cluster domain, such as "cluster.local".
    pub domain: String,
    /// The cluster's address ranges: PTR questions about them are not forwarded.
    pub reverse_ranges: Vec<Prefix>,
    /// Where the host's resolvers are listed, in order.
    pub resolv_conf: Vec<PathBuf>,
    /// Who is asked about what, to begin with.
    pub outside: Outside,
}

/// Who is asked about names outside the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// Domains that have servers of their own.
    pub stub_domains: Vec<(String, Vec<SocketAddr>)>,
    /// Who is asked about everything else; the host's resolvers where there are none here.
    pub servers: Vec<SocketAddr>,
}

impl Outside {
    fn domains(&self) -> Result<Vec<(Name, Vec<SocketAddr>)>, NameError> {
        self.stub_domains.iter().map(|(domain, servers)| Ok((Name::parse(domain)?, servers.clone()))).collect()
    }
}

impl Options {
    /// Options for these addresses and domain, with the host's usual files.
    #[must_use]
    pub fn new(listen: Vec<SocketAddr>, domain: impl Into<String>) -> Self {
        Self {
            listen,
            namespace: None,
            domain: domain.into(),
            reverse_ranges: Vec::new(),
            resolv_conf: vec!["/etc/resolv.conf".into(), "/run/systemd/resolve/resolv.conf".into()],
            outside: Outside::default(),
        }
    }
}

/// Counters of cluster DNS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Questions received.
    pub questions: u64,
    /// Questions forwarded.
    pub forwarded: u64,
    /// Forwarded questions answered from the cache.
    pub cached: u64,
    /// Forwarded questions that failed.
    pub failed: u64,
}

/// The sockets of an address.
pub(crate) struct Sockets {
    pub(crate) udp: UdpSocket,
    pub(crate) tcp: TcpListener,
}

impl Sockets {
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { udp: self.udp.try_clone()?, tcp: self.tcp.try_clone()? })
    }
}

/// Cluster DNS.
pub struct Dns;

/// Tells a running server about changes; it stops when this is dropped.
pub struct Handle {
    shared: Arc<Shared>,
    sockets: Vec<Arc<UdpSocket>>,
    /// What `begin` begins with.
    prepared: Mutex<Option<(Options, Vec<Prepared>)>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

type Prepared = (Arc<UdpSocket>, tokio::net::TcpListener);

struct Shared {
    zone: RwLock<Zone>,
    forwarder: Forwarder,
    /// Who is asked instead of the host's resolvers; empty for these.
    servers: watch::Sender<Vec<SocketAddr>>,
    forwards: Arc<Forwards>,
    stop: AtomicBool,
    turn: AtomicUsize,
    questions: AtomicU64,
    forwarded: AtomicU64,
    cached: AtomicU64,
}

impl Dns {
    /// Starts to serve; must be called within a tokio runtime. When it returns, the addresses answer.
    pub fn run(options: Options) -> Result<Handle, Error> {
        let open = |address: &SocketAddr| open(*address, options.namespace.as_ref());
        let sockets = options.listen.iter().map(open).collect::<Result<_, _>>()?;
        let handle = Self::prepare(options, sockets)?;
        handle.begin()?;
        Ok(handle)
    }

    /// Makes ready to serve on sockets that are open already; what is asked waits in them until `begin`.
    pub(crate) fn prepare(options: Options, sockets: Vec<Sockets>) -> Result<Handle, Error> {
        let addresses: Vec<IpAddr> = options.listen.iter().map(SocketAddr::ip).collect();
        let domains = options.outside.domains()?;
        let shared = Arc::new(Shared {
            zone: RwLock::new(Zone::new(&options.domain, options.reverse_ranges.clone(), &addresses)?),
            forwarder: Forwarder::new(options.namespace.clone()),
            servers: watch::channel(options.outside.servers.clone()).0,
            forwards: Forwards::new(),
            stop: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
            questions: AtomicU64::new(0),
            forwarded: AtomicU64::new(0),
            cached: AtomicU64::new(0),
        });
        shared.forwarder.set_stub_domains(domains);
        let mut prepared = Vec::new();
        let mut addressed = Vec::new();
        for Sockets { udp, tcp } in sockets {
            let udp = Arc::new(udp);
            addressed.push(Arc::clone(&udp));
            prepared.push((udp, tokio::net::TcpListener::from_std(tcp).map_err(Error::Socket)?));
        }
        let prepared = Mutex::new(Some((options, prepared)));
        Ok(Handle { shared, sockets: addressed, prepared, tasks: Mutex::default(), threads: Mutex::default() })
    }
}

/// How many ports are tried where any will do.
const FREE_PORT_ATTEMPTS: u32 = 16;

/// Opens the sockets of an address.
pub(crate) fn open(address: SocketAddr, namespace: Option<&NetworkNamespace>) -> Result<Sockets, Error> {
    let open = || -> io::Result<Sockets> {
        let mut attempts = if address.port() == 0 { FREE_PORT_ATTEMPTS } else { 1 };
        loop {
            let udp = UdpSocket::bind(address)?;
            attempts -= 1;
            // With port 0 both get the same number, as clients expect. One that is free for UDP may be taken for TCP.
            match TcpListener::bind(udp.local_addr()?) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
                tcp => {
                    let tcp = tcp?;
                    tcp.set_nonblocking(true)?;
                    return Ok(Sockets { udp, tcp });
                }
            }
        }
    };
    let opened = match namespace {
        None => open(),
        Some(namespace) => namespace.run(open)?,
    };
    opened.map_err(|source| Error::Listen { address, source })
}

impl Handle {
    /// Begins to answer, once; must be called within a tokio runtime.
    pub(crate) fn begin(&self) -> Result<(), Error> {
        let Some((options, prepared)) = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        let runtime = runtime::Handle::current();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for (udp, tcp) in prepared {
            for _ in 0..THREADS_PER_ADDRESS {
                let (shared, socket, runtime) = (Arc::clone(&self.shared), Arc::clone(&udp), runtime.clone());
                let thread = std::thread::Builder::new().name("dns".to_owned());
                let thread = thread.spawn(move || serve_udp(&shared, &socket, &runtime)).map_err(Error::Thread)?;
                self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
            }
            tasks.push(runtime.spawn(serve_tcp(Arc::clone(&self.shared), tcp)));
        }
        tasks.push(runtime.spawn(watch_resolvers(Arc::clone(&self.shared), options)));
        Ok(())
    }

    /// An empty datagram to itself wakes each thread from its wait.
    fn wake_threads(&self) {
        for socket in &self.sockets {
            if let Ok(address) = socket.local_addr() {
                for _ in 0..THREADS_PER_ADDRESS {
                    let _ = socket.send_to(&[], address);
                }
            }
        }
    }

    fn stop(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            task.abort();
        }
    }

    /// Sets or removes a Service; the next question sees it.
    pub fn update(&self, key: &ServiceKey, service: Option<DnsService>) {
        self.shared.zone.write().unwrap_or_else(PoisonError::into_inner).set(key, service);
    }

    /// Replaces all Services.
    pub fn replace(&self, services: impl IntoIterator<Item = (ServiceKey, DnsService)>) {
        let mut zone = self.shared.zone.write().unwrap_or_else(PoisonError::into_inner);
        let mut gone: std::collections::HashSet<ServiceKey> = zone.keys().into_iter().collect();
        for (key, service) in services {
            gone.remove(&key);
            zone.set(&key, Some(service));
        }
        for key in gone {
            zone.set(&key, None);
        }
    }

    /// Changes who is asked about names outside the cluster; the next question goes there.
    ///
    /// # Errors
    /// A stub domain that is no domain name; then nothing is changed.
    pub fn set_outside(&self, outside: &Outside) -> Result<(), NameError> {
        self.shared.forwarder.set_stub_domains(outside.domains()?);
        self.shared.servers.send_if_modified(|servers| {
            let is_other = *servers != outside.servers;
            servers.clone_from(&outside.servers);
            is_other
        });
        Ok(())
    }

    /// The keys of all Services known.
    pub(crate) fn keys(&self) -> Vec<ServiceKey> {
        self.shared.zone.read().unwrap_or_else(PoisonError::into_inner).keys()
    }

    /// Returns once the zone is free: where that is never, no question is answered either.
    pub(crate) fn touch(&self) {
        drop(self.shared.zone.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes no more connections and questions, and waits until all that were taken are answered. Whoever else has these sockets
    /// goes on with them.
    pub(crate) async fn drain(&self) {
        self.stop();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        // Each thread ends after the next thing that it receives; others with the same sockets may take what is meant to wake it.
        for _ in 0..DRAIN_TIMEOUT_MS / 2 {
            if threads.iter().all(std::thread::JoinHandle::is_finished) {
                break;
            }
            self.wake_threads();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.shared.forwards.drain(Duration::from_millis(DRAIN_TIMEOUT_MS)).await;
    }

    /// The addresses that answer.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Counters since the start.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        Statistics {
            questions: self.shared.questions.load(Ordering::Relaxed),
            forwarded: self.shared.forwarded.load(Ordering::Relaxed),
            cached: self.shared.cached.load(Ordering::Relaxed),
            failed: self.shared.forwarder.failures.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
        self.wake_threads();
    }
}

/// What is to be done with a question.
enum Step {
    Send,
    Nothing,
    Forward,
    Alias(Arc<[u8]>),
}

impl Shared {
    /// Does what needs no waiting.
    fn step(&self, bytes: &[u8], is_tcp: bool, out: &mut Vec<u8>) -> Step {
        self.questions.fetch_add(1, Ordering::Relaxed);
        let query = match Query::parse(bytes) {
            Ok(query) => query,
            Err(Unusable::Ignore) => return Step::Nothing,
            Err(Unusable::Answer(code)) => {
                header_answer(out, bytes, code);
                return Step::Send;
            }
        };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let outcome = answer(&self.zone.read().unwrap_or_else(PoisonError::into_inner), &query, is_tcp, turn, out);
        match outcome {
            Outcome::Answered => Step::Send,
            Outcome::Alias(target) => Step::Alias(target),
            Outcome::Forward => {
                if self.forwarder.is_probe(&query) {
                    empty_answer(out, &query, RCODE_NO_NAME);
                    return Step::Send;
                }
                self.forwarded.fetch_add(1, Ordering::Relaxed);
                if self.forwarder.cached(&query, is_tcp, out) {
                    self.cached.fetch_add(1, Ordering::Relaxed);
                    return Step::Send;
                }
                Step::Forward
            }
        }
    }

    /// Does what waits for others.
    async fn finish(&self, step: Step, bytes: &[u8], is_tcp: bool, out: &mut Vec<u8>) {
        let Ok(query) = Query::parse(bytes) else { return };
        match step {
            Step::Forward => self.forwarder.resolve(&query, is_tcp, out).await,
            Step::Alias(target) => self.forwarder.resolve_alias(&query, &target, is_tcp, out).await,
            Step::Send | Step::Nothing => {}
        }
    }
}

fn serve_udp(shared: &Arc<Shared>, socket: &Arc<UdpSocket>, runtime: &runtime::Handle) {
    let mut buffer = vec![0; QUERY_BYTES_MAX + 1];
    let mut out = Vec::with_capacity(2048);
    loop {
        // Looked at between questions: what was received is answered first, since nobody else gets it.
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let Ok((length, client)) = socket.recv_from(&mut buffer) else {
            // An ICMP error of an earlier answer, or an interruption: the socket itself stays usable.
            continue;
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        match shared.step(bytes, false, &mut out) {
            Step::Nothing => {}
            Step::Send => {
                let _ = socket.send_to(&out, client);
            }
            step @ (Step::Forward | Step::Alias(_)) => match shared.forwards.take(client.ip()) {
                Some(place) => {
                    let (shared, socket, bytes) = (Arc::clone(shared), Arc::clone(socket), bytes.to_vec());
                    runtime.spawn(async move {
                        let mut out = Vec::new();
                        shared.finish(step, &bytes, false, &mut out).await;
                        let _ = socket.send_to(&out, client);
                        drop(place);
                    });
                }
                None => {
                    if let Ok(query) = Query::parse(bytes) {
                        empty_answer(&mut out, &query, RCODE_FAILURE);
                        let _ = socket.send_to(&out, client);
                    }
                }
            },
        }
    }
}

async fn serve_tcp(shared: Arc<Shared>, listener: tokio::net::TcpListener) {
    let clients = Arc::new(Semaphore::new(TCP_CLIENTS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&clients).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, client)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    // A client that misbehaves loses its connection, nothing more.
                    let _ = serve_client(&shared, stream, client.ip()).await;
                    drop(permit);
                });
            }
            // Out of descriptors: waiting lets others close theirs.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve_client(shared: &Shared, mut stream: tokio::net::TcpStream, client: IpAddr) -> io::Result<()> {
    let idle = Duration::from_millis(TCP_IDLE_TIMEOUT_MS);
    let mut out = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let length = usize::from(tokio::time::timeout(idle, stream.read_u16()).await??);
        if length > QUERY_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![0; length];
        tokio::time::timeout(idle, stream.read_exact(&mut bytes)).await??;
        match shared.step(&bytes, true, &mut out) {
            Step::Nothing => return Ok(()),
            Step::Send => {}
            step => match shared.forwards.take(client) {
                Some(_place) => shared.finish(step, &bytes, true, &mut out).await,
                None => {
                    if let Ok(query) = Query::parse(&bytes) {
                        empty_answer(&mut out, &query, RCODE_FAILURE);
                    }
                }
            },
        }
        let length = u16::try_from(out.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes(), &out[..]].concat();
        tokio::time::timeout(idle, stream.write_all(&framed)).await??;
    }
    Ok(())
}

/// Follows the host's resolvers, which change with networks and VPNs.
async fn watch_resolvers(shared: Arc<Shared>, options: Options) {
    let own: Vec<SocketAddr> = options.listen.clone();
    let mut known: Option<(HostResolvers, Vec<SocketAddr>)> = None;
    let mut configured = shared.servers.subscribe();
    loop {
        // Two small local files: a thread for them would cost more than they do.
        let found = (host_resolvers(&options.resolv_conf), configured.borrow_and_update().clone());
        if known.as_ref() != Some(&found) {
            let servers = if found.1.is_empty() { &found.0.servers } else { &found.1 };
            let others = servers.iter().copied().filter(|server| !own.contains(server)).collect();
            shared.forwarder.set_servers(others).await;
            known = Some(found);
        }
        // Its sender lives as long as this.
        let _ = timeout(Duration::from_millis(RESOLVERS_INTERVAL_MS), configured.changed()).await;
    }
}
