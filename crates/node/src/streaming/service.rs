//! The HTTP service: routes, upgrades, and answers. It serves any connection; who may connect is decided by whoever hands it one.

use super::backend::{Backend, ExecRequest};
use super::log_reader::{self, LogOptions};
use super::remote::{self, Remote};
use super::{port_channels, port_forward, process, websocket};
use crate::agent::Tasks;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::unfold;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::{SignedDuration, Timestamp};
use object::{Status, percent};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// How long a client may take to send a request's head, the time between two requests included.
const HEAD_WITHIN: Duration = Duration::from_secs(120);
/// How long a client may take to answer the end of its WebSocket.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Judges each request of a connection before it is looked at.
#[async_trait]
pub trait Gate: Send + Sync + 'static {
    /// Lets it pass, or gives the code and the sentence to refuse it with.
    async fn admit(&self, head: &Parts) -> Result<(), (StatusCode, String)>;
}

/// Serves one HTTP/1.1 connection, upgrades included, until it ends. Without a gate its client may do everything.
pub async fn serve(
    connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    gate: Option<Arc<dyn Gate>>,
    backend: Arc<dyn Backend>,
    tasks: Tasks,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (gate, backend, tasks) = (gate.clone(), Arc::clone(&backend), tasks.clone());
        async move {
            let (head, body) = request.into_parts();
            if let Some(gate) = gate
                && let Err((code, why)) = gate.admit(&head).await
            {
                return Ok::<_, Infallible>(plain(code, "text/plain; charset=utf-8", why));
            }
            Ok(route(Request::from_parts(head, body), backend, tasks).await)
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(connection), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the node's endpoints ended");
    }
}

fn plain(code: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// An error as a meta/v1 Status, which the API hands on and clients print the sentence of.
fn failed(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    plain(code, "application/json", object::json::encode(&status.to_value()))
}

struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent::decode_query(name), percent::decode_query(value))
        });
        Query(pairs.take(10_000).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    fn flag(&self, names: &[&str]) -> bool {
        names.iter().any(|name| matches!(self.get(name), Some("1" | "true" | "True" | "TRUE" | "t" | "T")))
    }
}

async fn route(request: Request<Incoming>, backend: Arc<dyn Backend>, tasks: Tasks) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let parts: Vec<String> = path.split('/').skip(1).map(percent::decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    // Commands may carry a pod's uid before the container: /exec/NAMESPACE/POD/UID/CONTAINER.
    match parts.as_slice() {
        ["healthz", ..] => plain(StatusCode::OK, "text/plain; charset=utf-8", "ok"),
        ["pods" | "runningpods"] | ["pods" | "runningpods", ""] => {
            plain(StatusCode::OK, "application/json", backend.pods().await.to_string())
        }
        ["stats", "summary"] => plain(StatusCode::OK, "application/json", backend.summary().await.to_string()),
        ["metrics", "resource"] => {
            plain(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", backend.resource_metrics().await)
        }
        ["metrics", ..] => plain(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", ""),
        ["containerLogs", namespace, pod, container] => logs(&backend, namespace, pod, container, &query).await,
        ["exec" | "attach", namespace, pod, container] | ["exec" | "attach", namespace, pod, _, container] => {
            let attach = parts[0] == "attach";
            command(request, backend, &tasks, [namespace, pod, container], &query, attach).await
        }
        ["run", namespace, pod, container] | ["run", namespace, pod, _, container]
            if request.method() == Method::POST =>
        {
            run(&backend, namespace, pod, container, &query).await
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
            forward(request, backend, &tasks, &query, namespace, pod)
        }
        _ => plain(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n"),
    }
}

async fn logs(
    backend: &Arc<dyn Backend>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Response<Body> {
    let options = match log_options(query, Timestamp::now()) {
        Ok(options) => options,
        Err(message) => return failed(&Status::new(422, "Invalid", message)),
    };
    let source = match backend.logs(namespace, pod, container, query.flag(&["previous"])).await {
        Ok(source) => source,
        Err(status) => return failed(&status),
    };
    let (sender, receiver) = mpsc::channel::<Bytes>(8);
    let name = format!("{namespace}/{pod}/{container}");
    tokio::task::spawn_blocking(move || {
        let read = log_reader::read(&source.directory, source.attempt, &options, &source.running, &sender);
        if let Err(error) = read {
            let message = format!("failed to open log of {name}: {error}\n");
            let _ = sender.blocking_send(message.into());
        }
    });
    let stream = unfold(receiver, |mut receiver| async move {
        let bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), receiver))
    });
    let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn log_options(query: &Query, now: Timestamp) -> Result<LogOptions, String> {
    let number = |name: &str| match query.get(name).filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => text
            .parse::<u64>()
            .map(Some)
            .map_err(|_| format!("{name}: {text:?} is not a whole number that is not negative")),
    };
    let since = match (query.get("sinceTime").filter(|text| !text.is_empty()), number("sinceSeconds")?) {
        (Some(text), _) => Some(text.parse().map_err(|_| format!("sinceTime: {text:?} is no RFC 3339 time"))?),
        (None, Some(seconds)) => now
            .checked_sub(SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX)))
            .ok()
            .or(Some(Timestamp::MIN)),
        (None, None) => None,
    };
    Ok(LogOptions {
        follow: query.flag(&["follow"]),
        tail_lines: number("tailLines")?,
        since,
        timestamps: query.flag(&["timestamps"]),
        limit_bytes: number("limitBytes")?,
        stream: query.get("stream").filter(|stream| *stream != "All").unwrap_or_default().to_owned(),
    })
}

