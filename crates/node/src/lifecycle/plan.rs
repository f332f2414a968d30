//! The step: take the event in, then decide from the whole state what is to be done next. Level-triggered, no clock, no I/O.

use super::fold::{after, fold, report};
use super::model::{Action, Container, Event, Image, Phase, PodState, Role, Sandbox, Severity, Terminal, Volumes};
use super::recover::waiting;
use super::restart::{restarts, spec_of};
use super::{probing, stopping};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container as Spec;

/// Takes one event into the state and returns the new state with what is to be done.
#[must_use]
pub fn step(mut state: PodState, event: Event, now: Timestamp) -> (PodState, Vec<Action>) {
    let mut actions = fold(&mut state, event, now);
    plan(&mut state, now, &mut actions);
    super::conditions::note_transitions(&mut state, now);
    (state, actions)
}

/// When the machine has to be woken although nothing happens; None for never.
#[must_use]
pub fn next_wake(state: &PodState) -> Option<Timestamp> {
    let mut times: Vec<Timestamp> = Vec::new();
    if let Volumes::Failed { retry_at, .. } = state.volumes {
        times.push(retry_at);
    }
    if let Sandbox::Failed { retry_at, .. } = state.sandbox {
        times.push(retry_at);
    }
    if !state.torn_down && state.terminate_by.is_none() {
        times.extend(active_deadline(state));
    }
    for container in &state.containers {
        match &container.phase {
            Phase::Waiting { retry_at, .. } if !state.torn_down && state.terminate_by.is_none() => {
                times.extend(*retry_at);
                if let Image::Failed { at, backing_off, .. } = &container.image {
                    times.extend(if *backing_off { container.pull_back_off.until(*at) } else { Some(after(*at, 1)) });
                }
            }
            Phase::Running(running) => {
                times.extend(running.stopping.as_ref().map(|stopping| stopping.kill_at));
                if let Some(spec) = spec_of(state, &container.name) {
                    times.extend(probing::next_due(&spec, container));
                }
            }
            Phase::Exited(exit) if !state.torn_down && state.terminate_by.is_none() && container.backing_off => {
                times.extend(container.back_off.until(exit.finished_at));
            }
            _ => {}
        }
    }
    times.into_iter().min()
}

fn active_deadline(state: &PodState) -> Option<Timestamp> {
    let seconds = state.pod.spec.as_ref()?.active_deadline_seconds?;
    Some(after(state.start_time?, seconds))
}

fn plan(state: &mut PodState, now: Timestamp, actions: &mut Vec<Action>) {
    if state.torn_down {
        finish(state, actions);
        return;
    }
    if state.terminate_by.is_none() && active_deadline(state).is_some_and(|deadline| deadline <= now) {
        let message = "Pod was active on the node longer than the specified deadline".to_owned();
        actions.push(report(Severity::Normal, "DeadlineExceeded", message.clone(), ""));
        state.terminal = Some(Terminal::new("DeadlineExceeded", message));
        let by = after(now, state.grace_seconds());
        stopping::terminate(state, by);
    }
    for container in &mut state.containers {
        stopping::advance(container, now, actions);
    }
    probes(state, now, actions);
    let over = outcome(state).is_some();
    if over && state.terminate_by.is_none() {
        let by = after(now, state.grace_seconds());
        stopping::terminate(state, by);
    }
    if let Some(by) = state.terminate_by {
        let still = stopping::stop_all(state, by, now, actions);
        if still {
            tear_down(state, actions);
        }
        return;
    }
    let volumes_due = match state.volumes {
        Volumes::Absent => Some(0),
        Volumes::Failed { retry_at, failures } if retry_at <= now => Some(failures),
        _ => None,
    };
    if let Some(failures) = volumes_due {
        state.volumes = Volumes::Preparing { failures };
        actions.push(Action::PrepareVolumes);
    }
    // A start that was asked of a lost sandbox is answered before there is a new one.
    let starting = state.containers.iter().any(|container| container.phase == Phase::Starting);
    // As upstream: volumes, then the sandbox, then images. What fails keeps the later ones from being seen.
    let has_volumes = matches!(state.volumes, Volumes::Ready);
    let sandbox_due = match state.sandbox {
        _ if starting || !has_volumes => None,
        Sandbox::Absent => Some(0),
        Sandbox::Failed { retry_at, failures } if retry_at <= now => Some(failures),
        _ => None,
    };
    if let Some(failures) = sandbox_due {
        state.sandbox = Sandbox::Creating { failures };
        actions.push(Action::CreateSandbox);
    }
    start_containers(state, now, actions);
}

