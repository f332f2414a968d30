//! Carries out probes and hooks: commands, HTTP requests, TCP connects, gRPC health checks.

use super::seams::Containers;
use crate::streaming::ExecRequest;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, ExecAction, GRPCAction, HTTPGetAction, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// What a probe reads at most, as upstream.
const OUTPUT_BYTES_MAX: u64 = 10 << 10;

/// What is probed.
pub(super) struct Probed<'a> {
    pub(super) containers: &'a Arc<dyn Containers>,
    pub(super) uid: &'a str,
    pub(super) id: &'a str,
    pub(super) container: &'a Container,
    pub(super) address: Option<IpAddr>,
}

/// Why a hook's command failed.
pub(super) struct HookFailure {
    pub(super) error: String,
    /// What the command wrote.
    pub(super) message: String,
}

fn port_of(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            named.and_then(|port| u16::try_from(port.container_port).ok()).or_else(|| name.parse().ok())
        }
    };
    number.filter(|port| *port > 0).ok_or_else(|| format!("invalid port: {port:?}"))
}

impl Probed<'_> {
    fn host(&self, host: Option<&String>) -> Result<String, String> {
        match host.filter(|host| !host.is_empty()) {
            Some(host) => Ok(host.clone()),
            None => self.address.map(|address| address.to_string()).ok_or_else(|| "the pod has no address".to_owned()),
        }
    }

    /// Runs a command; exit code 0 is success.
    pub(super) async fn exec(&self, action: &ExecAction, within: Duration) -> Result<(), String> {
        match self.run(action, within).await? {
            (0, _) => Ok(()),
            (_, output) => Err(output),
        }
    }

    /// Runs a hook's command; what went wrong is told as upstream tells it.
    pub(super) async fn exec_hook(&self, action: &ExecAction, within: Duration) -> Result<(), HookFailure> {
        match self.run(action, within).await {
            Ok((0, _)) => Ok(()),
            Ok((code, message)) => {
                let command = action.command.as_deref().unwrap_or_default().join(" ");
                Err(HookFailure { error: format!("command '{command}' exited with {code}: {message}"), message })
            }
            Err(error) => Err(HookFailure { error, message: String::new() }),
        }
    }

    /// Runs a command; returns its exit code and what it wrote.
    async fn run(&self, action: &ExecAction, within: Duration) -> Result<(i32, String), String> {
        let command = action.command.clone().unwrap_or_default();
        let request = ExecRequest { command, stdout: true, stderr: true, ..ExecRequest::default() };
        let run = async {
            let mut process = self.containers.exec(self.uid, self.id, request).await?;
            let (out, error) = (process.stdout.take(), process.stderr.take());
            let read = |reader: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>| async move {
                let mut text = Vec::new();
                if let Some(mut reader) = reader {
                    let _ = (&mut reader).take(OUTPUT_BYTES_MAX).read_to_end(&mut text).await;
                    let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
                }
                text
            };
            let (out, error, exit) = tokio::join!(read(out), read(error), process.exit);
            let text = String::from_utf8_lossy(&[out, error].concat()).into_owned();
            Ok((exit?, text))
        };
        match tokio::time::timeout(within, run).await {
            Ok(result) => result,
            Err(_) => {
                let command = action.command.clone().unwrap_or_default().join(" ");
                Err(format!("command timed out: \"{command}\" timed out after {}s", within.as_secs()))
            }
        }
    }

    /// GETs a path; 200 to 399 is success.
    pub(super) async fn http_get(&self, action: &HTTPGetAction, within: Duration) -> Result<(), String> {
        let host = self.host(action.host.as_ref())?;
        let port = port_of(&action.port, self.container)?;
        let path = action.path.clone().unwrap_or_default();
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        let https = action.scheme.as_deref() == Some("HTTPS");
        let shown_host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let scheme = if https { "https" } else { "http" };
        let url = format!("{scheme}://{shown_host}:{port}{path}");
        let mut request = Request::get(path.as_str()).header("user-agent", "kube-probe/1.37").header("accept", "*/*");
        let mut has_host = false;
        for header in action.http_headers.iter().flatten() {
            has_host |= header.name.eq_ignore_ascii_case("host");
            request = request.header(header.name.as_str(), header.value.as_str());
        }
        if !has_host {
            request = request.header("host", format!("{shown_host}:{port}"));
        }
        let request =
            request.header("connection", "close").body(Full::new(Bytes::new())).map_err(|error| error.to_string())?;
        let get = async {
            let socket = TcpStream::connect((host.as_str(), port))
                .await
                .map_err(|error| format!("dial tcp {shown_host}:{port}: connect: {}", lower(&error)))?;
            if https {
                let socket = tls(socket, &host).await?;
                answer(TokioIo::new(socket), request).await
            } else {
                answer(TokioIo::new(socket), request).await
            }
        };
        match tokio::time::timeout(within, get).await {
            Err(_) => Err(format!(
                "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            )),
            Ok(Err(message)) => Err(format!("Get \"{url}\": {message}")),
            Ok(Ok(code)) if (200..400).contains(&code) => Ok(()),
            Ok(Ok(code)) => Err(format!("HTTP probe failed with statuscode: {code}")),
        }
    }

    /// Connects; an accepted connection is success.
    pub(super) async fn tcp(&self, action: &TCPSocketAction, within: Duration) -> Result<(), String> {
        let host = self.host(action.host.as_ref())?;
        let port = port_of(&action.port, self.container)?;
        match tokio::time::timeout(within, TcpStream::connect((host.as_str(), port))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("dial tcp {host}:{port}: connect: {}", lower(&error))),
            Err(_) => Err(format!("dial tcp {host}:{port}: i/o timeout")),
        }
    }

    /// Asks grpc.health.v1.Health/Check; SERVING is success.
    pub(super) async fn grpc(&self, action: &GRPCAction, within: Duration) -> Result<(), String> {
        let host = self.host(None)?;
        let port = u16::try_from(action.port).map_err(|_| format!("invalid port: {}", action.port))?;
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        super::grpc_probe::check(&address, action.service.as_deref().unwrap_or_default(), within).await
    }
}

fn lower(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        std::io::ErrorKind::HostUnreachable => "no route to host".into(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".into(),
        _ => error.to_string(),
    }
}

async fn answer<S>(socket: S, request: Request<Full<Bytes>>) -> Result<u16, String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(socket).await.map_err(|error| error.to_string())?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| error.to_string());
    driver.abort();
    Ok(response?.status().as_u16())
}

/// TLS without looking at the certificate, as upstream's probes.
async fn tls(socket: TcpStream, host: &str) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    client::connect_to_anyone(socket, name).await.map_err(|error| error.to_string())
}
