//! The runtime behind the agent's seam: plain data in, plain data out, and each pod's events into its worker's channel.

use crate::agent::{
    Containers, ImageFailure, ImageFound, ImageOnNode, ImageWish, RecoveredPod, RuntimeEvent, RuntimeExit, Usage,
};
use crate::container::{self, Launch, LaunchError, MountPropagation, Processes, SandboxSpec};
use crate::lifecycle::{Exit, RecoveredContainer, StartFailure};
use crate::streaming::{ExecRequest, Process, Size};
use async_trait::async_trait;
use jiff::Timestamp;
use runtime::{
    Capabilities, ContainerSpec, ContainerState, Credentials, ExecSpec, ImageError, Mount, PidNamespace, Pod, PodEvent,
    PodSpec, Propagation, PullOptions, QosClass, Resources, Runtime, Seccomp, StartFault,
};
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// A log is rotated when it passes this (upstream's default containerLogMaxSize).
const LOG_NOTICE_BYTES: u64 = 10 << 20;
/// No log file is larger; the megabyte between is written while the agent rotates.
const LOG_CAP_BYTES: u64 = 11 << 20;

/// The node's runtime.
pub struct RuntimeAdapter {
    runtime: Runtime,
    pods: RwLock<HashMap<String, Pod>>,
}

fn time(nanoseconds: u64) -> Option<Timestamp> {
    (nanoseconds > 0).then(|| Timestamp::from_nanosecond(nanoseconds.into()).ok()).flatten()
}

fn exit_of(exit: &runtime::Exit) -> RuntimeExit {
    RuntimeExit {
        code: exit.code,
        oom_killed: exit.oom_killed,
        observed: exit.observed,
        started_at: time(exit.started_ns),
        finished_at: time(exit.finished_ns).unwrap_or_else(Timestamp::now),
    }
}

fn resources(limits: &container::Limits) -> Resources {
    Resources {
        cpu_shares: limits.cpu_shares,
        cpu_quota_us: limits.cpu_quota_us,
        memory_limit_bytes: limits.memory_limit_bytes,
        ..Resources::default()
    }
}

impl RuntimeAdapter {
    /// Over an opened runtime.
    #[must_use]
    pub fn new(runtime: Runtime) -> Self {
        Self { runtime, pods: RwLock::default() }
    }

    fn pod(&self, uid: &str) -> Result<Pod, String> {
        let pods = self.pods.read().unwrap_or_else(PoisonError::into_inner);
        pods.get(uid).cloned().ok_or_else(|| format!("the pod {uid} has no sandbox"))
    }

    fn keep(&self, uid: &str, pod: Pod) {
        self.pods.write().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), pod);
    }
}

/// Sends a pod's events on until the pod or the worker is gone.
fn forward(pod: &Pod, sender: mpsc::UnboundedSender<RuntimeEvent>) {
    let mut events = pod.events();
    let pod = pod.clone();
    tokio::spawn(async move {
        let mut told_lost = false;
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = sender.closed() => return,
            };
            // The loss comes before the ends that it causes, so that nobody starts a container in a pod that is gone.
            if !told_lost && !pod.is_alive() {
                told_lost = true;
                let _ = sender.send(RuntimeEvent::Lost { pid: u32::try_from(pod.pid()).unwrap_or_default() });
            }
            let all = match event {
                None => return,
                Some(PodEvent::Exited { id, exit }) => vec![RuntimeEvent::Exited(id, exit_of(&exit))],
                Some(PodEvent::LogGrew { id, .. }) => vec![RuntimeEvent::LogGrew(id)],
                Some(PodEvent::Lost) => Vec::new(),
                Some(PodEvent::Missed) => {
                    let ended = pod.containers().into_iter().filter_map(|status| match status.state {
                        ContainerState::Exited(exit) => Some(RuntimeEvent::Exited(status.id, exit_of(&exit))),
                        _ => None,
                    });
                    ended.collect()
                }
            };
            for event in all {
                if sender.send(event).is_err() {
                    return;
                }
            }
        }
    });
}

fn failure(error: &runtime::Error) -> ImageFailure {
    let reason = match error {
        runtime::Error::Image(ImageError::InvalidReference { .. }) => "InvalidImageName",
        _ => "ErrImagePull",
    };
    ImageFailure { reason: reason.into(), message: error.to_string() }
}

fn found(image: runtime::Image, pulled: Option<(u64, f64)>) -> ImageFound {
    let user = image.config.user.clone();
    let user_id = match user.split(':').next().unwrap_or_default() {
        "" => Some(0),
        name => name.parse().ok(),
    };
    ImageFound {
        image_id: image.digests.first().cloned().unwrap_or_else(|| image.id.clone()),
        config: container::ImageConfig {
            id: image.id.clone(),
            entrypoint: image.config.entrypoint.clone(),
            arguments: image.config.cmd.clone(),
            user,
            user_id,
            stop_signal: Some(image.config.stop_signal.clone()).filter(|signal| !signal.is_empty()),
        },
        pulled,
        secret: None,
    }
}

