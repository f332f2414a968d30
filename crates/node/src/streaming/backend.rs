//! What the endpoints need from the node: pods' logs, processes and sockets.

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use object::Status;
use std::path::PathBuf;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

/// A terminal's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A command to run in a container, or to attach to what runs already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// The command; empty for attach.
    pub command: Vec<String>,
    /// With a terminal.
    pub tty: bool,
    /// With standard input.
    pub stdin: bool,
    /// With standard output.
    pub stdout: bool,
    /// With standard error; never with a terminal.
    pub stderr: bool,
    /// The container's input ends with this client's (stdinOnce); only for attach.
    pub close_stdin: bool,
}

/// A running process with its streams.
pub struct Process {
    /// Standard input, where it was asked for.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Standard output, or the terminal's.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Standard error.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Takes the terminal's sizes.
    pub resize: Option<mpsc::Sender<Size>>,
    /// Its exit code, or why it could not run.
    pub exit: BoxFuture<'static, Result<i32, String>>,
}

/// Where a container's log is.
pub struct LogSource {
    /// The directory of the container's logs.
    pub directory: PathBuf,
    /// Which run.
    pub attempt: u32,
    /// True as long as the run goes on; following ends when it turns false.
    pub running: watch::Receiver<bool>,
}

/// The node as the endpoints see it.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// A container's log.
    async fn logs(&self, namespace: &str, pod: &str, container: &str, previous: bool) -> Result<LogSource, Status>;

    /// Runs a command in a container.
    async fn exec(&self, namespace: &str, pod: &str, container: &str, request: ExecRequest) -> Result<Process, Status>;

    /// Attaches to a container's main process.
    async fn attach(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        request: ExecRequest,
    ) -> Result<Process, Status>;

    /// Connects to a port inside the pod's network namespace.
    async fn connect(&self, namespace: &str, pod: &str, port: u16) -> Result<TcpStream, String>;

    /// The answer of /pods: a v1 PodList.
    async fn pods(&self) -> serde_json::Value;

    /// The answer of /stats/summary.
    async fn summary(&self) -> serde_json::Value;

    /// The answer of /metrics/resource, in Prometheus' text format.
    async fn resource_metrics(&self) -> String;
}
