//! The gRPC probe: grpc.health.v1.Health/Check over HTTP/2 without TLS, with the sentences of upstream's prober.

use bytes::Bytes;
use http::{HeaderMap, Request, Uri, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::time::Duration;
use tokio::net::TcpStream;

/// A connection that cannot be made is tried again after this, as upstream's client library does, until the probe's time is over.
const CONNECT_AGAIN_AFTER: Duration = Duration::from_secs(1);
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// The names of status codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
const UNKNOWN: usize = 2;
const DEADLINE_EXCEEDED: usize = 4;
const UNIMPLEMENTED: usize = 12;

/// What a server answered.
struct Answer {
    code: usize,
    message: String,
    body: Bytes,
}

/// Asks the service at `address` (`host:port`) for its health; SERVING is success.
pub(super) async fn check(address: &str, service: &str, within: Duration) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + within;
    let timeout = seconds(within);
    let connect = async {
        loop {
            if let Ok(socket) = TcpStream::connect(address).await {
                return socket;
            }
            tokio::time::sleep(CONNECT_AGAIN_AFTER).await;
        }
    };
    let unconnected =
        |_| format!("timeout: failed to connect service \"{address}\" within {timeout}: context deadline exceeded");
    let socket = tokio::time::timeout_at(deadline, connect).await.map_err(unconnected)?;
    let unanswered = || format!("timeout: health rpc did not complete within {timeout}");
    let answer = tokio::time::timeout_at(deadline, ask(socket, address, service)).await.map_err(|_| unanswered())??;
    judge(&answer).map_err(|failure| if answer.code == DEADLINE_EXCEEDED { unanswered() } else { failure })
}

fn judge(answer: &Answer) -> Result<(), String> {
    let message = &answer.message;
    match answer.code {
        0 => {}
        UNIMPLEMENTED => {
            return Err(format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
            ));
        }
        code => return Err(failed(code, message)),
    }
    // HealthCheckResponse { ServingStatus status = 1 }, behind five bytes of message head; what is not there is 0.
    let status = match answer.body.get(5..).unwrap_or_default() {
        [0x08, status, ..] => *status,
        _ => 0,
    };
    let name = match status {
        1 => return Ok(()),
        0 => "UNKNOWN".to_owned(),
        2 => "NOT_SERVING".to_owned(),
        3 => "SERVICE_UNKNOWN".to_owned(),
        other => other.to_string(),
    };
    Err(format!("service unhealthy (responded with \"{name}\")"))
}

fn failed(code: usize, message: &str) -> String {
    let name = CODES.get(code).map_or_else(|| format!("Code({code})"), |name| (*name).to_owned());
    format!("error: health rpc probe failed: rpc error: code = {name} desc = {message}")
}

async fn ask(socket: TcpStream, address: &str, service: &str) -> Result<Answer, String> {
    let broken = |error: hyper::Error| failed(14, &format!("connection error: {error}"));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.map_err(broken)?;
    let driver = Driver(tokio::spawn(connection));
    let uri: Uri =
        format!("http://{address}/grpc.health.v1.Health/Check").parse().map_err(|_| "invalid address".to_owned())?;
    let request = Request::post(uri)
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.37")
        .body(Full::new(Bytes::from(question(service)?)))
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let (status, head) = (response.status(), response.headers().clone());
    let collected = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| failed(13, &format!("the answer breaks off: {error}")))?;
    drop(driver);
    // An answer without a message has its status in the headers.
    let told = collected.trailers().and_then(code_of).or_else(|| code_of(&head));
    let (code, message) = told.unwrap_or_else(|| match status.as_u16() {
        200 => (13, "server closed the stream without sending trailers".to_owned()),
        number => {
            let code = match number {
                400 => 13,
                401 => 16,
                403 => 7,
                404 => UNIMPLEMENTED,
                429 | 502 | 503 | 504 => 14,
                _ => UNKNOWN,
            };
            let text = status.canonical_reason().unwrap_or_default();
            (code, format!("unexpected HTTP status code received from server: {number} ({text})"))
        }
    });
    Ok(Answer { code, message, body: collected.to_bytes() })
}

