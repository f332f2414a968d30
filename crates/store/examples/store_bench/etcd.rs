//! The peer: puts into an etcd that this benchmark starts, over one gRPC connection with many streams.
//!
//! Frames are HTTP/2 messages of five bytes of prefix and a protobuf message; KV.Put needs two fields of it.

use super::{VALUE_BYTES, percentile};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A running etcd; it ends with this value.
pub(crate) struct Etcd {
    child: Child,
    requests: SendRequest<Bytes>,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Etcd {
    /// Starts the etcd that is on the PATH with its data in `directory`; None where there is none.
    pub(crate) async fn start(directory: &Path) -> Option<Self> {
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let (clients, peers) = (free(), free());
        let url = |address: SocketAddr| format!("http://{address}");
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(directory.join("etcd")).args(["--log-level", "error", "--name", "peer"]);
        for (option, address) in [("client", clients), ("peer", peers)] {
            command.arg(format!("--listen-{option}-urls={}", url(address)));
        }
        command.arg(format!("--advertise-client-urls={}", url(clients)));
        command.arg(format!("--initial-advertise-peer-urls={}", url(peers)));
        command.arg(format!("--initial-cluster=peer={}", url(peers)));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let mut etcd = Self { child, requests: connect(clients).await };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !put(&mut etcd.requests, "warm", b"1").await {
            assert!(Instant::now() < deadline, "etcd does not take writes");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some(etcd)
    }

    /// Puts per second, median and 99th percentile with this many writers.
    pub(crate) async fn puts(&self, writers: usize, total: usize) -> (f64, Duration, Duration) {
        let next = Arc::new(AtomicUsize::new(0));
        let start = Instant::now();
        let tasks: Vec<_> = (0..writers)
            .map(|_| {
                let (mut requests, next) = (self.requests.clone(), Arc::clone(&next));
                tokio::spawn(async move {
                    let value = vec![b'x'; VALUE_BYTES];
                    let mut latencies = Vec::new();
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= total {
                            return latencies;
                        }
                        let begin = Instant::now();
                        assert!(put(&mut requests, &format!("pods/ns/pod-{:06}", index % 20_000), &value).await);
                        latencies.push(begin.elapsed());
                    }
                })
            })
            .collect();
        let mut latencies = Vec::new();
        for task in tasks {
            latencies.extend(task.await.unwrap());
        }
        let rate = total as f64 / start.elapsed().as_secs_f64();
        (rate, percentile(&mut latencies, 0.5), percentile(&mut latencies, 0.99))
    }
}

async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let stream = loop {
        match tokio::net::TcpStream::connect(address).await {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "etcd does not listen: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    stream.set_nodelay(true).unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    requests
}

/// One KV.Put; whether etcd acknowledged it.
async fn put(requests: &mut SendRequest<Bytes>, key: &str, value: &[u8]) -> bool {
    let mut message = BytesMut::with_capacity(value.len() + key.len() + 16);
    for (field, bytes) in [(1_u8, key.as_bytes()), (2, value)] {
        message.put_u8(field << 3 | 2);
        let mut length = bytes.len();
        while length > 0x7f {
            message.put_u8(length as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(bytes);
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0); // not compressed
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    let request = http::Request::post("http://etcd/etcdserverpb.KV/Put")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let mut ready = requests.clone().ready().await.unwrap();
    let (response, mut body) = ready.send_request(request, false).unwrap();
    body.send_data(frame.freeze(), true).unwrap();
    let response = response.await.unwrap();
    if response.headers().get("grpc-status").is_some() {
        return false; // an answer without a message: an error
    }
    let mut answer = response.into_body();
    while let Some(data) = answer.data().await {
        let taken = data.unwrap().len();
        let _ = answer.flow_control().release_capacity(taken);
    }
    let trailers = answer.trailers().await.unwrap().unwrap_or_default();
    trailers.get("grpc-status").is_some_and(|status| status == "0")
}
