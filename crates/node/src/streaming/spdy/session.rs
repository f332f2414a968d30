//! The server's side of a session: streams come in, each with its headers, its data and a writer.
//!
//! One task reads, one writes. A stream whose data nobody takes holds the reader back (kubectl's library does the same);
//! the writer's queue is bounded, so that a client that does not read holds its own streams back.

use super::frame::{Frame, FrameDecoder, FrameEncoder};
use super::headers::Headers;
use bytes::{Bytes, BytesMut};
use std::collections::HashMap;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The most streams that a session may have open; a port-forward of a busy browser needs some hundreds.
const STREAMS_MAX: usize = 2000;
/// Frames that wait in one direction.
const QUEUE_FRAMES: usize = 32;
/// The largest data frame that is sent.
const DATA_BYTES_MAX: usize = 64 << 10;

enum Outgoing {
    Frame(Frame),
    Close,
}

/// A session over one connection.
pub struct Session {
    incoming: mpsc::Receiver<Stream>,
    outgoing: mpsc::Sender<Outgoing>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

/// A stream that the client opened.
pub struct Stream {
    /// Its headers; names in lower case.
    pub headers: Headers,
    /// What the client sends; ends with the client's half or the session.
    pub data: mpsc::Receiver<Bytes>,
    /// The way back.
    pub writer: StreamWriter,
}

impl Stream {
    /// The value of a header; empty where it is missing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(have, _)| have == name).map_or("", |(_, value)| value)
    }
}

/// Sends to the client on one stream.
#[derive(Clone)]
pub struct StreamWriter {
    stream: u32,
    outgoing: mpsc::Sender<Outgoing>,
}

fn gone<E>(_: E) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the client is gone")
}

impl StreamWriter {
    /// Sends data, waiting while the client is slow.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn send(&self, mut data: Bytes) -> io::Result<()> {
        while !data.is_empty() {
            let part = data.split_to(data.len().min(DATA_BYTES_MAX));
            let frame = Frame::Data { stream: self.stream, fin: false, data: part };
            self.outgoing.send(Outgoing::Frame(frame)).await.map_err(gone)?;
        }
        Ok(())
    }

    /// Ends our half.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn finish(&self) -> io::Result<()> {
        let frame = Frame::Data { stream: self.stream, fin: true, data: Bytes::new() };
        self.outgoing.send(Outgoing::Frame(frame)).await.map_err(gone)
    }

    /// Ends both halves at once.
    pub async fn reset(&self) {
        let frame = Frame::Reset { stream: self.stream, status: 5 };
        let _ = self.outgoing.send(Outgoing::Frame(frame)).await;
    }
}

impl Session {
    /// Serves a connection on which SPDY/3.1 was agreed.
    pub fn serve(connection: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (read, write) = tokio::io::split(connection);
        let (outgoing, to_write) = mpsc::channel(QUEUE_FRAMES);
        let (accept, incoming) = mpsc::channel(QUEUE_FRAMES);
        let writer = tokio::spawn(write_frames(write, to_write));
        let reader = tokio::spawn(read_frames(read, accept, outgoing.clone()));
        Session { incoming, outgoing, reader, writer }
    }

    /// The next stream that the client opens; None once the client is gone.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.incoming.recv().await
    }

    /// Sends what is queued, ends the connection and waits for it.
    pub async fn close(mut self) {
        let _ = self.outgoing.send(Outgoing::Close).await;
        let _ = (&mut self.writer).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The writer ends by itself once nobody can send any more, after what is queued.
        self.reader.abort();
    }
}

async fn write_frames(mut write: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Outgoing>) {
    let mut encoder = FrameEncoder::default();
    let mut buffer = BytesMut::new();
    'all: while let Some(first) = queue.recv().await {
        let mut next = Some(first);
        let mut close = false;
        // What is queued already goes out with one write.
        while let Some(item) = next {
            match item {
                Outgoing::Frame(frame) => {
                    if encoder.encode(&frame, &mut buffer).is_err() {
                        break 'all;
                    }
                }
                Outgoing::Close => close = true,
            }
            next = if close || buffer.len() > 4 * DATA_BYTES_MAX { None } else { queue.try_recv().ok() };
        }
        if write.write_all(&buffer).await.is_err() || write.flush().await.is_err() || close {
            break;
        }
        buffer.clear();
    }
    let _ = write.shutdown().await;
}

async fn read_frames(mut read: impl AsyncRead + Unpin, accept: mpsc::Sender<Stream>, outgoing: mpsc::Sender<Outgoing>) {
    let mut decoder = FrameDecoder::default();
    let mut buffer = BytesMut::with_capacity(16 << 10);
    let mut open: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    loop {
        let frame = match decoder.decode(&mut buffer) {
            Ok(Some(frame)) => frame,
            Ok(None) => match read.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => continue,
            },
            Err(error) => {
                tracing::debug!(%error, "a SPDY session ends");
                let _ = outgoing.send(Outgoing::Frame(Frame::GoAway { last_stream: 0, status: 1 })).await;
                let _ = outgoing.send(Outgoing::Close).await;
                return;
            }
        };
        match frame {
            Frame::SynStream { stream, fin, headers, .. } => {
                open.retain(|_, sender| !sender.is_closed());
                if open.len() >= STREAMS_MAX || open.contains_key(&stream) {
                    let _ = outgoing.send(Outgoing::Frame(Frame::Reset { stream, status: 3 })).await;
                    continue;
                }
                let (sender, data) = mpsc::channel(QUEUE_FRAMES);
                if !fin {
                    open.insert(stream, sender);
                }
                let reply = Frame::SynReply { stream, fin: false, headers: Headers::new() };
                if outgoing.send(Outgoing::Frame(reply)).await.is_err() {
                    return;
                }
                let writer = StreamWriter { stream, outgoing: outgoing.clone() };
                if accept.send(Stream { headers, data, writer }).await.is_err() {
                    return;
                }
            }
            Frame::Data { stream, fin, data } => {
                if let Some(sender) = open.get(&stream) {
                    if !data.is_empty() {
                        let _ = sender.send(data).await; // whoever does not want it any more has dropped its end
                    }
                    if fin {
                        open.remove(&stream);
                    }
                }
            }
            Frame::Headers { stream, fin: true, .. } | Frame::Reset { stream, .. } => {
                open.remove(&stream);
            }
            Frame::Ping(id) if id % 2 == 1 => {
                let _ = outgoing.send(Outgoing::Frame(Frame::Ping(id))).await;
            }
            Frame::GoAway { .. }
            | Frame::Headers { .. }
            | Frame::Ping(_)
            | Frame::Settings
            | Frame::SynReply { .. }
            | Frame::WindowUpdate { .. }
            | Frame::Unknown(_) => {}
        }
    }
}