/// Ends the connection's task, also where the probe's time is over.
struct Driver<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// HealthCheckRequest { string service = 1 }, in a length-prefixed message.
fn question(service: &str) -> Result<Vec<u8>, String> {
    let mut message = Vec::new();
    if !service.is_empty() {
        let length = u8::try_from(service.len()).ok().filter(|length| *length < 128);
        let length = length.ok_or("the service name of a gRPC probe is longer than 127 bytes")?;
        message.extend_from_slice(&[0x0a, length]);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(0).to_be_bytes();
    Ok([&[0], length.as_slice(), &message].concat())
}

/// Code and message of a header block that has them.
fn code_of(headers: &HeaderMap) -> Option<(usize, String)> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status")?.parse().unwrap_or(UNKNOWN);
    Some((code, percent_decoded(text("grpc-message").unwrap_or_default())))
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::new(), 0);
    while let Some(&byte) = bytes.get(at) {
        let escaped =
            text.get(at + 1..at + 3).filter(|_| byte == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(escaped.unwrap_or(byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// As upstream writes a duration of whole seconds: `90` is `1m30s`.
fn seconds(duration: Duration) -> String {
    let (hours, minutes, rest) = (duration.as_secs() / 3600, duration.as_secs() / 60 % 60, duration.as_secs() % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use http::Response;
    use hyper::service::service_fn;
    use std::convert::Infallible;
    use tokio::net::TcpListener;

    /// Headers, HTTP status and message of an answer, and what comes of it.
    type Case = (&'static [(&'static str, &'static str)], u16, &'static [u8], Result<(), String>);

    /// A server that answers every call with these headers and this message.
    async fn server(headers: &'static [(&'static str, &'static str)], status: u16, message: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let answer = service_fn(move |request: Request<hyper::body::Incoming>| async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let asked = request.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(asked.get(5..), Some(b"\n\x03web".as_slice()));
                let mut response = Response::builder().status(status);
                for (name, value) in headers {
                    response = response.header(*name, *value);
                }
                Ok::<_, Infallible>(response.body(Full::new(Bytes::from_static(message))).unwrap())
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(socket), answer).await;
        });
        address
    }

    #[tokio::test]
    async fn answers_are_told_as_upstream_tells_them() {
        const OK: &[(&str, &str)] = &[("grpc-status", "0")];
        let unhealthy = |name: &str| format!("service unhealthy (responded with \"{name}\")");
        let cases: [Case; 8] = [
            (OK, 200, &[0, 0, 0, 0, 2, 8, 1], Ok(())),
            (OK, 200, &[0, 0, 0, 0, 2, 8, 2], Err(unhealthy("NOT_SERVING"))),
            (OK, 200, &[0, 0, 0, 0, 2, 8, 3], Err(unhealthy("SERVICE_UNKNOWN"))),
            (OK, 200, &[0, 0, 0, 0, 0], Err(unhealthy("UNKNOWN"))),
            (
                &[("grpc-status", "12"), ("grpc-message", "unknown service%3A Health")],
                200,
                &[],
                Err("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown service: Health".into()),
            ),
            (
                &[("grpc-status", "5"), ("grpc-message", "unknown service")],
                200,
                &[],
                Err("error: health rpc probe failed: rpc error: code = NotFound desc = unknown service".into()),
            ),
            (&[("grpc-status", "4")], 200, &[], Err("timeout: health rpc did not complete within 1m30s".into())),
            (
                &[],
                404,
                &[],
                Err("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unexpected HTTP status code received from server: 404 (Not Found)".into()),
            ),
        ];
        for (headers, status, message, expected) in cases {
            let address = server(headers, status, message).await;
            assert_eq!(check(&address, "web", Duration::from_secs(90)).await, expected);
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_or_does_not_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let within = Duration::from_secs(1);
        let silent = check(&address, "web", within).await;
        assert_eq!(silent.unwrap_err(), "timeout: health rpc did not complete within 1s");
        drop(listener);
        let refused = check(&address, "web", within).await;
        let expected = format!("timeout: failed to connect service \"{address}\" within 1s: context deadline exceeded");
        assert_eq!(refused.unwrap_err(), expected);
    }
}
