//! Carries the machine's actions out: each in a task of its own, each answered by exactly one input to the worker.

use super::probes::{HookFailure, Probed};
use super::pull;
use super::seams::RuntimeEvent;
use super::shared::Shared;
use super::volume_manager;
use super::worker::Input;
use crate::bandwidth;
use crate::container::{ImageConfig, LaunchError, SandboxSpec, Surroundings, launch, pod_limits, termination_log};
use crate::environment::{FieldContext, LinkedService, needs};
use crate::lifecycle::{Action, Event, Hook, ProbeKind, Report, Severity, Signal, as_container, qos_class};
use crate::volumes::{Prepared, hostnames, hosts_file, resolv_conf};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, Probe};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long the deletion of an object that the API does not take is waited with.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How long the first containers wait for the list of Services.
const SERVICES_WITHIN: Duration = Duration::from_secs(5);

/// The file of a sandbox that is written when all the rest of it is there.
const LAST_FILE: &str = "hostname";

/// What an action knows of its pod.
#[derive(Clone)]
pub(super) struct Facts {
    pub(super) pod: Arc<Pod>,
    pub(super) uid: String,
    pub(super) addresses: Vec<IpAddr>,
}

impl Facts {
    /// What fields of the downward API need.
    pub(super) fn context(&self, shared: &Shared) -> FieldContext {
        let (cpu_milli, memory_bytes, ephemeral_bytes) = shared.size;
        let host_addresses = shared.addresses.0.clone();
        FieldContext { pod_addresses: self.addresses.clone(), host_addresses, cpu_milli, memory_bytes, ephemeral_bytes }
    }

    fn host_network(&self) -> bool {
        self.pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
    }

    pub(super) fn container(&self, name: &str) -> Option<Container> {
        let spec = self.pod.spec.as_ref()?;
        let mut plain = spec.init_containers.iter().flatten().chain(&spec.containers);
        if let Some(found) = plain.find(|container| container.name == name) {
            return Some(found.clone());
        }
        spec.ephemeral_containers.iter().flatten().find(|container| container.name == name).map(as_container)
    }
}

/// Starts carrying out one action.
pub(super) fn perform(
    shared: Arc<Shared>,
    facts: Facts,
    action: Action,
    image: Option<ImageConfig>,
    prepared: Option<Vec<Prepared>>,
    answers: mpsc::UnboundedSender<Input>,
    runtime: mpsc::UnboundedSender<RuntimeEvent>,
) {
    // Half a sandbox or half a start would be in the next agent's way; what only waits is ended.
    let to_end = matches!(
        action,
        Action::CreateSandbox
            | Action::DestroySandbox
            | Action::Start { .. }
            | Action::Signal { .. }
            | Action::RemoveContainer { .. }
    );
    let tasks = shared.tasks.clone();
    let work = async move {
        let answer = match action {
            Action::PrepareVolumes => match volume_manager::prepare(&shared, &facts.pod, &facts.context(&shared)).await
            {
                Ok(made) => Some(Input::Volumes { prepared: made.prepared, refresh_at: made.refresh_at, answer: true }),
                Err(message) => Some(Input::Lifecycle(Event::VolumesFailed(message))),
            },
            Action::CreateSandbox => Some(Input::Lifecycle(match create_sandbox(&shared, &facts, runtime).await {
                Ok((pid, addresses)) => Event::SandboxReady { pid, addresses },
                Err(message) => Event::SandboxFailed(message),
            })),
            Action::DestroySandbox => {
                destroy(&shared, &facts, !facts.host_network()).await;
                Some(Input::Lifecycle(Event::SandboxDestroyed))
            }
            Action::EnsureImage { container } => Some(pull::ensure_image(&shared, &facts, container).await),
            Action::Start { container, attempt } => {
                Some(Input::Lifecycle(match start(&shared, &facts, &container, attempt, image, prepared).await {
                    Ok((id, started_at)) => Event::Started { container, id, started_at },
                    Err(LaunchError { failure, message }) => Event::StartFailed { container, failure, message },
                }))
            }
            Action::RunHook { container, id, hook, timeout_seconds } => {
                let seconds = u64::try_from(timeout_seconds).unwrap_or(0);
                let outcome = run_hook(&shared, &facts, &container, &id, hook, Duration::from_secs(seconds)).await;
                Some(Input::Lifecycle(Event::HookDone { container, id, hook, outcome }))
            }
            Action::Probe { container, id, kind } => {
                let outcome = probe(&shared, &facts, &container, &id, kind).await;
                Some(Input::Lifecycle(Event::Probed { container, id, kind, outcome }))
            }
            Action::Signal { container, id, signal } => {
                let number = match signal {
                    Signal::Kill => 9,
                    Signal::Stop => {
                        let spec = facts.container(&container);
                        let image = match image {
                            Some(image) => Some(image),
                            None => image_of_old(&shared, spec.as_ref()).await,
                        };
                        stop_signal(spec.as_ref(), image.as_ref())
                    }
                };
                if let Err(error) = shared.containers.signal(&facts.uid, &id, number).await {
                    tracing::debug!(container, %error, "a signal could not be sent"); // its end comes as an event
                }
                None
            }
            Action::RemoveContainer { id } => {
                if let Err(error) = shared.containers.remove_container(&facts.uid, &id).await {
                    tracing::debug!(id, %error, "an ended container could not be removed; it goes with its pod");
                }
                None
            }
            Action::CleanUp | Action::FinishDeletion | Action::Report(_) => None, // the worker does these
        };
        if let Some(answer) = answer {
            let _ = answers.send(answer);
        }
    };
    if to_end {
        tasks.spawn_to_end(work);
    } else {
        tasks.spawn(work);
    }
}

