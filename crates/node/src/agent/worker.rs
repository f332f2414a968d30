//! One pod's worker: takes events in, steps the machine, has its actions carried out, publishes status and checkpoint.

use super::actions::{self, Facts};
use super::checkpoint;
use super::seams::{RuntimeEvent, RuntimeExit};
use super::shared::Shared;
use super::status_writer::StatusWriter;
use super::volume_manager;
use crate::container::{ImageConfig, termination_log};
use crate::lifecycle::{Action, Event, Exit, Phase, PodState, Sandbox, Volumes, next_wake, spec_of, status, step};
use crate::volumes::Prepared;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// What a termination message may hold, and what is taken from a log in its place, as upstream.
const MESSAGE_BYTES_MAX: u64 = 4096;
const LOG_TAIL_BYTES: u64 = 2048;
const LOG_TAIL_LINES: usize = 80;
/// Exits of containers that are not known to run yet.
const EARLY_EXITS_MAX: usize = 64;
/// The grace of a pod that has none set, as the API defaults it.
const DEFAULT_GRACE_SECONDS: u64 = 30;

/// What a worker is told.
pub(super) enum Input {
    /// For the machine.
    Lifecycle(Event),
    /// An image is there, with what matters for starting it.
    Image { container: String, id: String, config: ImageConfig, pulled: Option<(u64, f64)> },
    /// The volumes are there (again).
    Volumes { prepared: Vec<Prepared>, refresh_at: Option<Timestamp>, answer: bool },
    /// Objects that the pod refers to have changed.
    References,
    /// The pod, which is being deleted, gets no new connections any more.
    Left,
    /// The API says that our deletion went through, or that it has nothing to delete.
    Deleted,
}

/// A pod's worker.
pub(super) struct Worker {
    shared: Arc<Shared>,
    state: PodState,
    uid: String,
    inputs: mpsc::UnboundedReceiver<Input>,
    sender: mpsc::UnboundedSender<Input>,
    runtime: mpsc::UnboundedReceiver<RuntimeEvent>,
    runtime_sender: mpsc::UnboundedSender<RuntimeEvent>,
    status: StatusWriter,
    view: watch::Sender<Arc<PodState>>,
    images: HashMap<String, ImageConfig>,
    prepared: Option<Vec<Prepared>>,
    refresh_at: Option<Timestamp>,
    early: HashMap<String, RuntimeExit>,
    leaving: Leaving,
}

/// Whether a deleted pod still waits until its Services lead nobody to it.
enum Leaving {
    /// It is not being deleted, as far as its machine was told.
    No,
    /// It waits; its newest state.
    Waits(Arc<Pod>),
    /// It has left, or had nothing to leave.
    Done,
}

fn text(value: &Option<String>) -> String {
    value.clone().unwrap_or_default()
}

impl Worker {
    /// A worker for a pod, new or from a checkpoint, with the channel to it and its published state.
    pub(super) fn new(
        shared: Arc<Shared>,
        state: PodState,
    ) -> (Self, mpsc::UnboundedSender<Input>, watch::Receiver<Arc<PodState>>) {
        let (sender, inputs) = mpsc::unbounded_channel();
        let (runtime_sender, runtime) = mpsc::unbounded_channel();
        let (view, viewed) = watch::channel(Arc::new(state.clone()));
        let meta = &state.pod.metadata;
        let status = StatusWriter::start(&shared.tasks, shared.api.clone(), text(&meta.namespace), text(&meta.name));
        let worker = Worker {
            uid: text(&meta.uid),
            shared,
            state,
            inputs,
            sender: sender.clone(),
            runtime,
            runtime_sender,
            status,
            view,
            images: HashMap::new(),
            prepared: None,
            refresh_at: None,
            early: HashMap::new(),
            leaving: Leaving::No,
        };
        (worker, sender, viewed)
    }

