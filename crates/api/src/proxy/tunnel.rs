//! Tunnels: connections that agents opened, over which the server reaches them (docs/decisions/0011-joining.md).
//!
//! An agent upgrades `GET /klynge/v1/tunnel`; then the server speaks HTTP/2 on it as the client, and each CONNECT is one
//! connection to the kubelet's endpoints.

use super::{Connection, NodeConnector};
use crate::serve::{Answer, Context, respond};
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use object::Status;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub(crate) use client::{TUNNEL_PATH as PATH, TUNNEL_PROTOCOL as PROTOCOL};
/// A tunnel that does not answer a ping for this long is closed; the agent opens another.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Flow control windows: one stream cannot hold more than this in memory, nor all of them together.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const TUNNEL_WINDOW_BYTES: u32 = 8 << 20;
/// How long an agent may take to answer a CONNECT.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

type Sender = SendRequest<Empty<Bytes>>;

/// The tunnels of this server, by node.
#[derive(Default)]
pub(crate) struct Tunnels {
    open: Mutex<HashMap<String, (u64, Sender)>>,
}

impl Tunnels {
    /// Takes a node's tunnel; the former one of that node serves its streams to their ends and gets no new ones.
    fn set(&self, node: &str, sender: Sender) -> u64 {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let number = open.get(node).map_or(0, |(number, _)| number + 1);
        open.insert(node.to_owned(), (number, sender));
        number
    }

    /// Forgets a tunnel that ended, unless a newer one has taken its place.
    fn remove(&self, node: &str, number: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.get(node).is_some_and(|(known, _)| *known == number) {
            open.remove(node);
        }
    }

    /// Whether the node has a tunnel here.
    pub(crate) fn holds(&self, node: &str) -> bool {
        self.sender(node).is_some()
    }

    fn sender(&self, node: &str) -> Option<Sender> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(node).map(|(_, sender)| sender.clone()).filter(|sender| !sender.is_closed())
    }
}

#[async_trait]
impl NodeConnector for Tunnels {
    async fn connect(&self, node: &str) -> io::Result<Box<dyn Connection>> {
        let refused = |why: String| io::Error::new(io::ErrorKind::NotConnected, why);
        let Some(mut sender) = self.sender(node) else {
            return Err(refused(format!("node {node} is not connected to this server")));
        };
        let request = Request::connect("kubelet:10250").body(Empty::new()).map_err(io::Error::other)?;
        let opening = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        let response = tokio::time::timeout(CONNECT_TIMEOUT, opening)
            .await
            .map_err(|_| refused(format!("node {node} does not answer through its tunnel")))?
            .map_err(|error| refused(format!("the tunnel of node {node} broke: {error}")))?;
        if response.status() != StatusCode::OK {
            return Err(refused(format!("node {node} refuses more connections: {}", response.status())));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(io::Error::other)?;
        Ok(Box::new(TokioIo::new(upgraded)))
    }
}

/// Answers the upgrade of an agent's connection.
///
/// # Errors
/// For callers that are no nodes, and requests that are no such upgrade.
pub(crate) fn accept(context: &Context, mut request: Request<()>) -> Result<Response<Answer>, Status> {
    let Some(node) = context.user.as_node().map(str::to_owned) else {
        let message = format!("forbidden: User \"{}\" is no node, and only nodes open tunnels", context.user.name);
        return Err(Status::new(403, "Forbidden", message));
    };
    let wanted = request.headers().get(UPGRADE).and_then(|value| value.to_str().ok());
    if wanted != Some(PROTOCOL) {
        let offered = wanted.unwrap_or("none");
        return Err(Status::bad_request(format!(
            "this server's tunnel speaks {PROTOCOL}, the agent asked for {offered}: server and agent may differ by one minor release"
        )));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let (core, certificates) = (Arc::clone(&context.core), Arc::clone(&context.certificates));
    tokio::spawn(async move {
        let upgraded = match upgrade.await {
            Ok(upgraded) => upgraded,
            Err(error) => return tracing::debug!(%error, node, "a tunnel was not opened"),
        };
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(TUNNEL_WINDOW_BYTES);
        let (sender, connection) = match builder.handshake(upgraded).await {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, node, "a tunnel was not opened"),
        };
        let number = core.tunnels.set(&node, sender);
        tracing::info!(node, "tunnel open");
        let mut stopping = core.stopping.subscribe();
        tokio::select! {
            ended = connection => match ended {
                Ok(()) => tracing::info!(node, "tunnel closed"),
                Err(error) => tracing::info!(%error, node, "tunnel broken"),
            },
            () = core.until_removed(&certificates) => tracing::info!(node, "the tunnel of a removed node is closed"),
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
        core.tunnels.remove(&node, number);
    });
    let mut response = respond::answer(101, "text/plain", Answer::empty());
    response.headers_mut().insert(UPGRADE, http::HeaderValue::from_static(PROTOCOL));
    response.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("Upgrade"));
    Ok(response)
}