async fn create_sandbox(
    shared: &Shared,
    facts: &Facts,
    runtime: mpsc::UnboundedSender<RuntimeEvent>,
) -> Result<(u32, Vec<IpAddr>), String> {
    let _permit = shared.starts.acquire().await.map_err(|error| error.to_string())?;
    let spec = facts.pod.spec.as_ref().ok_or("the pod has no spec")?;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (hostname, full) = hostnames(&facts.pod, &shared.dns.cluster_domain);
    let hostname = match (spec.set_hostname_as_fqdn, full) {
        (Some(true), Some(full)) if full.len() <= 64 => full,
        (Some(true), Some(full)) => return Err(format!("the host name {full:?} is longer than 64 characters")),
        _ => hostname,
    };
    let sysctls = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    let sandbox = SandboxSpec {
        uid: facts.uid.clone(),
        namespace: text(&facts.pod.metadata.namespace),
        name: text(&facts.pod.metadata.name),
        hostname: hostname.clone(),
        host_network: facts.host_network(),
        host_ipc: spec.host_ipc.unwrap_or(false),
        sysctls: sysctls.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect(),
        qos_class: qos_class(spec).into(),
        limits: pod_limits(spec),
    };
    let pid = shared.containers.create_sandbox(sandbox, runtime).await?;
    let addresses = if facts.host_network() {
        if bandwidth::is_asked_for(&facts.pod) {
            let message = "Bandwidth shaping is not currently supported on the host network".to_owned();
            warn(shared, facts, "HostNetworkNotSupported", message);
        }
        shared.addresses.0.clone()
    } else {
        match shared.network.attach(&facts.pod, &facts.uid, pid).await {
            Ok(connected) => {
                if let Some(why) = connected.unlimited {
                    let message = format!("Pod requests bandwidth shaping, but the shaper is undefined: {why}");
                    warn(shared, facts, "UndefinedShaper", message);
                }
                connected.addresses
            }
            Err(message) => {
                // What was attached in part the network itself took back, or will.
                destroy(shared, facts, false).await;
                return Err(format!("network: {message}"));
            }
        }
    };
    let written = write_files(shared, facts, &addresses, hostname).await;
    if let Err(message) = written {
        destroy(shared, facts, !facts.host_network()).await;
        return Err(message);
    }
    Ok((pid, addresses))
}

