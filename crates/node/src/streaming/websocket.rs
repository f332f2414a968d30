//! Remote commands over WebSocket: channels by the first byte of a message; and a byte tunnel for SPDY inside a WebSocket.

use super::backend::Size;
use super::remote::{Channel, Output, Remote, parse_size};
use async_trait::async_trait;
use base64::Engine;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};

/// The largest message that is taken.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// v5's message that closes a channel.
const CLOSE_SIGNAL: u8 = 255;

/// How long the first output waits. client-go reads before it has made its streams, and drops what comes until then
/// (kubernetes/kubernetes#131189, mended in later releases of kubectl); a command here may answer sooner than that.
const FIRST_OUTPUT_AFTER: Duration = Duration::from_millis(30);

/// The subprotocols of exec and attach that are spoken, the best first; empty for clients that name none.
pub(super) const PROTOCOLS: [&str; 6] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "",
];
/// SPDY inside a WebSocket, for port-forward.
pub(super) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

fn config() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX)).max_frame_size(Some(MESSAGE_BYTES_MAX))
}

struct WebSocketOutput<S> {
    sink: Mutex<SplitSink<WebSocketStream<S>, Message>>,
    base64: bool,
}

/// The server's side of a WebSocket.
pub(super) async fn open<S: AsyncRead + AsyncWrite + Unpin>(connection: S) -> WebSocketStream<S> {
    WebSocketStream::from_raw_socket(connection, Role::Server, Some(config())).await
}

/// The bytes of a message with the channel in front; None for what carries none, or does not parse.
pub(super) fn decoded(message: Message, base64: bool) -> Option<Bytes> {
    match message {
        Message::Binary(bytes) if !base64 => Some(bytes),
        Message::Text(text) if base64 => {
            let (channel, body) = text.split_at_checked(1)?;
            let body = base64::engine::general_purpose::STANDARD.decode(body).ok()?;
            let channel = channel.as_bytes().first()?.wrapping_sub(b'0');
            Some(Bytes::from([vec![channel], body].concat()))
        }
        Message::Text(text) => Some(text.into()), // some clients send what they type as text
        _ => None,                                // tungstenite answers pings
    }
}

/// A message for a channel.
pub(super) fn message(base64: bool, channel: u8, data: &[u8]) -> Message {
    if base64 {
        let mut text = String::with_capacity(1 + data.len() * 4 / 3 + 4);
        text.push(char::from(b'0' + channel));
        base64::engine::general_purpose::STANDARD.encode_string(data, &mut text);
        Message::text(text)
    } else {
        let mut bytes = BytesMut::with_capacity(1 + data.len());
        bytes.put_u8(channel);
        bytes.extend_from_slice(data);
        Message::binary(bytes.freeze())
    }
}

#[async_trait]
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Output for WebSocketOutput<S> {
    async fn send(&self, channel: Channel, data: Bytes) -> io::Result<()> {
        let number = match channel {
            Channel::Stdout => 1,
            Channel::Stderr => 2,
            Channel::Error => 3,
        };
        self.sink.lock().await.send(message(self.base64, number, &data)).await.map_err(io::Error::other)
    }

    async fn finish(self: Box<Self>) {
        let mut sink = self.sink.into_inner();
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let _ = sink.send(Message::Close(Some(frame))).await;
        let _ = sink.close().await;
    }
}

/// Serves exec or attach over an upgraded connection.
pub(super) async fn remote<S>(connection: S, protocol: &str, lowest: Option<u8>) -> Remote
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let socket = open(connection).await;
    let (mut sink, stream) = socket.split();
    let base64 = protocol.contains("base64");
    if let Some(lowest) = lowest {
        // Upstream tells a client that the connection is up with an empty message on the lowest channel that it will write to.
        let _ = sink.send(message(base64, lowest, &[])).await;
    }
    // Only client-go speaks this version. The command runs meanwhile.
    if Some(protocol) == PROTOCOLS.first().copied() {
        tokio::time::sleep(FIRST_OUTPUT_AFTER).await;
    }
    let (stdin_sender, stdin) = mpsc::channel(32);
    let (resize_sender, resize) = mpsc::channel(4);
    let mut helpers = JoinSet::new();
    helpers.spawn(read_messages(stream, stdin_sender, resize_sender, base64));
    let status_as_json = protocol.starts_with("v4.") || protocol.starts_with("v5.");
    let output = Box::new(WebSocketOutput { sink: Mutex::new(sink), base64 });
    Remote { stdin, resize, output, status_as_json, helpers }
}

async fn read_messages<S: AsyncRead + AsyncWrite + Unpin + Send>(
    mut stream: SplitStream<WebSocketStream<S>>,
    stdin: mpsc::Sender<Bytes>,
    resize: mpsc::Sender<Size>,
    base64: bool,
) {
    let mut stdin = Some(stdin);
    while let Some(Ok(message)) = stream.next().await {
        if matches!(message, Message::Close(_)) {
            return;
        }
        let Some(data) = decoded(message, base64) else { continue };
        match data.first() {
            Some(0) => {
                if let Some(sender) = &stdin
                    && data.len() > 1
                    && sender.send(data.slice(1..)).await.is_err()
                {
                    stdin = None;
                }
            }
            Some(4) => {
                if let Some(size) = parse_size(&data[1..]) {
                    let _ = resize.send(size).await;
                }
            }
            Some(&CLOSE_SIGNAL) if data.get(1) == Some(&0) => stdin = None,
            _ => {}
        }
    }
}

/// Gives the bytes inside a WebSocket's messages as a plain connection, for as long as the tasks beside it live.
pub(super) async fn tunnel<S>(connection: S) -> (DuplexStream, JoinSet<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let socket = open(connection).await;
    let (ours, theirs) = tokio::io::duplex(128 << 10);
    let (mut sink, mut stream) = socket.split();
    let (mut read, mut write) = tokio::io::split(theirs);
    let mut helpers = JoinSet::new();
    helpers.spawn(async move {
        let mut buffer = vec![0_u8; 64 << 10];
        while let Ok(count) = read.read(&mut buffer).await {
            if count == 0 || sink.send(Message::binary(Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
                break;
            }
        }
        let _ = sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await;
        let _ = sink.close().await;
    });
    helpers.spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            match message {
                Message::Binary(bytes) if write.write_all(&bytes).await.is_err() => break,
                Message::Text(text) if write.write_all(text.as_bytes()).await.is_err() => break,
                Message::Close(_) => break,
                _ => {}
            }
        }
        let _ = write.shutdown().await;
    });
    (ours, helpers)
}