fn spec_of(launch: Launch) -> ContainerSpec {
    let security = launch.security;
    ContainerSpec {
        name: launch.name,
        attempt: launch.attempt,
        image: launch.image,
        command: launch.command,
        env: launch.environment,
        working_directory: launch.working_directory,
        mounts: launch
            .mounts
            .into_iter()
            .map(|mount| Mount {
                source: mount.source,
                sub_path: mount.sub_path,
                target: mount.target,
                read_only: mount.read_only,
                recursive_read_only: mount.recursive_read_only,
                propagation: match mount.propagation {
                    MountPropagation::None => Propagation::None,
                    MountPropagation::HostToContainer => Propagation::HostToContainer,
                    MountPropagation::Bidirectional => Propagation::Bidirectional,
                },
            })
            .collect(),
        user: security.user.map(|user| user.to_string()),
        group: security.group,
        supplemental_groups: security.supplemental_groups,
        strict_groups: security.strict_groups,
        capabilities: Capabilities { add: security.add_capabilities, drop: security.drop_capabilities },
        privileged: security.privileged,
        read_only_root: security.read_only_root,
        seccomp: match security.seccomp {
            container::Seccomp::RuntimeDefault => Seccomp::RuntimeDefault,
            container::Seccomp::Unconfined => Seccomp::Unconfined,
            container::Seccomp::Profile(text) => Seccomp::Profile(text),
        },
        no_new_privileges: security.no_new_privileges,
        unmasked_proc: security.unmasked_proc,
        resources: resources(&launch.limits),
        tty: launch.tty,
        stdin: launch.stdin,
        log_path: Some(launch.log_path),
        log_notice_bytes: LOG_NOTICE_BYTES,
        log_cap_bytes: LOG_CAP_BYTES,
        pid_namespace: match launch.processes {
            Processes::Container => PidNamespace::Container,
            Processes::Pod => PidNamespace::Pod,
            Processes::Host => PidNamespace::Host,
            Processes::Of(_) => PidNamespace::Pod, // its id is looked up by the caller
        },
        oom_score_adj: launch.oom_score_adjust,
        ..ContainerSpec::default()
    }
}

fn reader(stream: runtime::Stream) -> Box<dyn AsyncRead + Send + Unpin> {
    Box::new(stream)
}

#[async_trait]
impl Containers for RuntimeAdapter {
    async fn present(&self, reference: &str) -> Result<Option<ImageFound>, ImageFailure> {
        match self.runtime.images().resolve(reference).await {
            Ok(image) => Ok(Some(found(image, None))),
            Err(error @ runtime::Error::Image(ImageError::InvalidReference { .. })) => Err(failure(&error)),
            Err(_) => Ok(None),
        }
    }

    async fn pull(&self, wish: ImageWish) -> Result<ImageFound, ImageFailure> {
        let begun = Instant::now();
        let anonymously = wish.logins.is_empty().then_some(None);
        let mut denied = None;
        for login in wish.logins.iter().map(Some).chain(anonymously) {
            let credentials =
                login.map(|login| Credentials { username: login.user.clone(), password: login.password.clone() });
            // The registry is always asked: an image that somebody else has just pulled is not for everybody.
            let options =
                PullOptions { credentials: credentials.into_iter().collect(), always: true, ..PullOptions::default() };
            match self.runtime.images().pull(&wish.reference, options).await {
                Ok(image) => {
                    let pulled = Some((image.size_bytes, begun.elapsed().as_secs_f64()));
                    let secret = login.map(|login| login.secret.clone());
                    return Ok(ImageFound { secret, ..found(image, pulled) });
                }
                Err(error @ runtime::Error::Image(ImageError::Denied { .. })) => denied = Some(failure(&error)),
                Err(error) => return Err(failure(&error)),
            }
        }
        let none = || failure(&runtime::Error::Image(ImageError::NotPresent(wish.reference.clone())));
        Err(denied.unwrap_or_else(none))
    }

    async fn images(&self) -> Vec<ImageOnNode> {
        let list = self.runtime.images().list().into_iter();
        list.map(|image| ImageOnNode {
            id: image.id,
            names: image.tags.into_iter().chain(image.digests).collect(),
            size_bytes: image.size_bytes,
        })
        .collect()
    }

    async fn remove_image(&self, id: &str) -> Result<(), String> {
        self.runtime.remove_image(id).await.map_err(|error| error.to_string())
    }