/// An event about something that does not keep the pod from running.
fn warn(shared: &Shared, facts: &Facts, reason: &str, message: String) {
    let report = Report { severity: Severity::Warning, reason: reason.into(), message, container: String::new() };
    shared.recorder.pod(&facts.pod, report);
}

/// /etc/hosts, /etc/resolv.conf and /etc/hostname.
async fn write_files(shared: &Shared, facts: &Facts, addresses: &[IpAddr], hostname: String) -> Result<(), String> {
    let directory = shared.paths.pod(&facts.uid);
    let pod = Arc::clone(&facts.pod);
    let (dns, addresses) = (shared.dns.clone(), addresses.to_vec());
    let work = move || -> std::io::Result<()> {
        std::fs::create_dir_all(&directory)?;
        let host_file = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        let files = [
            ("etc-hosts", hosts_file(&pod, &addresses, &dns.cluster_domain, &host_file)),
            ("resolv.conf", resolv_conf(&pod, &dns)),
            (LAST_FILE, format!("{hostname}\n")),
        ];
        for (name, content) in files {
            let path = directory.join(format!(".{name}.new"));
            std::fs::write(&path, content)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
            std::fs::rename(&path, directory.join(name))?;
        }
        Ok(())
    };
    let written = shared.tasks.blocking(work).await?;
    written.map_err(|error| format!("the pod's files could not be written: {error}"))
}

/// True where everything of a sandbox was made before the agent ended.
pub(super) fn sandbox_finished(shared: &Shared, uid: &str) -> bool {
    shared.paths.pod(uid).join(LAST_FILE).exists()
}

async fn destroy(shared: &Shared, facts: &Facts, is_attached: bool) {
    let mut wait = Duration::from_millis(100);
    for _ in 0..20 {
        let detach = async || if is_attached { shared.network.detach(&facts.uid).await } else { Ok(()) };
        let ended = if shared.network.detaches_first() {
            let detached = detach().await;
            (detached, shared.containers.destroy(&facts.uid).await)
        } else {
            // The sandbox first: its namespace takes the interface along, and what is left to the network is quick.
            let destroyed = shared.containers.destroy(&facts.uid).await;
            (detach().await, destroyed)
        };
        match ended {
            (Ok(()), Ok(())) => return,
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(uid = facts.uid, %error, "a pod's sandbox could not be removed; it is tried again");
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
    tracing::error!(uid = facts.uid, "a pod's sandbox is left behind; the next start of the agent removes it");
}

/// The services that a container is told of. A node that has just started waits for them, but not for an API that is away.
async fn linked_services(shared: &Shared, pod: &Pod) -> Vec<LinkedService> {
    let mut known = shared.services.subscribe();
    let links = match tokio::time::timeout(SERVICES_WITHIN, known.wait_for(Option::is_some)).await {
        Ok(Ok(links)) => links.clone().unwrap_or_default(),
        _ => Default::default(),
    };
    let mut all: Vec<LinkedService> = links.api.iter().cloned().collect();
    if pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        all.extend(links.by_namespace.get(namespace).into_iter().flatten().cloned());
    }
    all
}

async fn start(
    shared: &Shared,
    facts: &Facts,
    name: &str,
    attempt: u32,
    image: Option<ImageConfig>,
    prepared: Option<Vec<Prepared>>,
) -> Result<(String, Timestamp), LaunchError> {
    let container =
        facts.container(name).ok_or_else(|| LaunchError::config("the container is not in the pod's spec"))?;
    let failed = |message: String| LaunchError::create(message);
    let image = match image {
        Some(image) => image,
        None => {
            // After a restart of the agent the image is known to be there, but not what it holds.
            pull::again(shared, facts, &container).await.map_err(|failure| failed(failure.message))?.config
        }
    };
    let context = facts.context(shared);
    let prepared = match prepared {
        Some(prepared) => prepared,
        None => volume_manager::prepare(shared, &facts.pod, &context).await.map_err(failed)?.prepared,
    };
    let namespace = facts.pod.metadata.namespace.as_deref().unwrap_or("default");
    let needed = needs(&facts.pod);
    let refers =
        container.env_from.is_some() || container.env.iter().flatten().any(|variable| variable.value_from.is_some());
    let inputs =
        if refers { shared.references.inputs(&facts.uid, namespace, &needed).await } else { Default::default() };
    let pod_directory = shared.paths.pod(&facts.uid);
    let log_directory = shared.paths.pod_logs(&facts.pod);
    let services = linked_services(shared, &facts.pod).await;
    let around = Surroundings {
        volumes: &prepared,
        pod_directory: &pod_directory,
        log_directory: &log_directory,
        services: &services,
        inputs: &inputs,
        context: &context,
        seccomp_root: &shared.paths.seccomp(),
    };
    let launched = launch(&facts.pod, &container, attempt, &image, &around)?;
    let file = termination_log(&pod_directory, name, attempt);
    let logs = log_directory.join(name);
    let make = move || -> std::io::Result<()> {
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&file, b"")?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666))?;
        std::fs::create_dir_all(logs)
    };
    let made = shared.tasks.blocking(make).await.map_err(failed)?;
    made.map_err(|error| failed(format!("the container's files: {error}")))?;
    let _permit = shared.starts.acquire().await.map_err(|error| failed(error.to_string()))?;
    shared.containers.start(&facts.uid, launched).await
}

