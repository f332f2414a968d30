//! Port-forward over SPDY: pairs of an error and a data stream, each pair one connection inside the pod.

use super::backend::Backend;
use super::spdy::{Session, Stream};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;

/// The one protocol.
pub(super) const PROTOCOL: &str = "portforward.k8s.io";
/// Halves of pairs that wait for the other half.
const PENDING_MAX: usize = 1000;
/// A session without any connection ends after four hours, as upstream.
const IDLE: Duration = Duration::from_secs(4 * 3600);

/// Serves one client until it leaves.
pub(super) async fn serve(
    connection: impl AsyncRead + AsyncWrite + Send + 'static,
    backend: Arc<dyn Backend>,
    namespace: String,
    pod: String,
) {
    let mut session = Session::serve(connection);
    let mut pending: HashMap<String, Stream> = HashMap::new();
    let mut pairs = JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = session.accept() => stream,
            Some(_) = pairs.join_next() => continue,
            () = tokio::time::sleep(IDLE), if pairs.is_empty() => None,
        };
        let Some(stream) = stream else { break };
        // Clients before the request ids existed opened the data stream right after its error stream for the same port.
        let id = match stream.header("requestid") {
            "" => stream.header("port").to_owned(),
            id => id.to_owned(),
        };
        match pending.remove(&id) {
            Some(other) => {
                let (data, error) =
                    if stream.header("streamtype") == "data" { (stream, other) } else { (other, stream) };
                pairs.spawn(forward(data, error, Arc::clone(&backend), namespace.clone(), pod.clone()));
            }
            None if pending.len() >= PENDING_MAX => stream.writer.reset().await,
            None => {
                pending.insert(id, stream);
            }
        }
    }
    pairs.shutdown().await;
    session.close().await;
}

async fn forward(data: Stream, error: Stream, backend: Arc<dyn Backend>, namespace: String, pod: String) {
    let port = data.header("port").parse::<u16>().ok().filter(|port| *port > 0);
    let connected = match port {
        Some(port) => backend
            .connect(&namespace, &pod, port)
            .await
            .map_err(|message| format!("error forwarding port {port} to pod {namespace}/{pod}: {message}")),
        None => Err(format!("unable to parse {:?} as a port", data.header("port"))),
    };
    let Stream { data: mut incoming, writer, .. } = data;
    match connected {
        Ok(socket) => {
            let (mut read, mut write) = socket.into_split();
            let inward = async {
                while let Some(bytes) = incoming.recv().await {
                    if write.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                let _ = write.shutdown().await;
            };
            let outward = async {
                let mut buffer = vec![0_u8; 32 << 10];
                while let Ok(count) = read.read(&mut buffer).await {
                    if count == 0 || writer.send(Bytes::copy_from_slice(&buffer[..count])).await.is_err() {
                        break;
                    }
                }
                let _ = writer.finish().await;
            };
            // The pod's side decides: once it has closed, whatever the client still sends has no reader.
            tokio::pin!(inward);
            tokio::pin!(outward);
            tokio::select! {
                () = &mut outward => {}
                () = &mut inward => outward.await,
            }
        }
        Err(message) => {
            let _ = error.writer.send(message.into()).await;
            let _ = writer.finish().await;
        }
    }
    let _ = error.writer.finish().await;
    // Both halves of both streams are over; the client's library frees a stream only when it is reset or closed both ways.
    drop(incoming);
}
