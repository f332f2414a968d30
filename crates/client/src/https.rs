//! The cluster over HTTPS: one HTTP/2 connection, opened when needed and opened again when it broke.

use crate::clock;
use crate::kubeconfig::Endpoint;
use crate::path;
use crate::request::{
    ClusterClient, DeleteOptions, EventKind, Object, Page, Query, Request, Target, Verb, WatchEvent, WatchStream,
};
use crate::tls;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{Method, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use object::{Map, Status, Value, json};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use std::os::fd::AsFd as _;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, watch};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longer answers than this to a single call are refused.
const ANSWER_BYTES_MAX: usize = 512 * 1024 * 1024;
/// A watch event may be this long.
const EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The reason of a 401 for the key of a node that was removed from the cluster: it is told from all others, which may pass.
pub const NODE_REMOVED: &str = "NodeRemoved";
/// How long the handshake may take once the connection is there.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A client for one endpoint and one identity.
pub struct Https {
    endpoint: Endpoint,
    clock: Arc<dyn TimeProvider>,
    tls: RwLock<Tls>,
    connection: Mutex<Option<Connected>>,
    /// What the server said where it takes this identity for a removed node's.
    removed: watch::Sender<Option<Status>>,
}

/// The connection of the moment, and its socket once more, by which it is broken: what drives HTTP/2 lives as long as its streams.
struct Connected {
    sender: SendRequest<Full<Bytes>>,
    socket: std::net::TcpStream,
}

/// What the client proves itself with, for each protocol.
struct Tls {
    http2: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
}

impl Tls {
    fn new(endpoint: &Endpoint, time: &Arc<dyn TimeProvider>) -> Result<Self, String> {
        Ok(Tls { http2: tls::config(endpoint, b"h2", time)?, http1: tls::config(endpoint, b"http/1.1", time)? })
    }
}

impl Https {
    /// Prepares the client; nothing is connected yet.
    ///
    /// # Errors
    /// A sentence, when the certificates of the endpoint cannot be used.
    pub fn new(endpoint: Endpoint) -> Result<Self, String> {
        Self::with_clock(endpoint, Arc::new(DefaultTimeProvider))
    }

    /// The same by another clock than the system's, which is how a machine whose clock is wrong is tried out.
    ///
    /// # Errors
    /// As [`Https::new`].
    pub fn with_clock(endpoint: Endpoint, clock: Arc<dyn TimeProvider>) -> Result<Self, String> {
        let tls = RwLock::new(Tls::new(&endpoint, &clock)?);
        Ok(Https { endpoint, clock, tls, connection: Mutex::new(None), removed: watch::channel(None).0 })
    }

    /// Goes on under another certificate of the same identity; requests that are under way end on the old connection.
    ///
    /// # Errors
    /// A sentence, when the certificate cannot be used; the old one stays.
    pub async fn renew_certificate(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), String> {
        let endpoint = Endpoint {
            host: self.endpoint.host.clone(),
            port: self.endpoint.port,
            authorities: self.endpoint.authorities.clone(),
            certificate: Some((chain, key)),
            token: None,
            pin: self.endpoint.pin.clone(),
        };
        let tls = Tls::new(&endpoint, &self.clock)?;
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = tls;
        *self.connection.lock().await = None;
        Ok(())
    }

    /// Breaks the connection, and every watch on it, so that they begin anew at once. For whoever knows that the way to the
    /// server was cut: the kernel would wait for its next retransmission, which takes about as long as the cut did.
    pub fn reconnect(&self) {
        // While another request connects, there is nothing to break.
        if let Ok(mut slot) = self.connection.try_lock()
            && let Some(connected) = slot.take()
        {
            // One that is broken already is as good.
            let _ = connected.socket.shutdown(std::net::Shutdown::Both);
        }
    }

