//! Starting a container: directories, groups and program here, the rest in the shim.

use std::{
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use super::handle::{Container, Inner, Pod};
use crate::{
    cgroup::Entry,
    error::{Context, Error, Result},
    images::Image,
    launch::{self, Place, StepName},
    runtime::blocking,
    spec::{ContainerSpec, ContainerState, ContainerStatus, PidNamespace},
    state::{self, ContainerRecord},
    wire::{self, Message},
};

/// A start that takes longer hangs in the kernel (a dead network file system, for instance).
const START_TIMEOUT: Duration = Duration::from_secs(120);

struct Prepared {
    record: ContainerRecord,
    program: OwnedFd,
    names: Vec<StepName>,
    log: Option<OwnedFd>,
    entry: Entry,
}

impl Pod {
    /// Starts a container. An error leaves nothing of it behind.
    pub async fn start_container(&self, spec: ContainerSpec) -> Result<ContainerStatus> {
        let making = self.inner.making().await?;
        let image_use = self.inner.shared.images.in_use().read().await;
        let image = self.inner.shared.images.resolve(&spec.image).await?;
        let inner = self.inner.clone();
        let mut flags = launch::pid_flags(&spec.pid_namespace);
        let target = match &spec.pid_namespace {
            PidNamespace::Of(id) => self.inner.find(id)?.record.token,
            _ => 0,
        };
        flags |= if spec.tty { wire::FLAG_TTY } else { 0 };
        flags |= if spec.stdin { wire::FLAG_STDIN } else { 0 };
        let limits = (spec.log_cap_bytes, spec.log_notice_bytes);
        let held = Arc::clone(&making);
        let prepared = blocking(move || {
            let _held = held;
            let id = state::random_hex(32)?;
            let prepared = prepare(&inner, &spec, &image, &id);
            if prepared.is_err() {
                discard(&inner, &id);
            }
            prepared
        })
        .await?;
        drop(image_use);
        let Prepared { record, program, names, log, entry } = prepared;
        let (id, token) = (record.id.clone(), record.token);
        let mut with = vec![program.as_fd()];
        if let Some(log) = &log {
            flags |= wire::FLAG_LOG;
            with.push(log.as_fd());
        }
        if let Some(directory) = &entry.directory {
            flags |= wire::FLAG_CGROUP;
            with.push(directory.as_fd());
        }
        let container = Container { record, state: ContainerState::Created };
        self.inner.lock().insert(id.clone(), container);
        let (b, c) = limits;
        let message = Message { kind: wire::START, token, a: flags, b, c, d: target, ..Message::default() };
        let outcome = match self.inner.connection() {
            Ok(connection) => tokio::time::timeout(START_TIMEOUT, connection.exchange(message, &with))
                .await
                .unwrap_or_else(|_| Err(Error::ShimLost(format!("no start within {} s", START_TIMEOUT.as_secs())))),
            Err(error) => Err(error),
        };
        let failure = match outcome {
            Ok(reply) if reply.message.status == 0 => {
                let mut containers = self.inner.lock();
                let Some(container) = containers.get_mut(&id) else { return Err(Error::NotFound(id)) };
                // The end may already have been told.
                if container.state == ContainerState::Created {
                    container.state =
                        ContainerState::Running { pid: reply.message.a as i32, started_ns: reply.message.b };
                }
                drop(containers);
                return self.container(&id).ok_or(Error::NotFound(id));
            }
            Ok(reply) => launch::start_error(&names, reply.message.a, reply.message.status),
            Err(error) => error,
        };
        self.inner.lock().remove(&id);
        let inner = self.inner.clone();
        blocking(move || {
            let _held = making;
            discard(&inner, &id);
            Ok(())
        })
        .await?;
        Err(failure)
    }
}

fn prepare(inner: &Arc<Inner>, spec: &ContainerSpec, image: &Image, id: &str) -> Result<Prepared> {
    if inner.lock().len() >= wire::PROCESSES_MAX / 2 {
        return Err(Error::Invalid(format!("a pod keeps at most {} containers", wire::PROCESSES_MAX / 2)));
    }
    let directory = inner.container_directory(id);
    for below in ["", "upper", "work", "root"] {
        let path = directory.join(below);
        fs::create_dir(&path).context("making the directory", &path)?;
    }
    let group = inner.container_group(id);
    inner.shared.cgroups.create(&group, &spec.resources, false)?;
    let place = Place {
        layers_directory: inner.shared.images.layers_directory(),
        pod_directory: &inner.directory,
        container_directory: &directory,
        empty: &inner.shared.empty,
        cgroups: &inner.shared.cgroups,
        group: &group,
    };
    let compiled = launch::container(spec, &inner.spec, image, &place)?;
    let log = spec.log_path.as_deref().map(open_log).transpose()?;
    let record = ContainerRecord {
        id: id.to_owned(),
        token: new_token()?,
        name: spec.name.clone(),
        attempt: spec.attempt,
        image: image.id.clone(),
        log_path: spec.log_path.clone(),
        created_ns: state::now_ns(),
        memory_limited: spec.resources.memory_limit_bytes.is_some(),
        exec: compiled.template,
    };
    state::write(&directory.join("container.json"), &record)?;
    let (program, names) = compiled.program.finish()?;
    Ok(Prepared { record, program, names, log, entry: compiled.entry })
}

/// What the shim knows a process by. Random, because an agent that was just ended may still have a start on its way to the
/// same shim, with a number that its successor cannot know of.
pub(super) fn new_token() -> Result<u64> {
    Ok(u64::from_str_radix(&state::random_hex(7)?, 16).unwrap_or_default())
}

pub(super) fn discard(inner: &Inner, id: &str) {
    if let Err(error) = inner.shared.cgroups.remove(&inner.container_group(id)) {
        tracing::warn!(%error, id, "a container that did not start leaves its control groups");
    }
    let _ = fs::remove_dir_all(inner.container_directory(id));
}

/// Opens a log for appending, with its directory.
pub(super) fn open_log(path: &Path) -> Result<OwnedFd> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).context("making the log directory", parent)?;
    }
    let file =
        fs::OpenOptions::new().append(true).create(true).mode(0o640).open(path).context("opening the log", path)?;
    Ok(file.into())
}
