//! Port-forward over plain WebSocket channels: two for each port, data and error, as the clients in Python and JavaScript speak it.
//!
//! Source: the protocols `v4.channel.k8s.io` and `v4.base64.channel.k8s.io` of upstream's kubelet. Each channel begins with the port, two
//! bytes in little endian. The protocol cannot close one direction alone: the pod's side decides.

use super::backend::Backend;
use super::websocket::{self, decoded, message};
use bytes::Bytes;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

/// The subprotocols, the best first; empty for clients that name none.
pub(super) const PROTOCOLS: [&str; 3] = ["v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""];
/// A channel is a digit in base64, and a byte otherwise.
const PORTS_MAX: usize = 100;
const PORTS_MAX_BASE64: usize = 5;
/// Messages that wait for the pod to take them; then the client waits.
const QUEUE: usize = 32;

/// The ports of a request's query, of which each parameter may have several.
///
/// # Errors
/// A sentence in upstream's words.
pub(super) fn ports<'a>(parameters: impl Iterator<Item = &'a str>, protocol: &str) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for text in parameters.flat_map(|parameter| parameter.split(',')).filter(|text| !text.is_empty()) {
        let port = text.parse::<u16>().map_err(|error| format!("unable to parse {text:?} as a port: {error}"))?;
        if port == 0 {
            return Err(format!("port {text:?} must be > 0"));
        }
        ports.push(port);
    }
    let most = if protocol.contains("base64") { PORTS_MAX_BASE64 } else { PORTS_MAX };
    if ports.is_empty() {
        return Err("query parameter \"port\" is required".to_owned());
    }
    if ports.len() > most {
        return Err(format!("{} ports at once, at most {most} are forwarded", ports.len()));
    }
    Ok(ports)
}

/// One connection to the client, shared by the ports.
struct Client<S> {
    sink: Mutex<SplitSink<WebSocketStream<S>, Message>>,
    base64: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Client<S> {
    async fn send(&self, channel: u8, data: &[u8]) -> bool {
        self.sink.lock().await.send(message(self.base64, channel, data)).await.is_ok()
    }
}

/// Serves one client until it leaves, or the pod has closed every connection.
pub(super) async fn serve<S>(
    connection: S,
    protocol: &str,
    ports: Vec<u16>,
    backend: Arc<dyn Backend>,
    namespace: String,
    pod: String,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sink, mut stream) = websocket::open(connection).await.split();
    let client = Arc::new(Client { sink: Mutex::new(sink), base64: protocol.contains("base64") });
    let mut pairs = JoinSet::new();
    let mut inputs: Vec<mpsc::Sender<Bytes>> = Vec::with_capacity(ports.len());
    for (at, port) in (0_u8..).zip(ports) {
        let (sender, input) = mpsc::channel(QUEUE);
        inputs.push(sender);
        let (client, backend, namespace, pod) =
            (Arc::clone(&client), Arc::clone(&backend), namespace.clone(), pod.clone());
        pairs.spawn(async move {
            let (data, error) = (2 * at, 2 * at + 1);
            let number = port.to_le_bytes();
            if !(client.send(data, &number).await && client.send(error, &number).await) {
                return;
            }
            match backend.connect(&namespace, &pod, port).await {
                Ok(socket) => {
                    let (read, write) = socket.into_split();
                    tokio::select! {
                        () = outward(read, &client, data) => {}
                        () = inward(input, write) => {}
                    }
                }
                Err(why) => {
                    let why = format!("error forwarding port {port} to pod {namespace}/{pod}: {why}");
                    client.send(error, why.as_bytes()).await;
                }
            }
        });
    }
    let incoming = async {
        while let Some(Ok(message)) = stream.next().await {
            if matches!(message, Message::Close(_)) {
                return;
            }
            let Some(bytes) = decoded(message, client.base64) else { continue };
            let Some(channel) = bytes.first().filter(|channel| **channel % 2 == 0) else { continue };
            if let Some(input) = inputs.get(usize::from(*channel / 2))
                && bytes.len() > 1
            {
                // A port whose connection is over takes nothing any more.
                let _ = input.send(bytes.slice(1..)).await;
            }
        }
    };
    tokio::select! {
        () = incoming => {}
        () = async { while pairs.join_next().await.is_some() {} } => {}
    }
    pairs.shutdown().await;
    let mut sink = client.sink.lock().await;
    let _ = sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await;
    let _ = sink.close().await;
}

async fn outward<S>(mut read: impl AsyncRead + Unpin, client: &Client<S>, channel: u8)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut buffer = vec![0_u8; 32 << 10];
    while let Ok(count) = read.read(&mut buffer).await {
        if count == 0 || !client.send(channel, &buffer[..count]).await {
            return;
        }
    }
}

/// Ends when the pod takes nothing any more; the client's silence ends nothing.
async fn inward(mut input: mpsc::Receiver<Bytes>, mut write: OwnedWriteHalf) {
    while let Some(bytes) = input.recv().await {
        if write.write_all(&bytes).await.is_err() {
            return;
        }
    }
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_or_refused() {
        let read = |parameters: &[&str], protocol| ports(parameters.iter().copied(), protocol);
        assert_eq!(read(&["80", "81,82"], ""), Ok(vec![80, 81, 82]));
        for (parameters, protocol, word) in [
            (&[][..], "", "is required"),
            (&[""], "", "is required"),
            (&["0"], "", "must be > 0"),
            (&["x"], "", "unable to parse"),
            (&["65536"], "", "unable to parse"),
            (&["1,2,3,4,5,6"], "v4.base64.channel.k8s.io", "at most 5"),
        ] {
            let why = read(parameters, protocol);
            assert!(why.as_ref().is_err_and(|why| why.contains(word)), "{parameters:?}: {why:?}");
        }
    }
}
