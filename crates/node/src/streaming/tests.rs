//! The endpoints against clients: our frames from the other side for SPDY, tungstenite's client for WebSocket, real processes behind.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use super::backend::{Backend, ExecRequest, LogSource, Process, Size};
use super::spdy::{Frame, FrameDecoder, FrameEncoder};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use object::{GroupVersionResource, Status};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

/// What upgraded connections do outlives the request; here it outlives the test.
static TASKS: std::sync::LazyLock<crate::agent::Tasks> = std::sync::LazyLock::new(Default::default);

struct Local {
    logs: tempfile::TempDir,
    sizes: Arc<Mutex<Vec<Size>>>,
}

impl Local {
    fn start() -> (Arc<Self>, impl Fn() -> DuplexStream) {
        let local = Arc::new(Local { logs: tempfile::tempdir().unwrap(), sizes: Arc::default() });
        let backend = Arc::clone(&local);
        let connect = move || {
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            tokio::spawn(super::serve(theirs, None, Arc::clone(&backend) as Arc<dyn Backend>, TASKS.clone()));
            ours
        };
        (local, connect)
    }
}

#[async_trait]
impl Backend for Local {
    async fn logs(&self, _: &str, pod: &str, _: &str, _: bool) -> Result<LogSource, Status> {
        if pod != "p" {
            return Err(Status::not_found(&GroupVersionResource::new("", "v1", "pods"), pod));
        }
        Ok(LogSource { directory: self.logs.path().to_owned(), attempt: 0, running: watch::channel(false).1 })
    }

    async fn exec(&self, _: &str, _: &str, _: &str, request: ExecRequest) -> Result<Process, Status> {
        use std::process::Stdio;
        let piped = |wanted: bool| if wanted { Stdio::piped() } else { Stdio::null() };
        let mut child = tokio::process::Command::new(&request.command[0])
            .args(&request.command[1..])
            .stdin(piped(request.stdin))
            .stdout(piped(request.stdout))
            .stderr(piped(request.stderr))
            .spawn()
            .map_err(Status::internal)?;
        let (resize, mut sizes) = mpsc::channel(4);
        let seen = Arc::clone(&self.sizes);
        tokio::spawn(async move {
            while let Some(size) = sizes.recv().await {
                seen.lock().unwrap().push(size);
            }
        });
        Ok(Process {
            stdin: child.stdin.take().map(|stdin| Box::new(stdin) as Box<dyn AsyncWrite + Send + Unpin>),
            stdout: child.stdout.take().map(|stdout| Box::new(stdout) as Box<dyn AsyncRead + Send + Unpin>),
            stderr: child.stderr.take().map(|stderr| Box::new(stderr) as Box<dyn AsyncRead + Send + Unpin>),
            resize: Some(resize),
            exit: Box::pin(async move { Ok(child.wait().await.unwrap().code().unwrap_or(-1)) }),
        })
    }

    async fn attach(&self, n: &str, p: &str, c: &str, mut request: ExecRequest) -> Result<Process, Status> {
        request.command = vec!["cat".into()];
        self.exec(n, p, c, request).await
    }

    async fn connect(&self, _: &str, _: &str, port: u16) -> Result<TcpStream, String> {
        TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())
    }

    async fn pods(&self) -> serde_json::Value {
        serde_json::json!({"kind": "PodList", "items": []})
    }

    async fn summary(&self) -> serde_json::Value {
        serde_json::json!({})
    }

    async fn resource_metrics(&self) -> String {
        String::new()
    }
}

/// A SPDY client as small as one can be.
struct Client<S> {
    connection: S,
    encoder: FrameEncoder,
    decoder: FrameDecoder,
    buffer: BytesMut,
    next: u32,
    kinds: BTreeMap<u32, String>,
    got: BTreeMap<String, Vec<u8>>,
    finished: Vec<String>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    fn over(connection: S) -> Self {
        Client {
            connection,
            encoder: FrameEncoder::default(),
            decoder: FrameDecoder::default(),
            buffer: BytesMut::new(),
            next: 1,
            kinds: BTreeMap::new(),
            got: BTreeMap::new(),
            finished: Vec::new(),
        }
    }

    async fn send(&mut self, frame: Frame) {
        let mut bytes = BytesMut::new();
        self.encoder.encode(&frame, &mut bytes).unwrap();
        self.connection.write_all(&bytes).await.unwrap();
    }