fn probed<'a>(shared: &'a Shared, facts: &'a Facts, container: &'a Container, id: &'a str) -> Probed<'a> {
    Probed { containers: &shared.containers, uid: &facts.uid, id, container, address: facts.addresses.first().copied() }
}

async fn run_hook(
    shared: &Shared,
    facts: &Facts,
    name: &str,
    id: &str,
    hook: Hook,
    within: Duration,
) -> Result<(), String> {
    let Some(container) = facts.container(name) else { return Ok(()) };
    let lifecycle = container.lifecycle.clone().unwrap_or_default();
    let handler: Option<LifecycleHandler> = match hook {
        Hook::PostStart => lifecycle.post_start,
        Hook::PreStop => lifecycle.pre_stop,
    };
    let Some(handler) = handler else { return Ok(()) };
    let probed = probed(shared, facts, &container, id);
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let meta = &facts.pod.metadata;
    let pod = format!("{}_{}({})", text(&meta.name), text(&meta.namespace), facts.uid);
    let whose = format!("for Container {name:?} in Pod {pod:?} failed");
    if let Some(exec) = &handler.exec {
        probed.exec_hook(exec, within).await.map_err(|HookFailure { error, message }| {
            let command = exec.command.as_deref().unwrap_or_default().join(" ");
            format!("Exec lifecycle hook ([{command}]) {whose} - error: {error}, message: {message:?}")
        })
    } else if let Some(get) = &handler.http_get {
        let path = get.path.as_deref().unwrap_or_default();
        let outcome = probed.http_get(get, within.min(Duration::from_secs(60))).await;
        outcome.map_err(|error| format!("HTTP lifecycle hook ({path}) {whose} - error: {error}"))
    } else if let Some(sleep) = &handler.sleep {
        let wanted = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
        tokio::time::sleep(wanted.min(within)).await;
        Ok(())
    } else {
        Err("invalid handler: it is none of exec, httpGet and sleep".into())
    }
}

async fn probe(shared: &Shared, facts: &Facts, name: &str, id: &str, kind: ProbeKind) -> Result<(), String> {
    let Some(container) = facts.container(name) else { return Ok(()) };
    let Some(probe): Option<Probe> = kind.of(&container).cloned() else { return Ok(()) };
    let within = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1).max(1)).unwrap_or(1));
    let probed = probed(shared, facts, &container, id);
    if let Some(exec) = &probe.exec {
        probed.exec(exec, within).await
    } else if let Some(get) = &probe.http_get {
        probed.http_get(get, within).await
    } else if let Some(tcp) = &probe.tcp_socket {
        probed.tcp(tcp, within).await
    } else if let Some(grpc) = &probe.grpc {
        probed.grpc(grpc, within).await
    } else {
        Err("missing probe handler".into())
    }
}