    async fn create_sandbox(
        &self,
        spec: SandboxSpec,
        events: mpsc::UnboundedSender<RuntimeEvent>,
    ) -> Result<u32, String> {
        let uid = spec.uid.clone();
        // What an earlier attempt left is in the way of a new one.
        if let Ok(old) = self.pod(&uid) {
            if old.is_alive() {
                forward(&old, events);
                return u32::try_from(old.pid()).map_err(|_| "the pod's shim is gone".to_owned());
            }
            old.destroy().await.map_err(|error| error.to_string())?;
        }
        let qos = match spec.qos_class.as_str() {
            "Guaranteed" => QosClass::Guaranteed,
            "Burstable" => QosClass::Burstable,
            _ => QosClass::BestEffort,
        };
        let wanted = PodSpec {
            uid: spec.uid,
            namespace: spec.namespace,
            name: spec.name,
            hostname: spec.hostname,
            host_network: spec.host_network,
            host_ipc: spec.host_ipc,
            sysctls: spec.sysctls,
            qos,
            resources: resources(&spec.limits),
            shm_size_bytes: None,
        };
        let pod = self.runtime.create_pod(wanted).await.map_err(|error| error.to_string())?;
        forward(&pod, events);
        let pid = u32::try_from(pod.pid()).map_err(|_| "the pod's shim is gone".to_owned())?;
        self.keep(&uid, pod);
        Ok(pid)
    }

    async fn start(&self, uid: &str, launch: Launch) -> Result<(String, Timestamp), LaunchError> {
        let lost = |message: String| LaunchError { failure: StartFailure::SandboxLost, message };
        let pod = self.pod(uid).map_err(lost)?;
        let name = launch.name.clone();
        let target = match &launch.processes {
            Processes::Of(target) => Some(target.clone()),
            _ => None,
        };
        let mut spec = spec_of(launch);
        if let Some(target) = target {
            let runs = |status: &runtime::ContainerStatus| {
                status.name == target && matches!(status.state, ContainerState::Running { .. })
            };
            let found = pod.containers().into_iter().find(runs);
            let missing = || LaunchError::create(format!("the target container {target:?} does not run"));
            spec.pid_namespace = PidNamespace::Of(found.ok_or_else(missing)?.id);
        }
        match pod.start_container(spec).await {
            Ok(status) => {
                let started = match &status.state {
                    ContainerState::Running { started_ns, .. } => time(*started_ns),
                    ContainerState::Exited(exit) => time(exit.started_ns),
                    ContainerState::Created => None,
                };
                Ok((status.id, started.unwrap_or_else(Timestamp::now)))
            }
            Err(runtime::Error::Start { message, fault, .. }) => Err(LaunchError {
                failure: match fault {
                    StartFault::Specification => StartFailure::Command,
                    StartFault::SetUp => StartFailure::SetUp,
                },
                message: format!("failed to start container {name:?}: {message}"),
            }),
            Err(error) if !pod.is_alive() => Err(lost(error.to_string())),
            Err(error) => Err(LaunchError::create(error.to_string())),
        }
    }

    async fn signal(&self, uid: &str, id: &str, signal: i32) -> Result<(), String> {
        self.pod(uid)?.signal(id, signal).await.map_err(|error| error.to_string())
    }

    async fn remove_container(&self, uid: &str, id: &str) -> Result<(), String> {
        self.pod(uid)?.remove_container(id).await.map_err(|error| error.to_string())
    }

    async fn destroy(&self, uid: &str) -> Result<(), String> {
        let Ok(pod) = self.pod(uid) else { return Ok(()) };
        pod.destroy().await.map_err(|error| error.to_string())?;
        self.pods.write().unwrap_or_else(PoisonError::into_inner).remove(uid);
        Ok(())
    }

    async fn exec(&self, uid: &str, id: &str, request: ExecRequest) -> Result<Process, String> {
        let pod = self.pod(uid)?;
        let spec = ExecSpec { args: request.command, tty: request.tty, stdin: request.stdin, ..ExecSpec::default() };
        let mut exec = pod.exec(id, spec).await.map_err(|error| error.to_string())?;
        let (resize, mut sizes) = mpsc::channel::<Size>(4);
        let stdin = exec.stdin.take().map(|stream| Box::new(stream) as Box<dyn AsyncWrite + Send + Unpin>);
        let (stdout, stderr) = (exec.stdout.take().map(reader), exec.stderr.take().map(reader));
        let exit = Box::pin(async move {
            let mut sizes_end = false;
            loop {
                let size = tokio::select! {
                    code = exec.wait() => return code.map_err(|error| error.to_string()),
                    size = sizes.recv(), if !sizes_end => size,
                };
                match size {
                    Some(size) => {
                        if let Err(error) = exec.resize(size.width, size.height) {
                            tracing::debug!(%error, "a terminal's size could not be set");
                        }
                    }
                    None => sizes_end = true,
                }
            }
        });
        Ok(Process { stdin, stdout, stderr, resize: request.tty.then_some(resize), exit })
    }