    async fn open(&mut self, kind: &str, more: &[(&str, String)]) -> u32 {
        let stream = self.next;
        self.next += 2;
        let mut headers = vec![("Streamtype".to_owned(), kind.to_owned())];
        headers.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        self.kinds.insert(stream, format!("{kind}{}", more.iter().map(|(_, v)| format!("-{v}")).collect::<String>()));
        self.send(Frame::SynStream { stream, fin: false, unidirectional: false, headers }).await;
        stream
    }

    /// Reads until `done` says so or the server ends the connection.
    async fn read_until(&mut self, done: impl Fn(&Self) -> bool) {
        let all = async {
            while !done(self) {
                match self.decoder.decode(&mut self.buffer).unwrap() {
                    Some(Frame::Data { stream, fin, data }) => {
                        let kind = self.kinds[&stream].clone();
                        self.got.entry(kind.clone()).or_default().extend_from_slice(&data);
                        if fin {
                            self.finished.push(kind);
                        }
                    }
                    Some(_) => {}
                    None => {
                        if self.connection.read_buf(&mut self.buffer).await.unwrap() == 0 {
                            return;
                        }
                    }
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
    }

    fn text(&self, kind: &str) -> String {
        String::from_utf8(self.got.get(kind).cloned().unwrap_or_default()).unwrap()
    }
}

/// Sends a request head and returns the answer's head; what comes after it is left in the connection.
async fn ask(connection: &mut DuplexStream, head: &str) -> String {
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(connection.read_u8().await.unwrap());
    }
    String::from_utf8(answer).unwrap().to_ascii_lowercase()
}

fn upgrade(path: &str, protocols: &[&str]) -> String {
    let versions: String =
        protocols.iter().map(|protocol| format!("X-Stream-Protocol-Version: {protocol}\r\n")).collect();
    format!(
        "POST {path} HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n{versions}Content-Length: 0\r\n\r\n"
    )
}

#[tokio::test]
async fn exec_over_spdy_gives_streams_half_close_and_exit_code() {
    let (_local, connect) = Local::start();
    let mut connection = connect();
    let path = "/exec/d/p/c?command=sh&command=-c&command=cat%3B+echo+bad+%3E%262%3B+exit+3&input=1&output=1&error=1";
    let head =
        ask(&mut connection, &upgrade(path, &["v4.channel.k8s.io", "v3.channel.k8s.io", "channel.k8s.io"])).await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("x-stream-protocol-version: v4.channel.k8s.io"), "{head}");
    let mut client = Client::over(connection);
    for kind in ["error", "stdout", "stderr"] {
        client.open(kind, &[]).await;
    }
    let stdin = client.open("stdin", &[]).await;
    let big = Bytes::from(vec![b'x'; 300_000]);
    client.send(Frame::Data { stream: stdin, fin: false, data: "hello ".into() }).await;
    // The echo comes back while we still write: both directions have to move.
    let (read, mut write) = tokio::io::split(client.connection);
    let mut bytes = BytesMut::new();
    client.encoder.encode(&Frame::Data { stream: stdin, fin: true, data: big.clone() }, &mut bytes).unwrap();
    let writing = tokio::spawn(async move {
        write.write_all(&bytes).await.unwrap();
        write
    });
    let mut reading = Client {
        connection: tokio::io::join(read, tokio::io::sink()),
        encoder: client.encoder,
        decoder: client.decoder,
        buffer: client.buffer,
        next: client.next,
        kinds: client.kinds,
        got: client.got,
        finished: client.finished,
    };
    reading.read_until(|_| false).await;
    writing.await.unwrap();
    assert_eq!(reading.got["stdout"].len(), 6 + big.len());
    assert_eq!(reading.text("stderr"), "bad\n");
    let status: serde_json::Value = serde_json::from_str(&reading.text("error")).unwrap();
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0], serde_json::json!({"reason": "ExitCode", "message": "3"}));
    assert_eq!(status["message"], "command terminated with non-zero exit code: exit status 3");
    assert_eq!(reading.finished.len(), 3);
}