    /// A connection of its own that speaks another protocol after a GET of `path` with `Upgrade: protocol`.
    ///
    /// # Errors
    /// The server's Status where it refuses, or 503 where it cannot be reached.
    pub async fn upgrade(&self, path: &str, protocol: &'static str) -> Result<TokioIo<Upgraded>, Status> {
        let config = Arc::clone(&self.tls.read().unwrap_or_else(PoisonError::into_inner).http1);
        let stream = self.stream(config).await?;
        let failed = |error: &dyn std::fmt::Display| Status::unavailable(format!("the server did not answer: {error}"));
        let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        tokio::spawn(async move {
            // Its error shows on the upgraded stream.
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "an upgraded connection ended");
            }
        });
        let host = format!("{}:{}", bracketed(&self.endpoint.host), self.endpoint.port);
        let request = http::Request::get(path)
            .header(header::HOST, host)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, protocol)
            .header(header::USER_AGENT, concat!("klynge/", env!("CARGO_PKG_VERSION")))
            .body(Full::default())
            .map_err(Status::internal)?;
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.refusal(response).await);
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| failed(&error))?;
        Ok(TokioIo::new(upgraded))
    }

    async fn stream(&self, config: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, Status> {
        let (host, port) = (&self.endpoint.host, self.endpoint.port);
        let refused = |what: &str, error: &dyn std::fmt::Display| {
            Status::unavailable(format!(
                "cannot {what} the server at {host}:{port}: {error}; is it running? try `klynge up`"
            ))
        };
        let stream = dial::connect(host, port).await.map_err(|error| refused("reach", &error))?;
        let name = ServerName::try_from(host.clone()).map_err(|error| refused("name", &error))?;
        let connecting = TlsConnector::from(config).connect(name, stream);
        let opened = tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await;
        match opened.map_err(|late| refused("talk TLS with", &late))? {
            Ok(stream) => Ok(stream),
            Err(error) => {
                let explained = clock::explain(&self.endpoint, &*self.clock, &error).await;
                Err(explained.unwrap_or_else(|| refused("talk TLS with", &error)))
            }
        }
    }

    async fn connect(&self) -> Result<Connected, Status> {
        let config = Arc::clone(&self.tls.read().unwrap_or_else(PoisonError::into_inner).http2);
        let stream = self.stream(config).await?;
        let socket = stream.get_ref().0.as_fd().try_clone_to_owned();
        let socket = std::net::TcpStream::from(socket.map_err(|error| Status::unavailable(error.to_string()))?);
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| Status::unavailable(format!("cannot talk HTTP/2 with the server: {error}")))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the API server ended");
            }
        });
        Ok(Connected { sender, socket })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        media_type: &str,
        body: Bytes,
    ) -> Result<http::Response<Incoming>, Status> {
        let mut sender = {
            let mut slot = self.connection.lock().await;
            match slot.as_ref().filter(|connected| !connected.sender.is_closed()) {
                Some(connected) => connected.sender.clone(),
                None => slot.insert(self.connect().await?).sender.clone(),
            }
        };
        let uri = format!("https://{}:{}{path}", bracketed(&self.endpoint.host), self.endpoint.port);
        let mut request = http::Request::builder().method(method).uri(uri).header(header::ACCEPT, "application/json");
        request = request.header(header::USER_AGENT, concat!("klynge/", env!("CARGO_PKG_VERSION")));
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, media_type);
        }
        if let Some(token) = &self.endpoint.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).map_err(Status::internal)?;
        let response = sender.send_request(request).await;
        let response =
            response.map_err(|error| Status::unavailable(format!("the API server did not answer: {error}")))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refusal(response).await)
    }

    /// The Status of an answer that is none of success.
    async fn refusal(&self, response: http::Response<Incoming>) -> Status {
        let status = refusal(response).await;
        if status.code == 401 && status.reason == NODE_REMOVED {
            self.removed.send_replace(Some(status.clone()));
        }
        status
    }

    /// What the server says once it refuses this identity because its node was removed from the cluster.
    #[must_use]
    pub fn removed(&self) -> watch::Receiver<Option<Status>> {
        self.removed.subscribe()
    }

    async fn answer(&self, method: Method, path: &str, media_type: &str, body: Bytes) -> Result<Bytes, Status> {
        whole(self.send(method, path, media_type, body).await?.into_body()).await
    }

    /// The answer to a GET of any path, such as `/readyz`.
    ///
    /// # Errors
    /// The server's Status, or 503 where it cannot be reached.
    pub async fn get_path(&self, path: &str) -> Result<Bytes, Status> {
        self.answer(Method::GET, path, "", Bytes::new()).await
    }
}

/// The Status of an answer that is none of success.
async fn refusal(response: http::Response<Incoming>) -> Status {
    let code = response.status().as_u16();
    let body = match whole(response.into_body()).await {
        Ok(body) => body,
        Err(status) => return status,
    };
    match json::decode(&body, &json::Limits::default()) {
        Ok(decoded) if decoded.value.str_at(&["kind"]) == Some("Status") => Status::from_value(&decoded.value),
        _ => Status::new(code, "Unknown", String::from_utf8_lossy(&body).trim().to_owned()),
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

async fn whole(mut body: Incoming) -> Result<Bytes, Status> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::unavailable(format!("the answer broke off: {error}")))?;
        if let Some(data) = frame.data_ref() {
            if bytes.len() + data.len() > ANSWER_BYTES_MAX {
                return Err(Status::internal(format!("the answer is longer than {ANSWER_BYTES_MAX} bytes; page it")));
            }
            bytes.extend_from_slice(data);
        }
    }
    Ok(bytes.freeze())
}

fn decode(bytes: &[u8]) -> Result<Value, Status> {
    let decoded = json::decode(bytes, &json::Limits::default());
    decoded
        .map(|decoded| decoded.value)
        .map_err(|error| Status::internal(format!("the answer does not parse: {error}")))
}

