//! Taking an event into the state: what was asked for is answered, what is remembered is updated. Decisions are plan's.

use super::model::{
    Action, Container, Event, Exit, Hook, HookStage, Image, Phase, PodState, ProbeState, Report, Role, Running,
    Sandbox, Severity, Stage, StartFailure, Terminal, Volumes,
};
use super::probing;
use super::recover::{lost, recover, reinitialize, waiting};
use super::restart::spec_of;
use super::{BackOff, stopping};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use std::sync::Arc;

/// The exit code of a run whose command could not be started.
const NOT_STARTED: i32 = 128;

/// `now` and some seconds; the end of time where that overflows.
pub(super) fn after(now: Timestamp, seconds: i64) -> Timestamp {
    now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// A Report as an action.
pub(super) fn report(severity: Severity, reason: &str, message: String, container: &str) -> Action {
    Action::Report(Report { severity, reason: reason.into(), message, container: container.into() })
}

fn new_container(name: &str, role: Role) -> Container {
    Container {
        name: name.into(),
        role,
        phase: waiting(),
        image: Image::Unknown,
        restart_count: 0,
        last: None,
        back_off: BackOff::default(),
        pull_back_off: BackOff::default(),
        startup: ProbeState::default(),
        liveness: ProbeState::default(),
        readiness: ProbeState::default(),
        backing_off: false,
    }
}

impl PodState {
    /// A pod that this node has just heard of.
    #[must_use]
    pub fn new(pod: Arc<Pod>, now: Timestamp) -> Self {
        let mut state = PodState {
            start_time: pod
                .status
                .as_ref()
                .and_then(|status| status.start_time.as_ref())
                .map(|time| time.0)
                .or(Some(now)),
            pod,
            sandbox: Sandbox::Absent,
            volumes: Volumes::Absent,
            containers: Vec::new(),
            terminate_by: None,
            terminal: None,
            torn_down: false,
            removed: false,
            deletion_asked: false,
            reinitializing: false,
            condition_times: std::collections::BTreeMap::new(),
        };
        state.add_containers();
        state.take_over_status();
        state
    }

    /// A pod that another agent (or an agent without its checkpoint) ran before: what its status says is kept.
    fn take_over_status(&mut self) {
        let Some(status) = self.pod.status.clone() else { return };
        for condition in status.conditions.unwrap_or_default() {
            if let Some(time) = condition.last_transition_time {
                self.condition_times.insert(condition.type_, (condition.status, time.0));
            }
        }
        let all = [status.init_container_statuses, status.container_statuses, status.ephemeral_container_statuses];
        for old in all.into_iter().flatten().flatten() {
            let Some(container) = self.containers.iter_mut().find(|container| container.name == old.name) else {
                continue;
            };
            container.restart_count = u32::try_from(old.restart_count).unwrap_or_default();
            let exit = |terminated: k8s_openapi::api::core::v1::ContainerStateTerminated| Exit {
                id: terminated.container_id.unwrap_or_default().trim_start_matches(super::status::ID_PREFIX).into(),
                code: terminated.exit_code,
                reason: terminated.reason.unwrap_or_default(),
                message: terminated.message.unwrap_or_default(),
                started_at: terminated.started_at.map(|time| time.0),
                finished_at: terminated.finished_at.map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            };
            container.last = old.last_state.and_then(|state| state.terminated).map(exit);
            if let Some(state) = old.state {
                if let Some(terminated) = state.terminated {
                    container.phase = Phase::Exited(exit(terminated));
                } else if let (Some(running), Some(id)) = (state.running, old.container_id) {
                    container.phase = Phase::Running(Running {
                        id: id.trim_start_matches(super::status::ID_PREFIX).into(),
                        started_at: running.started_at.map_or(Timestamp::UNIX_EPOCH, |time| time.0),
                        post_start: HookStage::Done,
                        stopping: None,
                    });
                    if !old.image_id.is_empty() {
                        container.image = Image::Ready { id: old.image_id };
                    }
                }
            }
        }
        let ended = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
        if ended {
            self.torn_down = true;
            if status.phase.as_deref() == Some("Failed")
                && let Some(reason) = status.reason
            {
                self.terminal = Some(Terminal::new(&reason, status.message.unwrap_or_default()));
            }
        }
    }

    /// spec.restartPolicy with its default.
    #[must_use]
    pub fn restart_policy(&self) -> &str {
        self.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
    }

    /// The grace that the spec gives, in seconds.
    #[must_use]
    pub fn grace_seconds(&self) -> i64 {
        self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30).max(0)
    }

    /// namespace/name for messages, as upstream writes it: `name_namespace(uid)`.
    #[must_use]
    pub fn describe(&self) -> String {
        let meta = &self.pod.metadata;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid))
    }

    /// The container called `name`.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    fn add_containers(&mut self) {
        let pod = Arc::clone(&self.pod);
        let Some(spec) = &pod.spec else { return };
        let init = spec.init_containers.iter().flatten().map(|container| {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            (&container.name, if sidecar { Role::Sidecar } else { Role::Init })
        });
        let apps = spec.containers.iter().map(|container| (&container.name, Role::App));
        let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| (&container.name, Role::Ephemeral));
        for (name, role) in init.chain(apps).chain(ephemeral) {
            if self.container(name).is_none() {
                self.containers.push(new_container(name, role));
            }
        }
    }
}