fn probes(state: &mut PodState, now: Timestamp, actions: &mut Vec<Action>) {
    for index in 0..state.containers.len() {
        if !matches!(state.containers[index].phase, Phase::Running(_)) {
            continue;
        }
        let spec = spec_of(state, &state.containers[index].name).map(std::borrow::Cow::into_owned);
        if let Some(spec) = spec {
            probing::start_due(&spec, &mut state.containers[index], now, actions);
        }
    }
}

/// How the pod ends by itself: Some(true) for success, Some(false) for failure, None while it goes on.
pub(super) fn outcome(state: &PodState) -> Option<bool> {
    let ended = |container: &Container| match &container.phase {
        Phase::Exited(exit) => (!restarts(state, &container.name, container.role, exit.code)).then_some(exit.code),
        _ => None,
    };
    let failed_init = state
        .containers
        .iter()
        .any(|container| container.role == Role::Init && ended(container).is_some_and(|code| code != 0));
    if failed_init {
        return Some(false);
    }
    let mut apps = state.containers.iter().filter(|container| container.role == Role::App).peekable();
    apps.peek()?;
    let codes: Option<Vec<i32>> = apps.map(ended).collect();
    codes.map(|codes| codes.iter().all(|code| *code == 0))
}

fn tear_down(state: &mut PodState, actions: &mut Vec<Action>) {
    match state.sandbox {
        Sandbox::Creating { .. } | Sandbox::Destroying => {} // its answer comes first
        Sandbox::Ready { .. } => {
            state.sandbox = Sandbox::Destroying;
            actions.push(Action::DestroySandbox);
        }
        Sandbox::Absent | Sandbox::Failed { .. } => {
            if matches!(state.volumes, Volumes::Preparing { .. }) {
                return;
            }
            for container in &mut state.containers {
                if let Phase::Exited(_) = container.phase {
                    container.backing_off = false;
                }
            }
            state.torn_down = true;
            // Also without volumes: a shim that died while nobody watched leaves files and groups behind.
            state.volumes = Volumes::Absent;
            actions.push(Action::CleanUp);
            finish(state, actions);
        }
    }
}

/// After the end: the volumes go at once, the object once its deletion was asked for.
fn finish(state: &mut PodState, actions: &mut Vec<Action>) {
    if !matches!(state.volumes, Volumes::Absent) {
        state.volumes = Volumes::Absent;
        actions.push(Action::CleanUp);
    }
    if state.removed {
        return;
    }
    if state.pod.metadata.deletion_timestamp.is_some() && !state.deletion_asked {
        state.deletion_asked = true;
        actions.push(Action::FinishDeletion);
    }
}

/// The first init container that is not through yet, by index.
pub(super) fn blocking_init(state: &PodState) -> Option<usize> {
    // Once an app container has run, initialisation is over for this sandbox, even if a sidecar is being restarted.
    let begun = !state.reinitializing
        && state
            .containers
            .iter()
            .any(|container| container.role == Role::App && !matches!(container.phase, Phase::Waiting { .. }));
    state.containers.iter().position(|container| match container.role {
        Role::Init => !begun && !matches!(&container.phase, Phase::Exited(exit) if exit.code == 0),
        Role::Sidecar => {
            let spec = spec_of(state, &container.name);
            !begun && !spec.is_some_and(|spec| container.started(&spec))
        }
        _ => false,
    })
}

/// As `blocking_init` while the pod has never been initialised: what clients see of a second time is a running pod.
pub(super) fn initializing(state: &PodState) -> Option<usize> {
    let ran = |container: &Container| {
        container.role == Role::App
            && (container.last.is_some() || matches!(container.phase, Phase::Running(_) | Phase::Exited(_)))
    };
    if state.containers.iter().any(ran) { None } else { blocking_init(state) }
}