/// The image of a container that an earlier agent started: it is there, because the container uses it.
async fn image_of_old(shared: &Shared, container: Option<&Container>) -> Option<ImageConfig> {
    let reference = container?.image.clone()?;
    shared.containers.present(&reference).await.ok().flatten().map(|found| found.config)
}

/// The number of the signal that asks a container to stop.
fn stop_signal(container: Option<&Container>, image: Option<&ImageConfig>) -> i32 {
    const TERM: i32 = 15;
    let own = container.and_then(|container| container.lifecycle.as_ref()?.stop_signal.clone());
    let Some(name) = own.or_else(|| image.and_then(|image| image.stop_signal.clone())) else { return TERM };
    if let Ok(number) = name.parse::<i32>() {
        return if (1..=64).contains(&number) { number } else { TERM };
    }
    let names = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ILL", 4),
        ("TRAP", 5),
        ("ABRT", 6),
        ("BUS", 7),
        ("FPE", 8),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
        ("CHLD", 17),
        ("CONT", 18),
        ("STOP", 19),
        ("TSTP", 20),
        ("TTIN", 21),
        ("TTOU", 22),
        ("URG", 23),
        ("XCPU", 24),
        ("XFSZ", 25),
        ("VTALRM", 26),
        ("PROF", 27),
        ("WINCH", 28),
        ("IO", 29),
        ("PWR", 30),
        ("SYS", 31),
        ("RTMIN", 34),
        ("RTMAX", 64),
    ];
    let name = name.to_ascii_uppercase();
    let name = name.trim_start_matches("SIG");
    if let Some((base, offset)) = name.split_once('+') {
        let number = (base == "RTMIN").then(|| offset.parse::<i32>().ok()).flatten();
        return number.map(|offset| 34 + offset).filter(|number| *number <= 64).unwrap_or(TERM);
    }
    names.iter().find(|(have, _)| *have == name).map_or(TERM, |(_, number)| *number)
}

/// Deletes the object once its last status is written; tries again until the API has taken it.
pub(super) fn finish_deletion(
    shared: Arc<Shared>,
    pod: &Pod,
    flushed: impl Future<Output = ()> + Send + 'static,
    answers: mpsc::UnboundedSender<Input>,
) {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let meta = &pod.metadata;
    let (namespace, name, uid) = (text(&meta.namespace), text(&meta.name), text(&meta.uid));
    shared.tasks.clone().spawn(async move {
        flushed.await;
        let mut wait = Duration::from_millis(100);
        while !answers.is_closed() {
            match shared.api.finish_deletion(&namespace, &name, &uid).await {
                Ok(()) => return, // finalizers may still hold the object: its end comes with the watch
                Err(status) if status.is_not_found() || status.is_conflict() => {
                    let _ = answers.send(Input::Deleted);
                    return;
                }
                Err(status) => tracing::debug!(%namespace, %name, error = %status, "a deletion is finished later"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    });
}

/// A second without a free name for a rotated log is waited for in such steps.
const LOG_ROTATION_PAUSE: Duration = Duration::from_millis(250);
const LOG_ROTATION_TRIES: usize = 6;

/// Puts a log that has grown aside and has the runtime open a new one; only the newest are kept.
pub(super) fn rotate_log(shared: Arc<Shared>, uid: String, id: String, directory: PathBuf, attempt: u32) {
    shared.tasks.clone().spawn_to_end(async move {
        for _ in 0..LOG_ROTATION_TRIES {
            let directory = directory.clone();
            let put_aside = move || super::log_rotation::put_aside(&directory, attempt, Timestamp::now());
            match shared.tasks.blocking(put_aside).await {
                Ok(Ok(true)) => break,
                Ok(Ok(false)) => tokio::time::sleep(LOG_ROTATION_PAUSE).await,
                // The shim then waits its few seconds and rotates by itself.
                Ok(Err(error)) => return tracing::warn!(%error, "a log could not be rotated"),
                Err(_) => return,
            }
        }
        if let Err(error) = shared.containers.reopen_log(&uid, &id).await {
            tracing::warn!(%error, "a rotated log could not be opened anew");
        }
    });
}
