//! One remote command seen from the node, whatever protocol carries it: input, sizes, and three channels back.

use super::backend::{ExecRequest, Size};
use super::spdy::{Session, Stream, StreamWriter};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::HashMap;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// How long a client may take to open its streams, as upstream.
const STREAMS_WITHIN: Duration = Duration::from_secs(30);

/// The channels from the node to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Channel {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The final status.
    Error,
}

/// The way back to the client.
#[async_trait]
pub(super) trait Output: Send + Sync {
    /// Sends data on a channel; data for a channel that the client did not open is dropped.
    async fn send(&self, channel: Channel, data: Bytes) -> io::Result<()>;
    /// Ends everything after what was sent.
    async fn finish(self: Box<Self>);
}

/// A client at the other end of exec or attach.
pub(super) struct Remote {
    /// Standard input; ends when the client closes it.
    pub(super) stdin: mpsc::Receiver<Bytes>,
    /// Terminal sizes.
    pub(super) resize: mpsc::Receiver<Size>,
    /// The way back.
    pub(super) output: Box<dyn Output>,
    /// True where the final status is a JSON Status (protocol v4 and later), false where it is a sentence.
    pub(super) status_as_json: bool,
    /// What reads the client's side; it ends with this.
    pub(super) helpers: JoinSet<()>,
}

/// The protocol versions of exec and attach over SPDY, the best first; an absent header means the first of all.
pub(super) const PROTOCOLS: [&str; 4] =
    ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// A size as the client sends it; None for what is no size.
pub(super) fn parse_size(json: &[u8]) -> Option<Size> {
    let value: serde_json::Value = serde_json::from_slice(json).ok()?;
    let of =
        |name: &str| value.get(name).and_then(serde_json::Value::as_u64).and_then(|number| u16::try_from(number).ok());
    Some(Size { width: of("Width")?, height: of("Height")? })
}

/// Turns the bytes of a resize stream into sizes; they are JSON objects one after the other.
async fn read_sizes(mut data: mpsc::Receiver<Bytes>, sizes: mpsc::Sender<Size>) {
    let mut buffer: Vec<u8> = Vec::new();
    while let Some(bytes) = data.recv().await {
        buffer.extend_from_slice(&bytes);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'}') {
            let object: Vec<u8> = buffer.drain(..=end).collect();
            if let Some(size) = parse_size(&object)
                && sizes.send(size).await.is_err()
            {
                return;
            }
        }
        if buffer.len() > 4096 {
            return; // no size is that long
        }
    }
}

struct SpdyOutput {
    session: Session,
    writers: HashMap<Channel, StreamWriter>,
}

#[async_trait]
impl Output for SpdyOutput {
    async fn send(&self, channel: Channel, data: Bytes) -> io::Result<()> {
        match self.writers.get(&channel) {
            Some(writer) => writer.send(data).await,
            None => Ok(()),
        }
    }

    async fn finish(self: Box<Self>) {
        for writer in self.writers.values() {
            let _ = writer.finish().await;
        }
        self.session.close().await;
    }
}

/// Waits until a SPDY client has opened the streams that it asked for.
pub(super) async fn over_spdy(
    connection: impl AsyncRead + AsyncWrite + Send + 'static,
    request: &ExecRequest,
    protocol: &str,
) -> Result<Remote, String> {
    let mut session = Session::serve(connection);
    let v4 = protocol == "v4.channel.k8s.io";
    let sizes_wanted = request.tty && matches!(protocol, "v4.channel.k8s.io" | "v3.channel.k8s.io");
    let mut wanted = vec!["error"];
    wanted.extend(request.stdin.then_some("stdin"));
    wanted.extend(request.stdout.then_some("stdout"));
    wanted.extend((request.stderr && !request.tty).then_some("stderr"));
    wanted.extend(sizes_wanted.then_some("resize"));
    let mut found: HashMap<String, Stream> = HashMap::new();
    let all = async {
        while found.len() < wanted.len() {
            let Some(stream) = session.accept().await else {
                return Err("the client left before it opened its streams".to_owned());
            };
            let kind = stream.header("streamtype").to_owned();
            if !wanted.contains(&kind.as_str()) {
                return Err(format!("invalid stream type {kind:?}"));
            }
            found.insert(kind, stream);
        }
        Ok(())
    };
    match tokio::time::timeout(STREAMS_WITHIN, all).await {
        Ok(Ok(())) => {}
        Ok(Err(message)) => return Err(message),
        Err(_) => return Err("timed out waiting for client to create streams".into()),
    }
    let (mut writers, mut helpers) = (HashMap::new(), JoinSet::new());
    let (mut stdin, mut resize) = (mpsc::channel(1).1, mpsc::channel(1).1);
    for (kind, stream) in found {
        match kind.as_str() {
            "stdin" => stdin = stream.data,
            "resize" => {
                let (sender, receiver) = mpsc::channel(4);
                helpers.spawn(read_sizes(stream.data, sender));
                resize = receiver;
            }
            "stdout" => drop(writers.insert(Channel::Stdout, stream.writer)),
            "stderr" => drop(writers.insert(Channel::Stderr, stream.writer)),
            _ => drop(writers.insert(Channel::Error, stream.writer)),
        }
    }
    Ok(Remote { stdin, resize, output: Box::new(SpdyOutput { session, writers }), status_as_json: v4, helpers })
}