fn start_containers(state: &mut PodState, now: Timestamp, actions: &mut Vec<Action>) {
    let blocking = blocking_init(state);
    state.reinitializing &= blocking.is_some();
    // Sidecars that were started before are kept running whatever the stage is.
    let in_turn = |index: usize, container: &Container| match (blocking, container.role) {
        (Some(at), Role::Init) => index == at,
        (Some(at), Role::Sidecar) => index <= at,
        (Some(_), Role::App) => false,
        (None, Role::Init) => false,
        (None, _) | (_, Role::Ephemeral) => true,
    };
    let turns: Vec<usize> = state
        .containers
        .iter()
        .enumerate()
        .filter(|(index, container)| in_turn(*index, container))
        .map(|(index, _)| index)
        .collect();
    let ready = matches!(state.sandbox, Sandbox::Ready { .. }) && matches!(state.volumes, Volumes::Ready);
    // Containers start in the order of the spec; one whose postStart hook runs holds the later ones back, a failed one does not.
    let mut held = false;
    for index in turns {
        let Some(spec) = spec_of(state, &state.containers[index].name).map(std::borrow::Cow::into_owned) else {
            continue;
        };
        if !may_run(state, index, now, actions) {
            let container = &state.containers[index];
            let hook =
                matches!(&container.phase, Phase::Running(running) if running.post_start == super::HookStage::Running);
            held |= hook || container.phase == Phase::Starting;
            continue;
        }
        if !ready {
            continue;
        }
        ensure_image(&mut state.containers[index], &spec, now, actions);
        let container = &mut state.containers[index];
        if matches!(container.image, Image::Ready { .. }) && !held {
            start(container, actions);
            held = true;
        } else if !matches!(container.image, Image::Failed { .. }) {
            held = true;
        }
    }
}

/// True where the container is to be started now as far as its own history goes.
fn may_run(state: &mut PodState, index: usize, now: Timestamp, actions: &mut Vec<Action>) -> bool {
    let pod = state.describe();
    let container = &state.containers[index];
    match &container.phase {
        Phase::Waiting { retry_at, .. } => retry_at.is_none_or(|at| at <= now),
        Phase::Starting | Phase::Running(_) => false,
        Phase::Exited(exit) => {
            if !restarts(state, &container.name, container.role, exit.code) {
                return false;
            }
            let ended = exit.finished_at;
            let container = &mut state.containers[index];
            match container.back_off.until(ended).filter(|until| *until > now) {
                None => true,
                Some(_) => {
                    if !container.backing_off {
                        container.backing_off = true;
                        let message = format!("Back-off restarting failed container {} in pod {pod}", container.name);
                        let name = container.name.clone();
                        actions.push(report(Severity::Warning, "BackOff", message, &name));
                    }
                    false
                }
            }
        }
    }
}

fn ensure_image(container: &mut Container, spec: &Spec, now: Timestamp, actions: &mut Vec<Action>) {
    let image = spec.image.as_deref().unwrap_or_default();
    match &mut container.image {
        Image::Unknown => {
            container.image = Image::Pulling;
            actions.push(Action::EnsureImage { container: container.name.clone() });
        }
        Image::Failed { at, backing_off, reason, .. } => {
            if container.pull_back_off.until(*at).is_none_or(|until| until <= now) {
                container.image = Image::Pulling;
                actions.push(Action::EnsureImage { container: container.name.clone() });
            } else if !*backing_off && after(*at, 1) <= now {
                *backing_off = true;
                if reason == "ErrImagePull" {
                    let message = format!("Back-off pulling image \"{image}\"");
                    actions.push(report(Severity::Normal, "BackOff", message, &container.name));
                    actions.push(report(
                        Severity::Warning,
                        "Failed",
                        "Error: ImagePullBackOff".into(),
                        &container.name,
                    ));
                }
            }
        }
        Image::Pulling | Image::Ready { .. } => {}
    }
}

fn start(container: &mut Container, actions: &mut Vec<Action>) {
    if let Phase::Exited(exit) = std::mem::replace(&mut container.phase, waiting()) {
        // The back-off counts restarts, so that the first one comes at once and the following ones wait.
        container.back_off.advance(exit.finished_at);
        container.restart_count = container.restart_count.saturating_add(1);
        if let Some(before) = container.last.replace(exit).filter(|before| !before.id.is_empty()) {
            actions.push(Action::RemoveContainer { id: before.id });
        }
    }
    container.phase = Phase::Starting;
    container.backing_off = false;
    actions.push(Action::Start { container: container.name.clone(), attempt: container.restart_count });
}