    /// Runs until the pod is over for this node and gone from the API.
    pub(super) async fn run(mut self) {
        self.publish();
        loop {
            let now = Timestamp::now();
            let wake = next_wake(&self.state).into_iter().chain(self.refresh_at).min();
            // An overdue wake still yields a millisecond, so that no state can make the worker spin.
            let pause = wake.map(|at| {
                let millis = u64::try_from(at.duration_since(now).as_millis()).unwrap_or(0);
                Duration::from_millis(millis.max(1))
            });
            tokio::select! {
                biased;
                input = self.inputs.recv() => match input {
                    Some(input) => self.take(input),
                    None => return,
                },
                Some(event) = self.runtime.recv() => self.take_runtime(event),
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => self.woken(),
            }
            if self.state.torn_down && self.state.removed {
                break;
            }
        }
        volume_manager::remove(&self.shared, &self.uid).await;
        let logs = self.shared.paths.pod_logs(&self.state.pod);
        let _ = self.shared.tasks.blocking(move || std::fs::remove_dir_all(logs)).await;
        // Last, so that an agent that ends in between does the rest after its next start.
        checkpoint::remove(&self.shared.paths.checkpoints(), &self.uid);
    }

    /// A pod that is deleted goes on as it is until its Services lead nobody to it: whoever is on the way finds it. Its grace
    /// runs meanwhile. What is deleted at once, or has nothing running, does not wait.
    fn waits_to_leave(&mut self, pod: &Arc<Pod>) -> bool {
        let metadata = &pod.metadata;
        if metadata.deletion_timestamp.is_none() || metadata.deletion_grace_period_seconds == Some(0) {
            return false;
        }
        match &mut self.leaving {
            Leaving::Done => return false,
            Leaving::Waits(newest) => *newest = Arc::clone(pod),
            Leaving::No if self.state.terminate_by.is_none() && self.shared.serving.has(&self.uid) => {
                self.leaving = Leaving::Waits(Arc::clone(pod));
                let (shared, uid, sender) = (Arc::clone(&self.shared), self.uid.clone(), self.sender.clone());
                let seconds = metadata.deletion_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
                let grace = Duration::from_secs(seconds.unwrap_or(DEFAULT_GRACE_SECONDS));
                self.shared.tasks.spawn(async move {
                    shared.serving.left(&uid, grace).await;
                    // The worker may have ended: nothing is left to tell.
                    let _ = sender.send(Input::Left);
                });
            }
            Leaving::No => {
                self.leaving = Leaving::Done;
                return false;
            }
        }
        true
    }

