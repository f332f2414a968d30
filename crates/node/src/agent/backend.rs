//! The endpoints' view of the node: logs, commands and sockets of its pods.

use super::dispatcher::{PodRegistry, PodView};
use super::shared::Shared;
use crate::lifecycle::{Container, Phase, PodState, Sandbox, status};
use crate::streaming::{Backend, ExecRequest, LogSource, Process};
use async_trait::async_trait;
use jiff::Timestamp;
use object::{GroupVersionResource, Status};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use std::fmt::Write;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};

/// How long a connect inside a pod may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Serves the endpoints of one node.
pub struct NodeBackend {
    shared: Arc<Shared>,
    registry: PodRegistry,
}

fn pods() -> GroupVersionResource {
    GroupVersionResource::new("", "v1", "pods")
}

impl NodeBackend {
    /// A backend over the node's pods.
    #[must_use]
    pub fn new(shared: Arc<Shared>, registry: PodRegistry) -> Self {
        Self { shared, registry }
    }

    fn view(&self, namespace: &str, pod: &str) -> Result<PodView, Status> {
        self.registry.by_name(namespace, pod).ok_or_else(|| Status::not_found(&pods(), pod))
    }

    fn running(&self, namespace: &str, pod: &str, container: &str) -> Result<(String, String), Status> {
        let state = self.view(namespace, pod)?.borrow().clone();
        let found = find(&state, pod, container)?;
        match &found.phase {
            Phase::Running(running) => Ok((state.pod.metadata.uid.clone().unwrap_or_default(), running.id.clone())),
            _ => Err(Status::not_found_text(format!("container not found (\"{container}\")"))),
        }
    }
}

trait NotFoundText {
    fn not_found_text(message: String) -> Status;
}

impl NotFoundText for Status {
    fn not_found_text(message: String) -> Status {
        Status::new(404, "NotFound", message)
    }
}

fn find<'a>(state: &'a PodState, pod: &str, container: &str) -> Result<&'a Container, Status> {
    state
        .container(container)
        .ok_or_else(|| Status::bad_request(format!("container {container} is not valid for pod {pod}")))
}

/// Which run's log is meant, and whether it may still grow.
fn log_attempt(state: &PodState, pod: &str, name: &str, previous: bool) -> Result<(u32, bool), Status> {
    let container = find(state, pod, name)?;
    let missing =
        || Status::bad_request(format!("previous terminated container \"{name}\" in pod \"{pod}\" not found"));
    if previous {
        return match (&container.last, container.restart_count) {
            (Some(_), count) if count > 0 => Ok((count - 1, false)),
            _ => Err(missing()),
        };
    }
    match &container.phase {
        Phase::Running(_) => Ok((container.restart_count, true)),
        Phase::Exited(_) => Ok((container.restart_count, false)),
        // Between two runs the log of the last one is the current one.
        Phase::Starting | Phase::Waiting { .. } if container.last.is_some() && container.restart_count > 0 => {
            Ok((container.restart_count - 1, false))
        }
        _ => {
            let shown = status(state, &Default::default());
            let all = [shown.init_container_statuses, shown.container_statuses, shown.ephemeral_container_statuses];
            let reason = all
                .into_iter()
                .flatten()
                .flatten()
                .find(|one| one.name == name)
                .and_then(|one| one.state?.waiting?.reason);
            let reason = reason.unwrap_or_else(|| "ContainerCreating".into());
            Err(Status::bad_request(format!("container \"{name}\" in pod \"{pod}\" is waiting to start: {reason}")))
        }
    }
}

#[async_trait]
impl Backend for NodeBackend {
    async fn logs(&self, namespace: &str, pod: &str, container: &str, previous: bool) -> Result<LogSource, Status> {
        let mut view = self.view(namespace, pod)?;
        let state = view.borrow().clone();
        let (attempt, alive) = log_attempt(&state, pod, container, previous)?;
        let directory = self.shared.paths.pod_logs(&state.pod).join(container);
        let (sender, running) = watch::channel(alive);
        if alive {
            let name = container.to_owned();
            self.shared.tasks.spawn(async move {
                let goes_on = |state: &PodState| {
                    let found = state.container(&name);
                    found.is_some_and(|one| one.restart_count == attempt && matches!(one.phase, Phase::Running(_)))
                };
                tokio::select! {
                    _ = view.wait_for(|state| !goes_on(state)) => {}
                    () = sender.closed() => {}
                }
                let _ = sender.send(false);
            });
        }
        Ok(LogSource { directory, attempt, running })
    }

    async fn exec(&self, namespace: &str, pod: &str, container: &str, request: ExecRequest) -> Result<Process, Status> {
        let (uid, id) = self.running(namespace, pod, container)?;
        self.shared
            .containers
            .exec(&uid, &id, request)
            .await
            .map_err(|message| Status::new(500, "InternalError", message))
    }

