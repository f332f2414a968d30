//! Answers load balancers that ask whether this node has endpoints of a Service (spec.healthCheckNodePort, externalTrafficPolicy Local): 200 with
//! any, 503 without, in the words of upstream's proxy.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use network::services::{ServiceKey, ServiceState};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

/// How long after a port could not be listened on it is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// A client that has not asked within this is left.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Clients of one Service at a time; more wait in the kernel's queue.
const CLIENTS_MAX: usize = 64;

/// The ports that are answered on.
#[derive(Default)]
pub(super) struct HealthChecks {
    services: BTreeMap<ServiceKey, Answering>,
}

struct Answering {
    port: u16,
    local: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HealthChecks {
    /// Takes a Service's new state over; none where it is gone. Must be called within a runtime.
    pub(super) fn update(&mut self, key: &ServiceKey, state: Option<&ServiceState>) {
        let Some((port, count)) = state.and_then(|state| Some((state.health_check_node_port?, local_endpoints(state))))
        else {
            self.services.remove(key);
            return;
        };
        if let Some(answering) = self.services.get(key).filter(|answering| answering.port == port) {
            answering.local.store(count, Ordering::Relaxed);
            return;
        }
        // A former port's task ends first: the new one may be another Service's former.
        self.services.remove(key);
        let local = Arc::new(AtomicUsize::new(count));
        let task = tokio::spawn(answer(port, key.clone(), Arc::clone(&local))).abort_handle();
        self.services.insert(key.clone(), Answering { port, local, task });
    }

    /// Forgets all Services but these.
    pub(super) fn retain(&mut self, kept: &BTreeSet<ServiceKey>) {
        self.services.retain(|key, _| kept.contains(key));
    }
}

/// The addresses of ready endpoints on this node.
fn local_endpoints(state: &ServiceState) -> usize {
    let all = state.ports.iter().flat_map(|port| &port.endpoints);
    let local: BTreeSet<_> =
        all.filter(|endpoint| endpoint.node_local && endpoint.ready).map(|endpoint| endpoint.ip).collect();
    local.len()
}

async fn answer(port: u16, key: ServiceKey, local: Arc<AtomicUsize>) {
    let mut told = false;
    let listener = loop {
        match listen(port).await {
            Ok(listener) => break listener,
            Err(error) => {
                if !told {
                    tracing::warn!(%error, port, namespace = key.namespace, service = key.name,
                        "the Service's health checks cannot be answered: its healthCheckNodePort cannot be listened on; trying again");
                }
                told = true;
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    };
    let clients = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&clients).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or a client that is gone already.
                tracing::debug!(%error, port, "a health check could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (key, local) = (key.clone(), Arc::clone(&local));
        tokio::spawn(async move {
            let service = service_fn(|_| {
                let response = response(&key, local.load(Ordering::Relaxed));
                async move { Ok::<_, Infallible>(response) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIMEOUT)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // A client that breaks off, or never reads, is no concern of ours.
            let _ = tokio::time::timeout(REQUEST_TIMEOUT * 2, served).await;
            drop(permit);
        });
    }
}

/// On all addresses of the node; on those of IPv4 where the host has no IPv6.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    let any = |address: IpAddr| TcpListener::bind((address, port));
    match any(Ipv6Addr::UNSPECIFIED.into()).await {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => any(Ipv4Addr::UNSPECIFIED.into()).await,
        other => other,
    }
}

fn response(key: &ServiceKey, local: usize) -> Response<Full<Bytes>> {
    let body = serde_json::json!({
        "service": {"namespace": key.namespace, "name": key.name},
        "localEndpoints": local,
        "serviceProxyHealthy": true,
    });
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = if local > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("x-load-balancing-endpoint-weight", HeaderValue::from(local));
    response
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use network::services::{Endpoint, ServicePort};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn ask(port: u16) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    async fn eventually(port: u16, wanted: impl Fn(&Option<String>) -> bool) -> Option<String> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let answer = ask(port).await;
            if wanted(&answer) {
                return answer;
            }
            assert!(tokio::time::Instant::now() < deadline, "last answer: {answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn state(port: u16, local: &[bool]) -> ServiceState {
        let endpoint = |(index, ready): (usize, &bool)| Endpoint {
            node_local: true,
            ready: *ready,
            ..Endpoint::ready(IpAddr::from([10, 42, 0, u8::try_from(index).unwrap()]), 8080)
        };
        let mut endpoints: Vec<Endpoint> = local.iter().enumerate().map(endpoint).collect();
        endpoints.push(Endpoint::ready(IpAddr::from([10, 42, 9, 9]), 8080));
        let ports = [80, 443].map(|port| ServicePort { port, endpoints: endpoints.clone(), ..ServicePort::default() });
        ServiceState { ports: ports.to_vec(), health_check_node_port: Some(port), ..ServiceState::default() }
    }

    #[tokio::test]
    async fn a_node_is_healthy_while_it_has_ready_endpoints() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let key = ServiceKey::new("default", "web");
        let mut checks = HealthChecks::default();
        checks.update(&key, Some(&state(port, &[true, true, false])));
        let answer = eventually(port, Option::is_some).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        for wanted in [
            "content-type: application/json\r\n",
            "x-load-balancing-endpoint-weight: 2\r\n",
            r#""localEndpoints":2"#,
            r#""service":{"name":"web","namespace":"default"}"#,
        ] {
            assert!(answer.contains(wanted), "{wanted} is not in {answer}");
        }
        checks.update(&key, Some(&state(port, &[false])));
        assert!(ask(port).await.unwrap().starts_with("HTTP/1.1 503 "), "remote and unready endpoints do not count");
        checks.update(&key, Some(&ServiceState::default()));
        eventually(port, Option::is_none).await;
        // The port goes to another Service while the first one's listener may still be closing.
        let other = ServiceKey::new("default", "other");
        checks.update(&other, Some(&state(port, &[true])));
        eventually(port, |answer| answer.as_ref().is_some_and(|text| text.contains(r#""name":"other""#))).await;
        checks.retain(&BTreeSet::new());
        eventually(port, Option::is_none).await;
    }
}