#[tokio::test]
async fn old_protocols_get_a_sentence_and_terminals_their_size() {
    let (local, connect) = Local::start();
    let mut connection = connect();
    let path = "/exec/d/p/c?command=sh&command=-c&command=read+x%3B+exit+2&input=1&output=1&tty=1&error=1";
    let head = ask(&mut connection, &upgrade(path, &["v3.channel.k8s.io"])).await;
    assert!(head.contains("v3.channel.k8s.io"), "{head}");
    let mut client = Client::over(connection);
    let resize = {
        client.open("error", &[]).await;
        client.open("stdout", &[]).await;
        client.open("resize", &[]).await
    };
    let stdin = client.open("stdin", &[]).await;
    client.send(Frame::Data { stream: resize, fin: false, data: "{\"Width\":80,".into() }).await;
    client
        .send(Frame::Data { stream: resize, fin: false, data: "\"Height\":24}\n{\"Width\":100,\"Height\":30}".into() })
        .await;
    let seen = || local.sizes.lock().unwrap().len() == 2;
    for _ in 0..1000 {
        if seen() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(local.sizes.lock().unwrap()[1], Size { width: 100, height: 30 });
    client.send(Frame::Data { stream: stdin, fin: false, data: "x\n".into() }).await;
    client.read_until(|_| false).await;
    assert_eq!(client.text("error"), "command terminated with non-zero exit code: exit status 2");
}

#[tokio::test]
async fn port_forward_over_spdy_and_through_a_websocket() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut text = String::new();
                socket.read_to_string(&mut text).await.unwrap();
                socket.write_all(format!("echo {text}").as_bytes()).await.unwrap();
            });
        }
    });
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = closed.local_addr().unwrap().port();
    drop(closed);
    async fn talk<S: AsyncRead + AsyncWrite + Unpin>(connection: S, port: u16, refused: u16) {
        let mut client = Client::over(connection);
        for request in 0..2 {
            let more = |port: u16| [("Port", port.to_string()), ("Requestid", request.to_string())];
            let port = if request == 0 { port } else { refused };
            let error = client.open("error", &more(port)).await;
            client.send(Frame::Data { stream: error, fin: true, data: Bytes::new() }).await;
            let data = client.open("data", &more(port)).await;
            client.send(Frame::Data { stream: data, fin: true, data: "hi".into() }).await;
        }
        client.read_until(|client| client.finished.len() == 4).await;
        assert_eq!(client.text(&format!("data-{port}-0")), "echo hi");
        assert_eq!(client.text(&format!("error-{port}-0")), "");
        let failure = client.text(&format!("error-{refused}-1"));
        assert!(failure.starts_with(&format!("error forwarding port {refused} to pod d/p: ")), "{failure}");
    }
    let (_local, connect) = Local::start();
    let mut plain = connect();
    let head = ask(&mut plain, &upgrade("/portForward/d/p", &["portforward.k8s.io"])).await;
    assert!(head.contains("x-stream-protocol-version: portforward.k8s.io"), "{head}");
    talk(plain, port, refused).await;

    let mut request = "ws://node/portForward/d/p".into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "SPDY/3.1+portforward.k8s.io".parse().unwrap());
    let (socket, response) = tokio_tungstenite::client_async(request, connect()).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "SPDY/3.1+portforward.k8s.io");
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let (mut sink, mut stream) = socket.split();
    let (mut read, mut write) = tokio::io::split(theirs);
    tokio::spawn(async move {
        let mut buffer = vec![0; 1000];
        while let Ok(count) = read.read(&mut buffer).await {
            if count == 0 || sink.send(Message::binary(buffer[..count].to_vec())).await.is_err() {
                break;
            }
        }
    });
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Binary(bytes) = message {
                write.write_all(&bytes).await.unwrap();
            }
        }
    });
    talk(ours, port, refused).await;
}