    async fn attach(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        mut request: ExecRequest,
    ) -> Result<Process, Status> {
        let (uid, id) = self.running(namespace, pod, container)?;
        let state = self.view(namespace, pod)?.borrow().clone();
        let once = |spec: &k8s_openapi::api::core::v1::PodSpec| {
            let plain = spec.containers.iter().find(|one| one.name == container).and_then(|one| one.stdin_once);
            let mut ephemeral = spec.ephemeral_containers.iter().flatten();
            plain.or_else(|| ephemeral.find(|one| one.name == container)?.stdin_once)
        };
        request.close_stdin = state.pod.spec.as_ref().and_then(once).unwrap_or(false);
        self.shared
            .containers
            .attach(&uid, &id, request)
            .await
            .map_err(|message| Status::new(500, "InternalError", message))
    }

    async fn connect(&self, namespace: &str, pod: &str, port: u16) -> Result<TcpStream, String> {
        let view = self.view(namespace, pod).map_err(|status| status.message)?;
        let state = view.borrow().clone();
        let Sandbox::Ready { pid, .. } = &state.sandbox else { return Err("the pod is not running".into()) };
        connect_inside(*pid, port).await
    }

    async fn pods(&self) -> Value {
        let items: Vec<Value> = self
            .registry
            .all()
            .iter()
            .map(|state| {
                let mut pod = (*state.pod).clone();
                pod.status = Some(status(state, &self.shared.addresses));
                let mut value = serde_json::to_value(&pod).unwrap_or_default();
                value.as_object_mut().map(|map| (map.remove("apiVersion"), map.remove("kind")));
                value
            })
            .collect();
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
    }

    async fn summary(&self) -> Value {
        let now = Timestamp::now();
        let mut pods = Vec::new();
        for state in self.registry.all() {
            let meta = &state.pod.metadata;
            let uid = meta.uid.clone().unwrap_or_default();
            let mut containers = Vec::new();
            for container in &state.containers {
                let Phase::Running(running) = &container.phase else { continue };
                let Some(usage) = self.shared.containers.usage(&uid, &running.id).await else { continue };
                containers.push(json!({
                    "name": container.name, "startTime": running.started_at,
                    "cpu": {"time": now, "usageCoreNanoSeconds": usage.cpu_ns},
                    "memory": {"time": now, "usageBytes": usage.usage_bytes, "workingSetBytes": usage.working_set_bytes}
                }));
            }
            pods.push(json!({
                "podRef": {"name": meta.name, "namespace": meta.namespace, "uid": uid},
                "startTime": state.start_time, "containers": containers
            }));
        }
        json!({"node": {"nodeName": self.shared.node}, "pods": pods})
    }

    async fn resource_metrics(&self) -> String {
        let (mut cpu, mut memory, mut begun) = (String::new(), String::new(), String::new());
        for state in self.registry.all() {
            let meta = &state.pod.metadata;
            let (namespace, pod) =
                (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
            for container in &state.containers {
                let Phase::Running(running) = &container.phase else { continue };
                let uid = meta.uid.as_deref().unwrap_or_default();
                let Some(usage) = self.shared.containers.usage(uid, &running.id).await else { continue };
                let labels = format!("{{container=\"{}\",namespace=\"{namespace}\",pod=\"{pod}\"}}", container.name);
                #[expect(clippy::cast_precision_loss, reason = "a metric in seconds")]
                let seconds = usage.cpu_ns as f64 / 1e9;
                let _ = writeln!(cpu, "container_cpu_usage_seconds_total{labels} {seconds}");
                let _ = writeln!(memory, "container_memory_working_set_bytes{labels} {}", usage.working_set_bytes);
                let _ = writeln!(begun, "container_start_time_seconds{labels} {}", running.started_at.as_second());
            }
        }
        format!(
            "# TYPE container_cpu_usage_seconds_total counter\n{cpu}# TYPE container_memory_working_set_bytes gauge\n{memory}\
             # TYPE container_start_time_seconds gauge\n{begun}"
        )
    }
}

/// Connects to a port in the network namespace of a process, on a thread that ends with the connect: no thread that
/// anything else runs on ever changes its namespace.
async fn connect_inside(pid: u32, port: u16) -> Result<TcpStream, String> {
    let (sender, receiver) = oneshot::channel();
    let work = move || -> std::io::Result<std::net::TcpStream> {
        let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net"))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        let mut last = None;
        for host in ["127.0.0.1", "::1"] {
            let Ok(ip) = host.parse() else { continue };
            match std::net::TcpStream::connect_timeout(&SocketAddr::new(ip, port), CONNECT_WITHIN) {
                Ok(socket) => {
                    socket.set_nonblocking(true)?;
                    return Ok(socket);
                }
                Err(error) => last = last.or(Some(error)),
            }
        }
        Err(last.unwrap_or_else(|| std::io::Error::other("no address to connect to")))
    };
    std::thread::Builder::new()
        .name("port-forward".into())
        .spawn(move || drop(sender.send(work())))
        .map_err(|error| error.to_string())?;
    let socket = receiver.await.map_err(|error| error.to_string())?;
    let socket = socket
        .map_err(|error| format!("failed to connect to localhost:{port} inside namespace of pid {pid}: {error}"))?;
    TcpStream::from_std(socket).map_err(|error| error.to_string())
}
