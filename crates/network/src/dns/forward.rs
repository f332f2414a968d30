//! Asks the host's resolvers, and those of stub domains, about names outside the cluster.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{RData, Record};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::timeout;

use super::answer::TTL_S;
use super::cache::{Cache, CacheKey};
use super::name::{Name, is_within};
use super::wire::{CLASS_IN, Query, RCODE_FAILURE, RCODE_REFUSED, empty_answer, shape_of};
use crate::netlink::NetworkNamespace;

/// How long one server may take.
const ATTEMPT_TIMEOUT_MS: u64 = 1500;
/// How long all attempts together may take: glibc asks again after 5 s.
const TOTAL_TIMEOUT_MS: u64 = 4500;
/// Each server is asked this often.
const ROUNDS_MAX: usize = 2;
/// The name below which we ask ourselves whether we are our own upstream.
const LOOP_SUFFIX: &[u8] = b"\x0bklynge-loop\x00";

/// A domain that has servers of its own.
type StubDomain = (Name, Arc<[SocketAddr]>);

/// Names outside the cluster.
pub(crate) struct Forwarder {
    namespace: Option<NetworkNamespace>,
    stub_domains: RwLock<Arc<[StubDomain]>>,
    servers: RwLock<Arc<[SocketAddr]>>,
    preferred: AtomicUsize,
    cache: Mutex<Cache>,
    probe: AtomicU64,
    probe_came_back: AtomicBool,
    pub(crate) failures: AtomicU64,
}

impl Forwarder {
    pub(crate) fn new(namespace: Option<NetworkNamespace>) -> Self {
        Self {
            namespace,
            stub_domains: RwLock::new(Arc::from([])),
            servers: RwLock::new(Arc::from([])),
            preferred: AtomicUsize::new(0),
            cache: Mutex::new(Cache::default()),
            probe: AtomicU64::new(0),
            probe_came_back: AtomicBool::new(false),
            failures: AtomicU64::new(0),
        }
    }

