//! One agent's heartbeat connection: answers beats, asks where they are missing, and reads what the kernel knows.

use super::tcp_info::tcp_info;
use super::watcher::Heartbeats;
use client::{Frame, FrameKind, HEARTBEAT_PROTOCOL as PROTOCOL};
use http::header::{CONNECTION, UPGRADE};
use http::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade::downcast;
use object::Status;
use rustix::net::sockopt;
use rustls::pki_types::CertificateDer;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use crate::core::Core;
use crate::serve::{Answer, Context, respond};

/// How often the kernel is asked while beats are missing.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Questions without an answer: more would fill the queue of a frozen agent. The kernel's keepalives take over.
const ASKS_MAX: u32 = 50;
/// What a keepalive's answer may take: its idle time and its interval are a second each.
const KEEPALIVE: Duration = Duration::from_secs(1);
const KEEPALIVE_SLACK: Duration = Duration::from_millis(1_500);
/// A connection on which nothing was acknowledged for so long is closed by the kernel.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Writing eight bytes into an empty queue takes no time; if it does, the connection is of no use.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// Answers the upgrade of an agent's connection.
///
/// # Errors
/// For callers that are no nodes, and requests that are no such upgrade.
pub(crate) fn accept(context: &Context, mut request: Request<()>) -> Result<Response<Answer>, Status> {
    let Some(node) = context.user.as_node().map(str::to_owned) else {
        let message = format!("forbidden: User \"{}\" is no node, and only nodes have heartbeats", context.user.name);
        return Err(Status::new(403, "Forbidden", message));
    };
    let wanted = request.headers().get(UPGRADE).and_then(|value| value.to_str().ok());
    if wanted != Some(PROTOCOL) {
        let offered = wanted.unwrap_or("none");
        return Err(Status::bad_request(format!(
            "this server's heartbeat speaks {PROTOCOL}, the agent asked for {offered}: server and agent may differ by one minor release"
        )));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let (core, certificates) = (Arc::clone(&context.core), Arc::clone(&context.certificates));
    tokio::spawn(async move {
        let upgraded = match upgrade.await {
            Ok(upgraded) => upgraded,
            Err(error) => return tracing::debug!(%error, node, "a heartbeat was not opened"),
        };
        let Ok(parts) = downcast::<TokioIo<TlsStream<TcpStream>>>(upgraded) else {
            return tracing::warn!(node, "a heartbeat over something else than TLS is not watched");
        };
        let mut stopping = core.stopping.subscribe();
        tokio::select! {
            () = serve(&core, &certificates, &node, parts.io.into_inner(), &parts.read_buf) => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    });
    let mut response = respond::answer(101, "text/plain", Answer::empty());
    response.headers_mut().insert(UPGRADE, http::HeaderValue::from_static(PROTOCOL));
    response.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("Upgrade"));
    Ok(response)
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE)?;
    let give_up_ms = u32::try_from(GIVE_UP.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, give_up_ms)?;
    Ok(())
}

async fn serve(
    core: &Core,
    certificates: &[CertificateDer<'_>],
    node: &str,
    mut stream: TlsStream<TcpStream>,
    early: &[u8],
) {
    let heartbeats = &core.heartbeats;
    let peer = match stream.get_ref().0.peer_addr() {
        Ok(peer) => crate::client_address(peer),
        Err(error) => return tracing::debug!(%error, node, "a heartbeat ended at once"),
    };
    if let Err(error) = prepare(stream.get_ref().0) {
        tracing::warn!(%error, node, "a heartbeat without keepalives: a frozen agent is judged for a few seconds only");
    }
    let number = heartbeats.opened(node, peer);
    tracing::info!(node, "heartbeat open");
    let ended = tokio::select! {
        ended = exchange(heartbeats, node, number, &mut stream, early) => ended,
        () = core.until_removed(certificates) => Ended::Ours("the node was removed from the cluster".to_owned()),
    };
    let by_peer = match &ended {
        Ended::Closed => true,
        Ended::Replaced => return,
        Ended::Ours(why) => {
            tracing::warn!(node, why, "heartbeat closed");
            false
        }
        Ended::Broke(error) => is_proof(error),
    };
    tracing::info!(node, by_peer, ?ended, "heartbeat ended");
    heartbeats.closed(node, number, by_peer);
}

#[derive(Debug)]
enum Ended {
    /// The agent ended it.
    Closed,
    /// A newer one took its place.
    Replaced,
    /// We ended it.
    Ours(String),
    /// It broke.
    Broke(io::Error),
}

/// Whether the host's kernel has said that the connection is over; a time-out or an unreachable network says nothing.
fn is_proof(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
    )
}

async fn exchange(
    heartbeats: &Heartbeats,
    node: &str,
    number: u64,
    stream: &mut TlsStream<TcpStream>,
    early: &[u8],
) -> Ended {
    let (mut buffer, mut filled) = ([0_u8; Frame::BYTES], 0);
    let mut early = early;
    let mut beaten = Instant::now();
    let (mut asks, mut asked) = (0, Instant::now());
    loop {
        let overdue = beaten + heartbeats.overdue_after();
        let look = overdue.max(Instant::now() + if asks > 0 { LOOK_EVERY } else { Duration::ZERO });
        tokio::select! {
            read = async {
                if early.is_empty() { stream.read(&mut buffer[filled..]).await } else { early.read(&mut buffer[filled..]).await }
            } => {
                match read {
                    Ok(0) => return Ended::Closed,
                    Ok(count) => filled += count,
                    Err(error) => return Ended::Broke(error),
                }
                if filled < Frame::BYTES {
                    continue;
                }
                filled = 0;
                let frame = match Frame::decode(buffer) {
                    Ok(Some(frame)) => frame,
                    Ok(None) => continue,
                    Err(why) => return Ended::Ours(why),
                };
                if frame.kind != FrameKind::Beat {
                    continue;
                }
                if !heartbeats.beat(node, number) {
                    return Ended::Replaced;
                }
                (beaten, asks) = (Instant::now(), 0);
                if let Err(ended) = write(stream, heartbeats, FrameKind::Answer, frame.number).await {
                    return ended;
                }
            }
            () = tokio::time::sleep_until(look) => {
                let exhausted = asks >= ASKS_MAX;
                match tcp_info(&stream.get_ref().0) {
                    Ok(info) => {
                        let slack = if exhausted { KEEPALIVE_SLACK } else { Duration::ZERO };
                        heartbeats.heard(node, number, info.acknowledged_ago, info.round_trip.max(slack));
                    }
                    Err(error) => return Ended::Broke(error),
                }
                if !exhausted && (asks == 0 || asked.elapsed() >= heartbeats.period()) {
                    (asks, asked) = (asks + 1, Instant::now());
                    if let Err(ended) = write(stream, heartbeats, FrameKind::Ask, 0).await {
                        return ended;
                    }
                }
            }
        }
    }
}

async fn write(
    stream: &mut TlsStream<TcpStream>,
    heartbeats: &Heartbeats,
    kind: FrameKind,
    number: u32,
) -> Result<(), Ended> {
    let period_ms = u16::try_from(heartbeats.period().as_millis()).unwrap_or(u16::MAX);
    let frame = Frame { kind, period_ms, number };
    let writing = async {
        stream.write_all(&frame.encode()).await?;
        stream.flush().await
    };
    match tokio::time::timeout(WRITE_TIMEOUT, writing).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Ended::Broke(error)),
        Err(_) => Err(Ended::Ours("the agent takes no answers".to_owned())),
    }
}
