//! The agent's end of its tunnel: the server speaks HTTP/2 as the client, each CONNECT is one connection to the agent.
//!
//! Wire: docs/decisions/0011-joining.md, `klynge-tunnel/1`.

use crate::https::Https;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use object::Status;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::sync::Semaphore;

/// The path that is upgraded.
pub const TUNNEL_PATH: &str = "/klynge/v1/tunnel";
/// The protocol after the switch, with its version.
pub const TUNNEL_PROTOCOL: &str = "klynge-tunnel/1";
/// Connections through one tunnel at a time; the server is told 503 beyond it.
const CONNECTIONS_MAX: usize = 1_000;
/// A server that does not answer a ping in this time is gone, and the tunnel is opened again.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const TUNNEL_WINDOW_BYTES: u32 = 8 << 20;

/// Opens a tunnel and answers what comes through it, until it breaks. `connect` gives a fresh connection to the agent.
///
/// # Errors
/// The server's refusal, or why the tunnel ended.
pub async fn serve_tunnel<C, S>(client: &Https, opened: impl FnOnce(), connect: C) -> Result<(), Status>
where
    C: Fn() -> S + Send + Sync + 'static,
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stream = client.upgrade(TUNNEL_PATH, TUNNEL_PROTOCOL).await?;
    opened();
    let connect = Arc::new(connect);
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let service = service_fn(move |request| {
        let (connect, room) = (Arc::clone(&connect), Arc::clone(&room));
        async move { Ok::<_, Infallible>(answer(request, &*connect, &room)) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(TUNNEL_WINDOW_BYTES)
        .max_concurrent_streams(CONNECTIONS_MAX as u32);
    let ended = builder.serve_connection(TokioIo::new(stream), service).await;
    ended.map_err(|error| Status::unavailable(format!("the tunnel broke: {error}")))
}

fn answer<S>(
    request: Request<Incoming>,
    connect: &(impl Fn() -> S + ?Sized),
    room: &Arc<Semaphore>,
) -> Response<Empty<Bytes>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut response = Response::new(Empty::new());
    if request.method() != Method::CONNECT {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        return response;
    }
    let Ok(permit) = Arc::clone(room).try_acquire_owned() else {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return response;
    };
    let mut ours = connect();
    tokio::spawn(async move {
        let _permit = permit;
        match hyper::upgrade::on(request).await {
            Ok(theirs) => {
                // Either side may leave at any time; that is how a log stream ends.
                if let Err(error) = copy_bidirectional(&mut ours, &mut TokioIo::new(theirs)).await {
                    tracing::debug!(%error, "a connection through the tunnel ended");
                }
            }
            Err(error) => tracing::debug!(%error, "a connection through the tunnel was not opened"),
        }
    });
    response
}