    /// Takes the servers of some domains into use; all others are asked of the general ones.
    pub(crate) fn set_stub_domains(&self, domains: Vec<(Name, Vec<SocketAddr>)>) {
        let mut domains: Vec<StubDomain> =
            domains.into_iter().map(|(domain, servers)| (domain, servers.into())).collect();
        // The most specific domain is found first.
        domains.sort_by_key(|(domain, _)| std::cmp::Reverse(domain.wire().len()));
        *self.stub_domains.write().unwrap_or_else(PoisonError::into_inner) = domains.into();
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Takes new servers into use at once, and then out again those that lead back here.
    pub(crate) async fn set_servers(&self, mut servers: Vec<SocketAddr>) {
        self.use_servers(&servers);
        for server in servers.clone() {
            if self.leads_back(server).await {
                tracing::error!(%server, "this host's resolver asks cluster DNS, which would ask it again; it is not used. \
                    Let /etc/resolv.conf name a resolver outside the cluster");
                servers.retain(|other| *other != server);
                self.use_servers(&servers);
            }
        }
        if servers.is_empty() {
            tracing::warn!("no resolver for names outside the cluster: they are answered with SERVFAIL");
        }
    }

    fn use_servers(&self, servers: &[SocketAddr]) {
        let mut current = self.servers.write().unwrap_or_else(PoisonError::into_inner);
        if **current == *servers {
            return;
        }
        *current = servers.into();
        self.preferred.store(0, Ordering::Relaxed);
        // Another network may give other answers to the same questions.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Sends a server a random name and sees whether it comes back to us as a question.
    async fn leads_back(&self, server: SocketAddr) -> bool {
        let Ok(token) = getrandom::u64() else { return false };
        self.probe.store(token, Ordering::SeqCst);
        self.probe_came_back.store(false, Ordering::SeqCst);
        let label = format!("{token:016x}");
        let mut name = vec![16];
        name.extend_from_slice(label.as_bytes());
        name.extend_from_slice(LOOP_SUFFIX);
        let question = build_query(&name, super::wire::TYPE_TXT, None, false, 1);
        let _ = timeout(Duration::from_millis(ATTEMPT_TIMEOUT_MS), self.exchange_udp(server, &question)).await;
        self.probe_came_back.swap(false, Ordering::SeqCst)
    }

    /// Whether a question is one of our own probes (or of another node's); such names are never forwarded.
    pub(crate) fn is_probe(&self, query: &Query<'_>) -> bool {
        let name = query.name();
        if !is_within(name, LOOP_SUFFIX) {
            return false;
        }
        if name.get(1..17) == Some(format!("{:016x}", self.probe.load(Ordering::SeqCst)).as_bytes()) {
            self.probe_came_back.store(true, Ordering::SeqCst);
        }
        true
    }

    /// Answers from the cache.
    pub(crate) fn cached(&self, query: &Query<'_>, is_tcp: bool, out: &mut Vec<u8>) -> bool {
        let found =
            self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(&cache_key(query), Instant::now(), out);
        if found {
            fit(query, is_tcp, out);
        }
        found
    }

    /// Asks the servers and writes the answer, or SERVFAIL.
    pub(crate) async fn resolve(&self, query: &Query<'_>, is_tcp: bool, out: &mut Vec<u8>) {
        let servers = self.servers_for(query.name());
        if servers.is_empty() {
            empty_answer(out, query, RCODE_FAILURE);
            return;
        }
        match timeout(Duration::from_millis(TOTAL_TIMEOUT_MS), self.ask(query, is_tcp, &servers)).await {
            Ok(Some(answer)) => {
                *out = answer;
                fit(query, is_tcp, out);
            }
            _ => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                empty_answer(out, query, RCODE_FAILURE);
            }
        }
    }

    /// Answers for a Service of type ExternalName: the alias, and what the name outside stands for.
    pub(crate) async fn resolve_alias(&self, query: &Query<'_>, target: &[u8], is_tcp: bool, out: &mut Vec<u8>) {
        let edns = query.edns.map(|edns| (edns.udp_bytes.clamp(512, 1232), edns.wants_dnssec));
        let question = build_query(target, query.kind, edns, query.checking_disabled(), 0);
        let mut outside = Vec::new();
        let Ok(target_query) = Query::parse(&question) else {
            empty_answer(out, query, RCODE_FAILURE);
            return;
        };
        if !self.cached(&target_query, is_tcp, &mut outside) {
            self.resolve(&target_query, is_tcp, &mut outside).await;
        }
        match merge_alias(query, &outside) {
            Some(merged) => {
                *out = merged;
                fit(query, is_tcp, out);
            }
            None => empty_answer(out, query, RCODE_FAILURE),
        }
    }

    fn servers_for(&self, name: &[u8]) -> Arc<[SocketAddr]> {
        let domains = Arc::clone(&self.stub_domains.read().unwrap_or_else(PoisonError::into_inner));
        match domains.iter().find(|(domain, _)| is_within(name, domain.wire())) {
            Some((_, servers)) => Arc::clone(servers),
            None => Arc::clone(&self.servers.read().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    async fn ask(&self, query: &Query<'_>, is_tcp: bool, servers: &[SocketAddr]) -> Option<Vec<u8>> {
        let first = self.preferred.load(Ordering::Relaxed);
        for attempt in 0..ROUNDS_MAX * servers.len() {
            let index = (first + attempt) % servers.len();
            let server = *servers.get(index)?;
            let id = u16::try_from(getrandom::u32().ok()? & 0xffff).ok()?;
            let edns = query.edns.map(|edns| (edns.udp_bytes.clamp(512, 1232), edns.wants_dnssec));
            let spelled = query.bytes().get(12..12 + query.name().len())?;
            let question = build_query(spelled, query.kind, edns, query.checking_disabled(), id);
            let exchange = async {
                if is_tcp {
                    self.exchange_tcp(server, &question).await
                } else {
                    self.exchange_udp(server, &question).await
                }
            };
            let answer = match timeout(Duration::from_millis(ATTEMPT_TIMEOUT_MS), exchange).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => {
                    tracing::debug!(%server, %error, "a resolver cannot be asked");
                    continue;
                }
                Err(_) => {
                    // The next questions begin with another server.
                    let _ = self.preferred.compare_exchange(first, index + 1, Ordering::Relaxed, Ordering::Relaxed);
                    continue;
                }
            };
            let Some(shape) = shape_of(&answer, query) else { continue };
            if matches!(shape.code, RCODE_FAILURE | RCODE_REFUSED) && attempt + 1 < servers.len() {
                continue;
            }
            if !shape.is_truncated && matches!(shape.code, 0 | 3) {
                self.cache.lock().unwrap_or_else(PoisonError::into_inner).put(
                    cache_key(query),
                    &answer,
                    shape.ttl_offsets,
                    shape.ttl_s,
                    Instant::now(),
                );
            }
            return Some(answer);
        }
        None
    }

    /// One question over a socket of its own: its random port and id are what a forger must guess (RFC 5452).
    async fn exchange_udp(&self, server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
        let local = SocketAddr::new(unspecified(server), 0);
        let socket = match &self.namespace {
            None => UdpSocket::bind(local).await?,
            Some(namespace) => {
                let socket = namespace.run(|| std::net::UdpSocket::bind(local)).map_err(io::Error::other)??;
                socket.set_nonblocking(true)?;
                UdpSocket::from_std(socket)?
            }
        };
        socket.connect(server).await?;
        socket.send(question).await?;
        let mut buffer = vec![0; 4096];
        loop {
            let length = socket.recv(&mut buffer).await?;
            // Another id: not the answer to this question. The time limit ends the wait.
            if length >= 12 && buffer.get(..2) == question.get(..2) {
                buffer.truncate(length);
                return Ok(buffer);
            }
        }
    }

    async fn exchange_tcp(&self, server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
        let open = || if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = match &self.namespace {
            None => open()?,
            Some(namespace) => namespace.run(open).map_err(io::Error::other)??,
        };
        let mut stream = socket.connect(server).await?;
        let length = u16::try_from(question.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
        let length = stream.read_u16().await?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await?;
        if answer.get(..2) == question.get(..2) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

fn unspecified(server: SocketAddr) -> IpAddr {
    if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) }
}

fn cache_key(query: &Query<'_>) -> CacheKey {
    CacheKey {
        name: query.name().into(),
        kind: query.kind,
        has_edns: query.edns.is_some(),
        wants_dnssec: query.edns.is_some_and(|edns| edns.wants_dnssec),
        checking_disabled: query.checking_disabled(),
    }
}

/// A question of ours: nothing of the client's but the name, the type and what it can take.
fn build_query(name: &[u8], kind: u16, edns: Option<(u16, bool)>, checking_disabled: bool, id: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 27);
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(&[
        1,
        if checking_disabled { 0x10 } else { 0 },
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        u8::from(edns.is_some()),
    ]);
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&CLASS_IN.to_be_bytes());
    if let Some((udp_bytes, wants_dnssec)) = edns {
        bytes.extend_from_slice(&[0, 0, 41]);
        bytes.extend_from_slice(&udp_bytes.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, if wants_dnssec { 0x80 } else { 0 }, 0, 0, 0]);
    }
    bytes
}

/// Gives an answer from elsewhere this client's id and spelling, and cuts it to what the client can take.
fn fit(query: &Query<'_>, is_tcp: bool, out: &mut Vec<u8>) {
    let question_end = 12 + query.name().len() + 4;
    if let (Some(target), Some(source)) = (out.get_mut(..2), query.bytes().get(..2)) {
        target.copy_from_slice(source);
    }
    if let (Some(target), Some(source)) = (out.get_mut(12..question_end), query.bytes().get(12..question_end)) {
        target.copy_from_slice(source);
    }
    if let (Some(target), Some(source)) = (out.get_mut(2), query.bytes().get(2)) {
        *target = (*target & !0x01) | (source & 0x01);
    }
    if out.len() > query.answer_bytes_max(is_tcp) {
        out.truncate(question_end);
        if let Some(header) = out.get_mut(..12) {
            header[2] |= 0x02;
            header[6..12].fill(0);
        }
    }
}

/// Puts an alias of the cluster before an answer from elsewhere.
fn merge_alias(query: &Query<'_>, outside: &[u8]) -> Option<Vec<u8>> {
    let question = Message::from_vec(query.bytes()).ok()?;
    let outside = Message::from_vec(outside).ok()?;
    let owner = question.queries.first()?.name().clone();
    let alias = outside.queries.first().map(|query| query.name().clone())?;
    let mut merged = Message::response(question.metadata.id, question.metadata.op_code);
    merged.metadata.recursion_desired = question.metadata.recursion_desired;
    merged.metadata.recursion_available = true;
    merged.metadata.response_code = outside.metadata.response_code;
    merged.metadata.truncation = outside.metadata.truncation;
    merged.add_queries(question.queries);
    merged.add_answer(Record::from_rdata(owner, TTL_S, RData::CNAME(CNAME(alias))));
    merged.add_answers(outside.answers);
    for record in outside.authorities {
        merged.add_authority(record);
    }
    if query.edns.is_some() {
        merged.edns = outside.edns;
    }
    merged.to_vec().ok()
}