#[tokio::test]
async fn exec_over_websocket_in_its_versions() {
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io"] {
        let (_local, connect) = Local::start();
        let v5 = protocol.starts_with("v5");
        let base64 = protocol.contains("base64");
        // Only v5 can close its input; the others end by a line.
        let script = if v5 { "cat; exit 7" } else { "read x; echo $x; exit 7" }.replace(' ', "+").replace(';', "%3B");
        let path =
            format!("ws://node/exec/d/p/c?command=sh&command=-c&command={script}&stdin=true&stdout=true&stderr=true");
        let mut request = path.into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol.parse().unwrap());
        let (mut socket, response) = tokio_tungstenite::client_async(request, connect()).await.unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
        if base64 {
            socket.send(Message::text("0aGVsbG8K")).await.unwrap();
        } else if protocol == "v4.channel.k8s.io" {
            socket.send(Message::text("\0hello\n")).await.unwrap(); // as the Python client does
        } else {
            socket.send(Message::binary(b"\0hello\n".to_vec())).await.unwrap();
        }
        if v5 {
            socket.send(Message::binary(vec![255, 0])).await.unwrap();
        }
        let mut channels: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        let all = async {
            while let Some(Ok(message)) = socket.next().await {
                match message {
                    Message::Binary(bytes) => channels.entry(bytes[0]).or_default().extend_from_slice(&bytes[1..]),
                    Message::Text(text) => {
                        use base64::Engine;
                        let body = base64::engine::general_purpose::STANDARD.decode(&text.as_str()[1..]).unwrap();
                        channels.entry(text.as_bytes()[0] - b'0').or_default().extend(body);
                    }
                    Message::Close(_) => break,
                    other => panic!("{other:?}"),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
        assert_eq!(channels[&1], b"hello\n", "{protocol}");
        let error = String::from_utf8(channels[&3].clone()).unwrap();
        if protocol == "channel.k8s.io" {
            assert_eq!(error, "command terminated with non-zero exit code: exit status 7");
        } else {
            assert!(error.contains("\"ExitCode\"") && error.contains("\"7\""), "{protocol}: {error}");
        }
    }
}

#[tokio::test]
async fn plain_requests_and_refusals() {
    let (local, connect) = Local::start();
    std::fs::write(local.logs.path().join("0.log"), "2026-01-01T00:00:00Z stdout F hello\n").unwrap();
    // (request line, what the answer begins with, what it holds)
    let cases = [
        ("GET /healthz", "http/1.1 200", "ok"),
        ("GET /pods", "http/1.1 200", "podlist"),
        ("GET /containerLogs/d/p/c", "http/1.1 200", "hello\n"),
        ("GET /containerLogs/d/none/c", "http/1.1 404", r#""message":"pods \"none\" not found""#),
        ("GET /containerLogs/d/none/c", "http/1.1 404", r#""reason":"NotFound""#),
        ("GET /containerLogs/d/none/c", "http/1.1 404", "content-type: application/json"),
        ("GET /containerLogs/d/p/c?tailLines=x", "http/1.1 422", r#""reason":"Invalid""#),
        ("POST /run/d/p/c?cmd=echo+out", "http/1.1 200", "out\n"),
        ("POST /exec/d/p/c?command=ls&output=1", "http/1.1 400", r#""reason":"BadRequest""#),
        ("POST /exec/d/p/c?command=ls", "http/1.1 400", "at least 1 of stdin, stdout, stderr"),
        ("GET /nowhere", "http/1.1 404", "not found"),
    ];
    for (line, begins, holds) in cases {
        let mut connection = connect();
        let head = format!("{line} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        connection.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        let answer = answer.to_ascii_lowercase();
        assert!(answer.starts_with(begins), "{line}: {answer}");
        assert!(answer.contains(&holds.to_ascii_lowercase()), "{line}: {answer}");
    }
    let mut connection = connect();
    let head = ask(&mut connection, &upgrade("/exec/d/p/c?command=ls&output=1", &["v9.channel.k8s.io"])).await;
    assert!(head.starts_with("http/1.1 403"), "{head}");
}

#[tokio::test]
async fn port_forward_over_channels() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 2];
            socket.read_exact(&mut bytes).await.unwrap();
            socket.write_all(format!("echo {}", String::from_utf8_lossy(&bytes)).as_bytes()).await.unwrap();
        }
    });
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = closed.local_addr().unwrap().port();
    drop(closed);
    let (_local, connect) = Local::start();
    for protocol in ["v4.channel.k8s.io", "v4.base64.channel.k8s.io"] {
        let base64 = protocol.contains("base64");
        let path = format!("ws://node/portForward/d/p?port={port},{refused}");
        let mut request = path.into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol.parse().unwrap());
        let (mut socket, response) = tokio_tungstenite::client_async(request, connect()).await.unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
        socket.send(super::websocket::message(base64, 0, b"hi")).await.unwrap();
        // The server closes when the pod has closed the one connection and refused the other.
        let mut channels: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        while let Some(Ok(message)) = socket.next().await {
            let Some(bytes) = super::websocket::decoded(message, base64) else { continue };
            channels.entry(bytes[0]).or_default().extend_from_slice(&bytes[1..]);
        }
        let begins = |port: u16, rest: &[u8]| [&port.to_le_bytes(), rest].concat();
        assert_eq!(channels[&0], begins(port, b"echo hi"), "{protocol}");
        assert_eq!(channels[&1], begins(port, b""), "{protocol}");
        assert_eq!(channels[&2], begins(refused, b""), "{protocol}");
        let failure = String::from_utf8_lossy(&channels[&3][2..]).into_owned();
        assert!(failure.starts_with(&format!("error forwarding port {refused} to pod d/p: ")), "{failure}");
    }
    // Without ports there is nothing to forward.
    let mut request = "ws://node/portForward/d/p".into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "v4.channel.k8s.io".parse().unwrap());
    assert!(tokio_tungstenite::client_async(request, connect()).await.is_err());
}
