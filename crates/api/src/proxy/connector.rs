//! How the server reaches a node's agent.

use async_trait::async_trait;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to a node's kubelet-compatible endpoints, spoken in HTTP/1.1.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Connects to nodes: in process by a pipe, over the network by the tunnel that the agent keeps open.
#[async_trait]
pub trait NodeConnector: Send + Sync {
    /// A fresh connection to the agent of `node`.
    async fn connect(&self, node: &str) -> io::Result<Box<dyn Connection>>;
}

/// A server that knows no nodes.
pub struct NoNodes;

#[async_trait]
impl NodeConnector for NoNodes {
    async fn connect(&self, node: &str) -> io::Result<Box<dyn Connection>> {
        Err(io::Error::new(io::ErrorKind::NotConnected, format!("node {node} is not connected to this server")))
    }
}