    async fn attach(&self, uid: &str, id: &str, request: ExecRequest) -> Result<Process, String> {
        let pod = self.pod(uid)?;
        let attached = pod.attach(id).await.map_err(|error| error.to_string())?;
        let (resize, mut sizes) = mpsc::channel::<Size>(4);
        let stdin = match attached.stdin.filter(|_| request.stdin) {
            None => None,
            Some(mut inner) => {
                let (ours, mut theirs) = tokio::io::duplex(32 << 10);
                let (pod, id) = (pod.clone(), id.to_owned());
                tokio::spawn(async move {
                    let copied = tokio::io::copy(&mut theirs, &mut inner).await;
                    drop(inner);
                    // stdinOnce: the first client's end is the end of the container's input.
                    if copied.is_ok()
                        && request.close_stdin
                        && let Err(error) = pod.close_stdin(&id).await
                    {
                        tracing::debug!(%error, "a container's input could not be closed");
                    }
                });
                Some(Box::new(ours) as Box<dyn AsyncWrite + Send + Unpin>)
            }
        };
        let id = id.to_owned();
        let exit = Box::pin(async move {
            let mut sizes_end = false;
            let waited = pod.wait(&id);
            tokio::pin!(waited);
            loop {
                let size = tokio::select! {
                    // Attaching succeeds whatever the container's exit code is, as upstream.
                    ended = &mut waited => return ended.map(|_| 0).map_err(|error| error.to_string()),
                    size = sizes.recv(), if !sizes_end => size,
                };
                match size {
                    Some(size) => drop(pod.resize(&id, size.width, size.height).await),
                    None => sizes_end = true,
                }
            }
        });
        let stdout = request.stdout.then(|| reader(attached.stdout));
        let stderr = request.stderr.then(|| reader(attached.stderr));
        Ok(Process { stdin, stdout, stderr, resize: request.tty.then_some(resize), exit })
    }

    async fn reopen_log(&self, uid: &str, id: &str) -> Result<(), String> {
        self.pod(uid)?.reopen_log(id).await.map_err(|error| error.to_string())
    }

    async fn recover(&self) -> Result<Vec<RecoveredPod>, String> {
        let pods = self.runtime.recover().await.map_err(|error| error.to_string())?;
        let mut recovered = Vec::new();
        for pod in pods {
            let uid = pod.spec().uid.clone();
            let pid = pod.is_alive().then(|| u32::try_from(pod.pid()).ok()).flatten();
            let containers = pod
                .containers()
                .into_iter()
                .filter_map(|status| {
                    let (started_at, exit) = match &status.state {
                        ContainerState::Created => return None,
                        ContainerState::Running { started_ns, .. } => (time(*started_ns), None),
                        ContainerState::Exited(exit) => (time(exit.started_ns), Some(exit_of(exit))),
                    };
                    let exit = exit.map(|exit| Exit {
                        id: status.id.clone(),
                        code: if exit.observed { exit.code } else { 137 },
                        reason: match (exit.observed, exit.oom_killed, exit.code) {
                            (false, ..) => "ContainerStatusUnknown",
                            (_, true, _) => "OOMKilled",
                            (_, _, 0) => "Completed",
                            _ => "Error",
                        }
                        .into(),
                        message: String::new(),
                        started_at: exit.started_at,
                        finished_at: exit.finished_at,
                    });
                    let started_at = started_at.unwrap_or(Timestamp::UNIX_EPOCH);
                    Some(RecoveredContainer { name: status.name, id: status.id, started_at, exit })
                })
                .collect();
            self.keep(&uid, pod);
            recovered.push(RecoveredPod { uid, pid, containers });
        }
        Ok(recovered)
    }

    async fn subscribe(&self, uid: &str, events: mpsc::UnboundedSender<RuntimeEvent>) {
        if let Ok(pod) = self.pod(uid) {
            forward(&pod, events.clone());
            // What ended between the recovery and now was told to nobody.
            for status in pod.containers() {
                if let ContainerState::Exited(exit) = status.state {
                    let _ = events.send(RuntimeEvent::Exited(status.id, exit_of(&exit)));
                }
            }
        }
    }

    async fn usage(&self, uid: &str, id: &str) -> Option<Usage> {
        let (pod, id) = (self.pod(uid).ok()?, id.to_owned());
        let stats = tokio::task::spawn_blocking(move || pod.container_stats(&id)).await.ok()?.ok()?;
        Some(Usage {
            cpu_ns: stats.cpu_ns,
            working_set_bytes: stats.memory_working_set_bytes,
            usage_bytes: stats.memory_usage_bytes,
            tasks: stats.tasks,
        })
    }

    fn written(&self, uid: &str, id: &str) -> Option<std::path::PathBuf> {
        self.pod(uid).ok()?.container_writes(id).ok()
    }
}