/// What the client upgrades to.
enum Upgrade {
    Spdy(String),
    WebSocket { protocol: String, accept: String },
}

fn words<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty()).collect()
}

fn negotiate(headers: &HeaderMap, spdy: &[&str], websocket: &[&str]) -> Result<Upgrade, Response<Body>> {
    let bad = |message: String| failed(&Status::bad_request(message));
    let forbidden = |message: String| failed(&Status::new(403, "Forbidden", message));
    let upgrades = words(headers, "upgrade");
    if upgrades.iter().any(|word| word.eq_ignore_ascii_case("websocket")) {
        let offered = words(headers, "sec-websocket-protocol");
        let protocol = if offered.is_empty() && websocket.contains(&"") {
            ""
        } else {
            match offered.iter().find(|word| websocket.contains(word)) {
                Some(word) => *word,
                None => {
                    return Err(bad(format!(
                        "unable to negotiate a WebSocket subprotocol: the client offers {offered:?}, the server speaks {websocket:?}"
                    )));
                }
            }
        };
        let Some(key) = headers.get("sec-websocket-key") else {
            return Err(bad("Sec-WebSocket-Key is missing".into()));
        };
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        return Ok(Upgrade::WebSocket { protocol: protocol.to_owned(), accept });
    }
    if upgrades.iter().any(|word| word.eq_ignore_ascii_case("spdy/3.1")) {
        let offered = words(headers, "x-stream-protocol-version");
        // A client that names no protocol is one from before there were versions: the oldest is meant.
        let found = if offered.is_empty() {
            spdy.last().copied()
        } else {
            offered.iter().copied().find(|word| spdy.contains(word))
        };
        return match found {
            Some(protocol) => Ok(Upgrade::Spdy(protocol.to_owned())),
            None => Err(forbidden(format!(
                "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {spdy:?}"
            ))),
        };
    }
    Err(bad(
        "you must specify at least 1 of stdin, stdout, stderr, and upgrade the connection to SPDY/3.1 or WebSocket"
            .into(),
    ))
}

fn switching(upgrade: &Upgrade) -> Response<Body> {
    let mut response = plain(StatusCode::SWITCHING_PROTOCOLS, "text/plain", Bytes::new());
    let headers = response.headers_mut();
    headers.remove(CONTENT_TYPE);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let mut put = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    match upgrade {
        Upgrade::Spdy(protocol) => {
            put("upgrade", "SPDY/3.1");
            put("x-stream-protocol-version", protocol);
        }
        Upgrade::WebSocket { protocol, accept } => {
            put("upgrade", "websocket");
            put("sec-websocket-accept", accept);
            if !protocol.is_empty() {
                put("sec-websocket-protocol", protocol);
            }
        }
    }
    response
}

fn exec_request(query: &Query, attach: bool) -> Result<ExecRequest, String> {
    let tty = query.flag(&["tty"]);
    let request = ExecRequest {
        command: query.0.iter().filter(|(name, _)| name == "command").map(|(_, value)| value.clone()).collect(),
        tty,
        stdin: query.flag(&["input", "stdin"]),
        stdout: query.flag(&["output", "stdout"]),
        stderr: query.flag(&["error", "stderr"]) && !tty,
        close_stdin: false,
    };
    if !(request.stdin || request.stdout || request.stderr) {
        return Err("you must specify at least 1 of stdin, stdout, stderr".into());
    }
    if !attach && request.command.is_empty() {
        return Err("you must specify at least 1 command for the container".into());
    }
    Ok(request)
}