/// Takes `event` into `state`; returns what has to be told at once.
pub(super) fn fold(state: &mut PodState, event: Event, now: Timestamp) -> Vec<Action> {
    let mut actions = Vec::new();
    match event {
        Event::Changed(pod) => {
            state.pod = pod;
            state.add_containers();
            if state.pod.metadata.deletion_timestamp.is_some() {
                let grace =
                    state.pod.metadata.deletion_grace_period_seconds.unwrap_or_else(|| state.grace_seconds()).max(0);
                stopping::terminate(state, after(now, grace));
            }
        }
        Event::Removed => {
            state.removed = true;
            let by = after(now, state.grace_seconds());
            stopping::terminate(state, by);
        }
        Event::Failed(terminal, grace) => {
            if state.terminal.is_none() && !state.torn_down {
                if terminal.disrupted {
                    state.condition_times.insert(super::conditions::DISRUPTED.into(), ("True".into(), now));
                }
                state.terminal = Some(terminal);
                stopping::terminate(state, after(now, grace.max(0)));
            }
        }
        Event::VolumesReady => state.volumes = Volumes::Ready,
        Event::VolumesFailed(message) => {
            let failures = if let Volumes::Preparing { failures } = state.volumes { failures + 1 } else { 1 };
            // Upstream waits 0.5 s first and doubles up to two minutes.
            let milliseconds = 500_i64.saturating_mul(1 << failures.min(8)).min(122_000);
            let retry_at = now.checked_add(SignedDuration::from_millis(milliseconds)).unwrap_or(Timestamp::MAX);
            state.volumes = Volumes::Failed { retry_at, failures };
            actions.push(report(Severity::Warning, "FailedMount", message, ""));
        }
        Event::ReferencesChanged => {
            if let Volumes::Failed { failures, .. } = state.volumes {
                state.volumes = Volumes::Failed { retry_at: now, failures };
            }
            for container in &mut state.containers {
                if let Phase::Waiting { reason, retry_at, .. } = &mut container.phase
                    && reason == StartFailure::Configuration.reason()
                {
                    *retry_at = None;
                }
            }
        }
        Event::SandboxReady { pid, addresses } => state.sandbox = Sandbox::Ready { pid, addresses },
        Event::SandboxFailed(message) => {
            let failures = if let Sandbox::Creating { failures } = state.sandbox { failures + 1 } else { 1 };
            let retry_at = after(now, i64::from(1_u32 << failures.min(6)).min(60));
            state.sandbox = Sandbox::Failed { retry_at, failures };
            let message = format!("Failed to create pod sandbox: {message}");
            actions.push(report(Severity::Warning, "FailedCreatePodSandBox", message, ""));
        }
        Event::SandboxLost => lose_sandbox(state, &mut actions),
        Event::StartFailed { container, failure: StartFailure::SandboxLost, .. } => {
            if let Some(container) = state.containers.iter_mut().find(|one| one.name == container) {
                container.phase = waiting();
            }
            lose_sandbox(state, &mut actions);
        }
        Event::SandboxDestroyed => {
            state.sandbox = Sandbox::Absent;
            for container in &mut state.containers {
                if let Phase::Running(running) = &container.phase {
                    container.phase = Phase::Exited(lost(running.id.clone(), Some(running.started_at), now));
                }
            }
            if state.terminate_by.is_none() {
                reinitialize(state);
            }
        }
        Event::Recovered { sandbox, containers } => {
            if recover(state, sandbox, containers, now) {
                actions.push(Action::DestroySandbox);
            }
        }
        Event::Woken => {}
        other => fold_container(state, other, now, &mut actions),
    }
    actions
}

