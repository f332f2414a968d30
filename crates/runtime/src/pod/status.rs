//! Learning how containers ended: told by the shim, found in its files, or inferred when nobody saw it.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::sync::mpsc;

use super::handle::{Container, Inner, Pod};
use crate::{
    connection::Connection,
    error::Result,
    runtime::blocking,
    spec::{ContainerState, Exit, PodEvent},
    state::{self, ContainerRecord},
    wire::{self, Message},
};

/// How long a start that an ended agent asked for may still take.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads the shim's notices until it is gone.
pub(super) async fn follow(pod: Weak<Inner>, mut notices: mpsc::UnboundedReceiver<Message>) {
    while let Some(message) = notices.recv().await {
        let Some(inner) = pod.upgrade() else { return };
        let record = inner.lock().values().find(|it| it.record.token == message.token).map(|it| it.record.clone());
        let Some(record) = record else { continue };
        if message.kind == wire::LOG_GREW {
            let _ = inner.events.send(PodEvent::LogGrew { id: record.id, size_bytes: message.a });
            continue;
        }
        let ended = blocking(move || {
            conclude(&inner, &record, &message);
            Ok(())
        })
        .await;
        if let Err(error) = ended {
            tracing::warn!(%error, "a container's end could not be looked into");
        }
    }
    if let Some(inner) = pod.upgrade() {
        let _ = blocking(move || {
            lost(&inner);
            Ok(())
        })
        .await;
    }
}

/// Records the end that the shim told, and says it to whoever listens.
fn conclude(inner: &Inner, record: &ContainerRecord, message: &Message) {
    let group = inner.container_group(&record.id);
    let mut exit = exit_of(message.status, message.a, message.b, message.c);
    exit.oom_killed = exit.code != 0 && inner.shared.cgroups.oom_kills(&group) > 0;
    // With the pod's or the host's PID namespace children outlive the first process; they end with it all the same.
    if let Err(error) = inner.shared.cgroups.kill(&group) {
        tracing::warn!(%error, id = record.id, "processes of an ended container remain");
    }
    let known = match inner.lock().get_mut(&record.id) {
        Some(container) => !matches!(
            std::mem::replace(&mut container.state, ContainerState::Exited(exit.clone())),
            ContainerState::Exited(_)
        ),
        None => false,
    };
    if known {
        let _ = inner.events.send(PodEvent::Exited { id: record.id.clone(), exit });
    }
}

fn exit_of(wait_status: i32, started_ns: u64, finished_ns: u64, dropped_log_lines: u64) -> Exit {
    let signal = wait_status & 0x7f;
    let code = if signal == 0 { wait_status >> 8 & 0xff } else { 128 + signal };
    Exit { code, signal, started_ns, finished_ns, oom_killed: false, observed: true, dropped_log_lines }
}

/// The shim is gone: what it held together ends, and is told as far as it is known.
fn lost(inner: &Inner) {
    if !inner.directory.exists() {
        return;
    }
    if let Err(error) = inner.shared.cgroups.kill(&inner.group) {
        tracing::warn!(%error, uid = inner.spec.uid, "processes of a pod without shim remain");
    }
    let running: Vec<ContainerRecord> = {
        let containers = inner.lock();
        let alive = containers.values().filter(|it| !matches!(it.state, ContainerState::Exited(_)));
        alive.map(|it| it.record.clone()).collect()
    };
    for record in running {
        let exit = left_exit(inner, &record);
        if let Some(container) = inner.lock().get_mut(&record.id) {
            container.state = ContainerState::Exited(exit.clone());
        }
        let _ = inner.events.send(PodEvent::Exited { id: record.id, exit });
    }
    let _ = inner.events.send(PodEvent::Lost);
}

/// The end that the shim left in a file, or one that nobody saw.
fn left_exit(inner: &Inner, record: &ContainerRecord) -> Exit {
    let text = fs::read_to_string(inner.directory.join("exits").join(record.token.to_string())).unwrap_or_default();
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|it| it.parse().ok()).collect();
    match numbers.as_slice() {
        [1, wait_status, started, finished, dropped] => {
            let mut exit = exit_of(*wait_status as i32, *started, *finished, *dropped);
            exit.oom_killed = exit.code != 0 && inner.shared.cgroups.oom_kills(&inner.container_group(&record.id)) > 0;
            exit
        }
        _ => Exit { code: 137, signal: 9, observed: false, ..Exit::default() },
    }
}

impl Pod {
    /// Fills in what is known after an agent started: the records, what the shim says, what it left.
    pub(crate) async fn restore(&self) -> Result<()> {
        let told = match &self.inner.connection {
            Some(connection) => settled(connection).await?,
            None => HashMap::new(),
        };
        let inner = self.inner.clone();
        blocking(move || restore(&inner, &told)).await
    }
}

fn state_of(process: &Message) -> u32 {
    (process.d >> 32) as u32
}

/// The shim's processes, once none of them is being started any more: the outcome of a start is told only to who asked,
/// and that agent is gone. What does not come to an end is killed, so that nothing runs that nobody knows of.
async fn settled(connection: &Connection) -> Result<HashMap<u64, Message>> {
    let deadline = tokio::time::Instant::now() + SETTLE_TIMEOUT;
    loop {
        let message = Message { kind: wire::STATUS, ..Message::default() };
        let reply = connection.ask("asking for the pod's containers", message, &[]).await?;
        let starting: Vec<u64> =
            reply.processes.iter().filter(|it| state_of(it) == wire::STATE_STARTING).map(|it| it.token).collect();
        let late = tokio::time::Instant::now() > deadline;
        if starting.is_empty() || late {
            for token in starting {
                let kill = Message { kind: wire::SIGNAL, token, a: libc::SIGKILL as u64, ..Message::default() };
                let _ = connection.ask("killing a container that does not start", kill, &[]).await;
            }
            return Ok(reply.processes.into_iter().map(|it| (it.token, it)).collect());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn restore(inner: &Arc<Inner>, told: &HashMap<u64, Message>) -> Result<()> {
    if inner.connection.is_none() {
        inner.shared.cgroups.kill(&inner.group)?;
    }
    let entries = fs::read_dir(inner.directory.join("containers")).map(|it| it.flatten().collect::<Vec<_>>());
    for entry in entries.unwrap_or_default() {
        let record: ContainerRecord = match state::read(&entry.path().join("container.json")) {
            Ok(record) => record,
            Err(error) => {
                tracing::warn!(%error, "a container's record cannot be read; what is left of it is removed");
                let _ = fs::remove_dir_all(entry.path());
                continue;
            }
        };
        let message = told.get(&record.token);
        let state = match message.map(|it| (it, state_of(it))) {
            Some((it, wire::STATE_RUNNING)) => ContainerState::Running { pid: it.d as u32 as i32, started_ns: it.a },
            Some((it, wire::STATE_EXITED)) => {
                let mut exit = exit_of(it.status, it.a, it.b, it.c);
                let group = inner.container_group(&record.id);
                exit.oom_killed = exit.code != 0 && inner.shared.cgroups.oom_kills(&group) > 0;
                ContainerState::Exited(exit)
            }
            Some((_, wire::STATE_STARTING)) => ContainerState::Created,
            None if inner.connection.is_none() => ContainerState::Exited(left_exit(inner, &record)),
            // It never reached the shim, or its start failed. Should the request still be on its way, it finds no group.
            Some(_) | None => {
                super::start::discard(inner, &record.id);
                continue;
            }
        };
        inner.lock().insert(record.id.clone(), Container { record, state });
    }
    Ok(())
}