    fn woken(&mut self) {
        let now = Timestamp::now();
        if self.refresh_at.is_some_and(|at| at <= now) {
            self.refresh_at = None;
            self.refresh();
        }
        self.step(Event::Woken);
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Lifecycle(Event::Changed(pod)) if self.waits_to_leave(&pod) => {}
            Input::Left => {
                if let Leaving::Waits(pod) = std::mem::replace(&mut self.leaving, Leaving::Done) {
                    self.take(Input::Lifecycle(Event::Changed(pod)));
                }
            }
            Input::Lifecycle(mut event) => {
                if let Event::Recovered { containers, .. } = &mut event {
                    // What ended while no agent was there left its last words all the same.
                    for found in containers {
                        let attempt = self.state.container(&found.name).map_or(0, |container| container.restart_count);
                        if let Some(exit) = &mut found.exit {
                            exit.message = self.termination_message(&found.name, attempt, exit.code)();
                        }
                    }
                }
                let started = match &event {
                    Event::Started { id, .. } => Some(id.clone()),
                    _ => None,
                };
                if let Event::Changed(pod) = &event {
                    self.status.compare(pod);
                    let (old, new) = (&self.state.pod.metadata, &pod.metadata);
                    if old.labels != new.labels || old.annotations != new.annotations {
                        let _ = self.sender.send(Input::References);
                    }
                }
                if matches!(&event, Event::Recovered { sandbox: Some(_), .. }) {
                    let (shared, uid, sender) =
                        (Arc::clone(&self.shared), self.uid.clone(), self.runtime_sender.clone());
                    self.shared.tasks.spawn(async move { shared.containers.subscribe(&uid, sender).await });
                }
                self.step(event);
                if let Some(exit) = started.and_then(|id| self.early.remove(&id).map(|exit| (id, exit))) {
                    self.take_runtime(RuntimeEvent::Exited(exit.0, exit.1));
                }
            }
            Input::Image { container, id, config, pulled } => {
                self.images.insert(container.clone(), config);
                self.step(Event::ImageReady { container, id, pulled });
            }
            Input::Volumes { prepared, refresh_at, answer } => {
                self.prepared = Some(prepared);
                self.refresh_at = refresh_at;
                if answer {
                    self.step(Event::VolumesReady);
                }
            }
            Input::References => {
                self.step(Event::ReferencesChanged);
                self.refresh();
            }
            Input::Deleted => self.step(Event::Removed),
        }
    }

    /// Brings the files of volumes up to date, beside everything else.
    fn refresh(&mut self) {
        if self.state.volumes != Volumes::Ready || self.state.terminate_by.is_some() {
            return;
        }
        let (shared, facts, sender) = (Arc::clone(&self.shared), self.facts(), self.sender.clone());
        self.shared.tasks.spawn(async move {
            let made = volume_manager::prepare(&shared, &facts.pod, &facts.context(&shared)).await;
            match made {
                Ok(made) => {
                    let input = Input::Volumes { prepared: made.prepared, refresh_at: made.refresh_at, answer: false };
                    let _ = sender.send(input);
                }
                // The files stay as they are; the next change or renewal tries again.
                Err(error) => tracing::debug!(%error, "volumes could not be brought up to date"),
            }
        });
    }

    fn take_runtime(&mut self, event: RuntimeEvent) {
        match event {
            RuntimeEvent::Lost { pid } => {
                // One that a new sandbox has replaced is no news.
                if matches!(self.state.sandbox, Sandbox::Ready { pid: current, .. } if current == pid) {
                    self.step(Event::SandboxLost);
                }
            }
            RuntimeEvent::LogGrew(id) => {
                if let Some(container) = self.running(&id) {
                    let logs = self.shared.paths.pod_logs(&self.state.pod).join(&container.0);
                    actions::rotate_log(Arc::clone(&self.shared), self.uid.clone(), id, logs, container.1);
                }
            }
            RuntimeEvent::Exited(id, exit) => match self.running(&id) {
                Some((name, attempt)) => self.exited(name, attempt, id, exit),
                None if self.early.len() < EARLY_EXITS_MAX => drop(self.early.insert(id, exit)),
                None => {}
            },
        }
    }

    /// Name and attempt of the container that runs with this id.
    fn running(&self, id: &str) -> Option<(String, u32)> {
        let is = |phase: &Phase| matches!(phase, Phase::Running(running) if running.id == id);
        let found = self.state.containers.iter().find(|container| is(&container.phase))?;
        Some((found.name.clone(), found.restart_count))
    }

    fn exited(&mut self, name: String, attempt: u32, id: String, exit: RuntimeExit) {
        let reason = match exit {
            RuntimeExit { observed: false, .. } => "ContainerStatusUnknown",
            RuntimeExit { oom_killed: true, .. } => "OOMKilled",
            RuntimeExit { code: 0, .. } => "Completed",
            _ => "Error",
        };
        let message = self.termination_message(&name, attempt, exit.code);
        let sender = self.sender.clone();
        let read = self.shared.tasks.clone();
        let read_message = move || {
            let message = message();
            let exit = Exit {
                id,
                code: if exit.observed { exit.code } else { 137 },
                reason: reason.into(),
                message,
                started_at: exit.started_at,
                finished_at: exit.finished_at,
            };
            let _ = sender.send(Input::Lifecycle(Event::Exited { container: name, exit }));
        };
        self.shared.tasks.spawn_to_end(async move { drop(read.blocking(read_message).await) });
    }

    /// Reads what a run left as its last words.
    fn termination_message(&self, name: &str, attempt: u32, code: i32) -> impl FnOnce() -> String + Send + 'static {
        let policy = spec_of(&self.state, name).and_then(|spec| spec.termination_message_policy.clone());
        let from_log = policy.as_deref() == Some("FallbackToLogsOnError") && code != 0;
        let file = termination_log(&self.shared.paths.pod(&self.uid), name, attempt);
        let log = self.shared.paths.pod_logs(&self.state.pod).join(name).join(format!("{attempt}.log"));
        move || {
            let message = String::from_utf8_lossy(&tail(&file, MESSAGE_BYTES_MAX)).into_owned();
            if message.is_empty() && from_log { log_tail(&tail(&log, LOG_TAIL_BYTES * 4)) } else { message }
        }
    }

    fn facts(&self) -> Facts {
        let addresses = match &self.state.sandbox {
            Sandbox::Ready { addresses, .. } => addresses.clone(),
            _ => Vec::new(),
        };
        Facts { pod: Arc::clone(&self.state.pod), uid: self.uid.clone(), addresses }
    }

    fn step(&mut self, event: Event) {
        let quiet = matches!(event, Event::Probed { .. } | Event::Woken);
        let placeholder = PodState::new(Arc::new(Pod::default()), Timestamp::UNIX_EPOCH);
        let state = std::mem::replace(&mut self.state, placeholder);
        let (state, asked) = step(state, event, Timestamp::now());
        self.state = state;
        // A deletion is finished only after the status that it leaves is written.
        let finish = asked.iter().any(|action| matches!(action, Action::FinishDeletion));
        for action in asked {
            match action {
                Action::Report(report) => self.shared.recorder.pod(&self.state.pod, report),
                Action::FinishDeletion => {}
                Action::CleanUp => {
                    self.prepared = None;
                    let (shared, uid) = (Arc::clone(&self.shared), self.uid.clone());
                    self.shared.tasks.spawn_to_end(async move { volume_manager::remove(&shared, &uid).await });
                }
                action => {
                    let facts = self.facts();
                    let image = match &action {
                        Action::Start { container, .. } | Action::Signal { container, .. } => {
                            self.images.get(container).cloned()
                        }
                        _ => None,
                    };
                    let prepared = match &action {
                        Action::Start { .. } => self.prepared.clone(),
                        _ => None,
                    };
                    actions::perform(
                        Arc::clone(&self.shared),
                        facts,
                        action,
                        image,
                        prepared,
                        self.sender.clone(),
                        self.runtime_sender.clone(),
                    );
                }
            }
        }
        let changed = self.publish();
        if changed || !quiet {
            self.save();
        }
        if finish {
            actions::finish_deletion(
                Arc::clone(&self.shared),
                &self.state.pod,
                self.status.flushed(),
                self.sender.clone(),
            );
        }
    }

    /// Publishes the state and the status; true where the status changed.
    fn publish(&mut self) -> bool {
        let computed = status(&self.state, &self.shared.addresses);
        let changed = self.status.set(&self.uid, &computed);
        self.view.send_replace(Arc::new(self.state.clone()));
        changed
    }

    fn save(&self) {
        if let Some(bytes) = checkpoint::encode(&self.state) {
            let directory = self.shared.paths.checkpoints();
            if let Err(error) = checkpoint::write(&directory, &self.uid, &bytes) {
                tracing::warn!(uid = self.uid, %error, "a checkpoint could not be written: free some space in the data directory");
            }
        }
    }
}

fn tail(path: &std::path::Path, bytes: u64) -> Vec<u8> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut data = Vec::new();
        file.take(bytes).read_to_end(&mut data)?;
        Ok(data)
    };
    read().unwrap_or_default()
}

/// The last lines of a log, without what the CRI format puts before them.
fn log_tail(data: &[u8]) -> String {
    let text = String::from_utf8_lossy(data);
    let lines: Vec<&str> = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let mut kept = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
    if !kept.is_empty() {
        kept.push('\n');
    }
    let limit = usize::try_from(LOG_TAIL_BYTES).unwrap_or(2048);
    let mut from = kept.len().saturating_sub(limit);
    while !kept.is_char_boundary(from) {
        from += 1;
    }
    kept.split_off(from)
}