fn revision_of(value: &Value) -> u64 {
    value.str_at(&["metadata", "resourceVersion"]).and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn delete_body(options: &DeleteOptions) -> Value {
    let mut body = Map::new();
    body.insert("apiVersion", "v1");
    body.insert("kind", "DeleteOptions");
    if let Some(seconds) = options.grace_period_seconds {
        body.insert("gracePeriodSeconds", seconds);
    }
    if let Some(deletion) = options.propagation {
        body.insert("propagationPolicy", path::propagation(deletion));
    }
    if options.dry_run {
        body.insert("dryRun", vec![Value::from("All")]);
    }
    let mut preconditions = Map::new();
    for (key, text) in [("uid", &options.uid), ("resourceVersion", &options.resource_version)] {
        if !text.is_empty() {
            preconditions.insert(key, text.clone());
        }
    }
    if !preconditions.is_empty() {
        body.insert("preconditions", preconditions);
    }
    Value::Object(body)
}

#[async_trait]
impl ClusterClient for Https {
    async fn call(&self, request: Request) -> Result<Object, Status> {
        let place = path::path(&request.target);
        let json_type = "application/json";
        let body = |value: &Value| Bytes::from(json::encode(value));
        let bytes = match &request.verb {
            Verb::Get => self.answer(Method::GET, &place, json_type, Bytes::new()).await?,
            Verb::Create(object, options) => {
                self.answer(Method::POST, &(place + &path::write(options)), json_type, body(object)).await?
            }
            Verb::Update(object, options) => {
                self.answer(Method::PUT, &(place + &path::write(options)), json_type, body(object)).await?
            }
            Verb::Patch(kind, patch, options) => {
                let place = place + &path::write(options);
                self.answer(Method::PATCH, &place, path::media_type(*kind), body(patch)).await?
            }
            Verb::Delete(options) => {
                self.answer(Method::DELETE, &place, json_type, body(&delete_body(options))).await?
            }
        };
        let revision = revision_of(&decode(&bytes)?);
        Ok(Object { revision, json: bytes, shared: None })
    }

    async fn list(&self, target: Target, query: Query) -> Result<Page, Status> {
        let place = path::path(&target) + &path::collection(&query, None);
        let list = decode(&self.answer(Method::GET, &place, "", Bytes::new()).await?)?;
        let (kind, version) =
            (list.str_at(&["kind"]).unwrap_or_default(), list.str_at(&["apiVersion"]).unwrap_or_default());
        let item_kind = kind.strip_suffix("List").unwrap_or(kind);
        let items = list.get("items").and_then(Value::as_array).unwrap_or_default();
        let objects = items.iter().map(|item| {
            let mut item = item.clone();
            item.set(&["kind"], item_kind.into()); // items of typed lists carry neither
            item.set(&["apiVersion"], version.into());
            Object { revision: revision_of(&item), json: json::encode(&item).into(), shared: None }
        });
        Ok(Page {
            objects: objects.collect(),
            revision: revision_of(&list),
            continuation: list.str_at(&["metadata", "continue"]).unwrap_or_default().to_owned(),
        })
    }

    async fn watch(&self, target: Target, query: Query, revision: u64) -> Result<WatchStream, Status> {
        let place = path::path(&target) + &path::collection(&query, Some(revision));
        let body = self.send(Method::GET, &place, "", Bytes::new()).await?.into_body();
        let state = Some((body, BytesMut::new()));
        Ok(Box::pin(stream::unfold(state, |state| async move {
            let (mut body, mut buffer) = state?;
            loop {
                if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                    let line = buffer.split_to(end + 1);
                    let event = parse_event(&line);
                    let rest = event.is_ok().then_some((body, buffer));
                    return Some((event, rest));
                }
                if buffer.len() > EVENT_BYTES_MAX {
                    return Some((Err(Status::internal("a watch event is too long")), None));
                }
                match body.frame().await? {
                    Ok(frame) => buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data.as_ref())),
                    Err(error) => {
                        return Some((Err(Status::unavailable(format!("the watch broke off: {error}"))), None));
                    }
                }
            }
        })))
    }

    fn acting_as(&self, _: &str, _: &[&str]) -> Option<Arc<dyn ClusterClient>> {
        None
    }
}

fn parse_event(line: &[u8]) -> Result<WatchEvent, Status> {
    let event = decode(line)?;
    let object = event.get("object").cloned().unwrap_or_default();
    let kind = match event.str_at(&["type"]).unwrap_or_default() {
        "ADDED" => EventKind::Added,
        "MODIFIED" => EventKind::Modified,
        "DELETED" => EventKind::Deleted,
        "BOOKMARK" => EventKind::Bookmark,
        _ => return Err(Status::from_value(&object)),
    };
    Ok(WatchEvent {
        kind,
        object: Object { revision: revision_of(&object), json: json::encode(&object).into(), shared: None },
    })
}