/// What is left of the namespaces is cleared away before new ones are made; until then nothing is started.
fn lose_sandbox(state: &mut PodState, actions: &mut Vec<Action>) {
    if !matches!(state.sandbox, Sandbox::Ready { .. }) {
        return; // asked for: its answer comes. Absent or on its way out: known.
    }
    state.sandbox = Sandbox::Destroying;
    actions.push(Action::DestroySandbox);
    if state.terminate_by.is_none() {
        let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
        actions.push(report(Severity::Normal, "SandboxChanged", message, ""));
    }
}

fn fold_container(state: &mut PodState, event: Event, now: Timestamp, actions: &mut Vec<Action>) {
    let name = match &event {
        Event::ImageReady { container, .. }
        | Event::ImageFailed { container, .. }
        | Event::Started { container, .. }
        | Event::StartFailed { container, .. }
        | Event::Exited { container, .. }
        | Event::HookDone { container, .. }
        | Event::Probed { container, .. } => container.clone(),
        _ => return,
    };
    let Some(spec) = spec_of(state, &name).map(std::borrow::Cow::into_owned) else { return };
    let pod = state.describe();
    let grace = state.grace_seconds();
    let Some(container) = state.containers.iter_mut().find(|container| container.name == name) else { return };
    let image = spec.image.clone().unwrap_or_default();
    match event {
        Event::ImageReady { id, pulled, .. } => {
            container.image = Image::Ready { id };
            container.pull_back_off = BackOff::default();
            if matches!(container.phase, Phase::Waiting { .. }) && !container.backing_off {
                container.phase = waiting();
            }
            let message = match pulled {
                Some((bytes, seconds)) => {
                    let took = go_duration(seconds);
                    format!(
                        "Successfully pulled image \"{image}\" in {took} ({took} including waiting). Image size: {bytes} bytes."
                    )
                }
                None => {
                    format!("Container image \"{image}\" already present on machine and can be accessed by the pod")
                }
            };
            actions.push(report(Severity::Normal, "Pulled", message, &name));
        }
        Event::ImageFailed { reason, message, .. } => {
            container.pull_back_off.advance(now);
            let (event_reason, text) = match reason.as_str() {
                "ErrImageNeverPull" => ("ErrImageNeverPull", message.clone()),
                "InvalidImageName" => {
                    ("InspectFailed", format!("Failed to apply default image tag \"{image}\": {message}"))
                }
                _ => ("Failed", format!("Failed to pull image \"{image}\": {message}")),
            };
            actions.push(report(Severity::Warning, event_reason, text, &name));
            actions.push(report(Severity::Warning, "Failed", format!("Error: {reason}"), &name));
            container.image = Image::Failed { reason, message, at: now, backing_off: false };
        }
        Event::Started { id, started_at, .. } => {
            actions.push(report(Severity::Normal, "Created", format!("Created container: {name}"), &name));
            actions.push(report(Severity::Normal, "Started", format!("Started container {name}"), &name));
            let hook = spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()).is_some();
            if hook {
                let timeout_seconds = i64::from(i32::MAX);
                actions.push(Action::RunHook {
                    container: name.clone(),
                    id: id.clone(),
                    hook: Hook::PostStart,
                    timeout_seconds,
                });
            }
            let post_start = if hook { HookStage::Running } else { HookStage::Done };
            container.phase = Phase::Running(Running { id, started_at, post_start, stopping: None });
            container.backing_off = false;
            for probe in [&mut container.startup, &mut container.liveness, &mut container.readiness] {
                *probe = ProbeState::default();
            }
        }
        Event::StartFailed { failure: failure @ StartFailure::Command, message, .. } => {
            actions.push(report(Severity::Normal, "Created", format!("Created container: {name}"), &name));
            actions.push(report(Severity::Warning, "Failed", format!("Error: {message}"), &name));
            let (id, reason) = (String::new(), failure.reason().into());
            let started_at = Some(Timestamp::UNIX_EPOCH);
            container.phase =
                Phase::Exited(Exit { id, code: NOT_STARTED, reason, message, started_at, finished_at: now });
            container.image = Image::Unknown;
        }
        Event::StartFailed { failure, message, .. } => {
            container.back_off.advance(now);
            let mut wait = i64::from(container.back_off.delay_seconds());
            if failure == StartFailure::Configuration {
                wait = wait.min(30);
            }
            actions.push(report(Severity::Warning, "Failed", format!("Error: {message}"), &name));
            container.phase =
                Phase::Waiting { reason: failure.reason().into(), message, retry_at: Some(after(now, wait)) };
        }
        Event::Exited { exit, .. } => {
            let current = match &container.phase {
                Phase::Running(running) => running.id == exit.id,
                Phase::Starting | Phase::Waiting { .. } => true,
                Phase::Exited(_) => false,
            };
            if current {
                container.phase = Phase::Exited(exit);
                container.image = Image::Unknown; // the pull policy is asked again for the next run
            }
        }
        Event::HookDone { id, hook, outcome, .. } => {
            let Phase::Running(running) = &mut container.phase else { return };
            if running.id != id {
                return;
            }
            match (hook, outcome) {
                (Hook::PostStart, Ok(())) => running.post_start = HookStage::Done,
                (Hook::PostStart, Err(message)) => {
                    running.post_start = HookStage::Done;
                    actions.push(report(Severity::Warning, "FailedPostStartHook", message, &name));
                    let why = format!("FailedPostStartHook: Container {name} failed postStart hook, will be restarted");
                    stopping::stop_container(&spec, container, grace, now, &why, actions);
                }
                (Hook::PreStop, outcome) => {
                    if let Err(message) = outcome {
                        actions.push(report(Severity::Warning, "FailedPreStopHook", message, &name));
                    }
                    if let Some(stopping) =
                        running.stopping.as_mut().filter(|stopping| stopping.stage == Stage::PreStop)
                    {
                        stopping::send_stop(stopping, &name, &id, now, actions);
                    }
                }
            }
        }
        Event::Probed { id, kind, outcome, .. } => {
            let running = matches!(&container.phase, Phase::Running(running) if running.id == id);
            if running {
                probing::outcome(&spec, container, kind, outcome, now, grace, &pod, actions);
            }
        }
        _ => {}
    }
}

/// Seconds as upstream prints a Go duration.
fn go_duration(seconds: f64) -> String {
    if seconds >= 60.0 {
        format!("{}m{:.3}s", (seconds / 60.0).floor(), seconds % 60.0)
    } else if seconds >= 1.0 {
        format!("{seconds:.3}s")
    } else {
        format!("{:.0}ms", seconds * 1000.0)
    }
}
