//! Connections: accepted under a limit, TLS, HTTP/1.1 and HTTP/2 by ALPN, and a stop that lets requests finish.

use super::dispatch;
use crate::core::Core;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// What one server takes on at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Open connections; more wait in the kernel's backlog.
    pub(crate) connections: usize,
    /// Requests being answered, watches and streams not counted; more are answered with 429.
    pub(crate) in_flight: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { connections: 16_384, in_flight: 2_000 }
    }
}

/// A client that does not finish its handshake or its header in this time is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Header blocks beyond this are refused, as Go's server does at 1 MiB.
const HEADER_MAX_BYTES: usize = 256 * 1024;
/// Streams on one HTTP/2 connection; upstream's number.
const STREAMS_MAX: u32 = 250;
/// How long open requests may take once the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// After a failed accept (out of descriptors) the next attempt waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until the core stops.
pub(crate) async fn serve(core: Arc<Core>, listener: TcpListener, tls: Arc<ServerConfig>, limits: Limits) {
    let acceptor = TlsAcceptor::from(tls);
    let permits = Arc::new(Semaphore::new(limits.connections));
    let mut stopping = core.stopping.subscribe();
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let permit = tokio::select! {
            permit = Arc::clone(&permits).acquire_owned() => permit,
            () = stopped(&mut stopping) => break,
        };
        let Ok(permit) = permit else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stopping) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (core, acceptor) = (Arc::clone(&core), acceptor.clone());
        connections.spawn(async move {
            core.metrics.connections.fetch_add(1, Ordering::Relaxed);
            connection(&core, stream, Peer(crate::client_address(peer)), acceptor, limits).await;
            core.metrics.connections.fetch_sub(1, Ordering::Relaxed);
            drop(permit);
        });
    }
    drop(listener);
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        connections.shutdown().await;
    }
}

/// Returns when the server stops.
async fn stopped(stopping: &mut tokio::sync::watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Where a request comes from: an extension of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

async fn connection(core: &Arc<Core>, stream: TcpStream, peer: Peer, acceptor: TlsAcceptor, limits: Limits) {
    // Small answers must not wait for acknowledgements of earlier ones.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let certificates: Vec<_> = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
    let certificates: Arc<Vec<_>> = Arc::new(certificates.into_iter().map(|one| one.into_owned()).collect());
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let (core, certificates) = (Arc::clone(core), Arc::clone(&certificates));
        async move { Ok::<_, Infallible>(dispatch::handle(core, certificates, request, limits.in_flight).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(60))
        .max_buf_size(HEADER_MAX_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_MAX_BYTES as u32)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(15));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut stopping = core.stopping.subscribe();
    // A node that was removed before is let in, to be told so; no request of it is answered otherwise.
    let was_removed = core.authenticator.removed(&certificates) == Some(true);
    let finished = tokio::select! {
        outcome = connection.as_mut() => Some(outcome),
        // Dropped as it is: its watches must not show a node that is removed anything more.
        () = core.until_removed(&certificates), if !was_removed => return,
        () = stopped(&mut stopping) => None,
    };
    let outcome = match finished {
        Some(outcome) => outcome,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "connection ended");
    }
}