async fn command(
    mut request: Request<Incoming>,
    backend: Arc<dyn Backend>,
    tasks: &Tasks,
    [namespace, pod, container]: [&str; 3],
    query: &Query,
    attach: bool,
) -> Response<Body> {
    let wanted = match exec_request(query, attach) {
        Ok(wanted) => wanted,
        Err(message) => return failed(&Status::bad_request(message)),
    };
    let upgrade = match negotiate(request.headers(), &remote::PROTOCOLS, &websocket::PROTOCOLS) {
        Ok(upgrade) => upgrade,
        Err(response) => return response,
    };
    let process = if attach {
        backend.attach(namespace, pod, container, wanted.clone()).await
    } else {
        backend.exec(namespace, pod, container, wanted.clone()).await
    };
    // A container that is not there is told as an HTTP answer; a command that does not start as the stream's status.
    let process = match process {
        Ok(process) => Ok(process),
        Err(status) if matches!(status.code, 400 | 404) => return failed(&status),
        Err(status) => Err(status.message),
    };
    let response = switching(&upgrade);
    let upgraded = hyper::upgrade::on(&mut request);
    tasks.spawn(async move {
        let connection = match upgraded.await {
            Ok(connection) => TokioIo::new(connection),
            Err(error) => return tracing::debug!(%error, "a client left during its upgrade"),
        };
        let remote: Result<Remote, String> = match upgrade {
            Upgrade::Spdy(protocol) => remote::over_spdy(connection, &wanted, &protocol).await,
            Upgrade::WebSocket { protocol, .. } => {
                let lowest = if wanted.stdout {
                    1
                } else if wanted.stderr {
                    2
                } else {
                    3
                };
                Ok(websocket::remote(connection, &protocol, Some(lowest)).await)
            }
        };
        match (process, remote) {
            (Ok(process), Ok(remote)) => process::join(process, remote).await,
            (Err(message), Ok(remote)) => process::refuse(&message, remote).await,
            (_, Err(message)) => tracing::debug!(message, "a remote command ended before it began"),
        }
    });
    response
}

/// /run: a command without input whose output is the answer.
async fn run(backend: &Arc<dyn Backend>, namespace: &str, pod: &str, container: &str, query: &Query) -> Response<Body> {
    use tokio::io::AsyncReadExt;
    const OUTPUT_BYTES_MAX: u64 = 16 << 20;
    let command: Vec<String> = query.get("cmd").unwrap_or_default().split(' ').map(str::to_owned).collect();
    let wanted = ExecRequest { command, stdout: true, stderr: true, ..ExecRequest::default() };
    match backend.exec(namespace, pod, container, wanted).await {
        Err(status) => failed(&status),
        Ok(process) => {
            let read = |reader: Option<Box<dyn AsyncRead + Send + Unpin>>| async move {
                let mut bytes = Vec::new();
                if let Some(reader) = reader {
                    let _ = reader.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes).await;
                }
                bytes
            };
            let (out, error, exit) = tokio::join!(read(process.stdout), read(process.stderr), process.exit);
            let code = if exit == Ok(0) { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
            plain(code, "text/plain; charset=utf-8", [out, error].concat())
        }
    }
}

fn forward(
    mut request: Request<Incoming>,
    backend: Arc<dyn Backend>,
    tasks: &Tasks,
    query: &Query,
    namespace: &str,
    pod: &str,
) -> Response<Body> {
    let spoken = [&[websocket::TUNNEL][..], &port_channels::PROTOCOLS].concat();
    let upgrade = match negotiate(request.headers(), &[port_forward::PROTOCOL], &spoken) {
        Ok(upgrade) => upgrade,
        Err(response) => return response,
    };
    let mut ports = Vec::new();
    if let Upgrade::WebSocket { protocol, .. } = &upgrade
        && protocol != websocket::TUNNEL
    {
        // The API has them as `ports`, the kubelet as `port`.
        let given = query.0.iter().filter(|(name, _)| name == "port" || name == "ports");
        ports = match port_channels::ports(given.map(|(_, value)| value.as_str()), protocol) {
            Ok(ports) => ports,
            Err(why) => return failed(&Status::bad_request(why)),
        };
    }
    let response = switching(&upgrade);
    let upgraded = hyper::upgrade::on(&mut request);
    let (namespace, pod) = (namespace.to_owned(), pod.to_owned());
    tasks.spawn(async move {
        let connection = match upgraded.await {
            Ok(connection) => TokioIo::new(connection),
            Err(error) => return tracing::debug!(%error, "a client left during its upgrade"),
        };
        match upgrade {
            Upgrade::Spdy(_) => port_forward::serve(connection, backend, namespace, pod).await,
            Upgrade::WebSocket { protocol, .. } if protocol != websocket::TUNNEL => {
                port_channels::serve(connection, &protocol, ports, backend, namespace, pod).await;
            }
            Upgrade::WebSocket { .. } => {
                let (inner, mut helpers) = websocket::tunnel(connection).await;
                port_forward::serve(inner, backend, namespace, pod).await;
                // What is still on its way to the client goes out first; a client that does not answer is left.
                let _ =
                    tokio::time::timeout(CLOSE_WITHIN, async { while helpers.join_next().await.is_some() {} }).await;
            }
        }
    });
    response
}
