//! Ending containers: preStop inside the grace, the stop signal, SIGKILL; sidecars last and in reverse.

use super::fold::{after, report};
use super::model::{Action, Container, Hook, Phase, PodState, Role, Severity, Signal, Stage, Stopping};
use super::restart::spec_of;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container as Spec;

/// What a container gets at least after its preStop hook, in seconds, as upstream.
const MINIMUM_GRACE_SECONDS: i64 = 2;

/// Marks the pod as ending; a shorter grace than before shortens the stops under way.
pub(super) fn terminate(state: &mut PodState, by: Timestamp) {
    let by = state.terminate_by.map_or(by, |before| before.min(by));
    if state.terminate_by == Some(by) {
        return;
    }
    state.terminate_by = Some(by);
    for container in &mut state.containers {
        if let Phase::Running(running) = &mut container.phase
            && let Some(stopping) = &mut running.stopping
        {
            stopping.kill_at = stopping.kill_at.min(by);
        }
    }
}

/// Begins to stop one running container with `grace` seconds.
pub(super) fn stop_container(
    spec: &Spec,
    container: &mut Container,
    grace: i64,
    now: Timestamp,
    why: &str,
    actions: &mut Vec<Action>,
) {
    let Phase::Running(running) = &mut container.phase else { return };
    if running.stopping.is_some() {
        return;
    }
    actions.push(report(Severity::Normal, "Killing", why.to_owned(), &container.name));
    let mut stopping = Stopping { kill_at: after(now, grace), stage: Stage::PreStop };
    let has_hook = spec.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.pre_stop.is_some());
    if grace <= 0 {
        stopping.stage = Stage::Killing;
        stopping.kill_at = after(now, 10);
        actions.push(Action::Signal {
            container: container.name.clone(),
            id: running.id.clone(),
            signal: Signal::Kill,
        });
    } else if has_hook {
        let hook = Hook::PreStop;
        actions.push(Action::RunHook {
            container: container.name.clone(),
            id: running.id.clone(),
            hook,
            timeout_seconds: grace,
        });
    } else {
        stopping.stage = Stage::Terminating;
        actions.push(Action::Signal {
            container: container.name.clone(),
            id: running.id.clone(),
            signal: Signal::Stop,
        });
    }
    running.stopping = Some(stopping);
}

/// The hook is over: sends the stop signal and leaves at least the minimum until the kill.
pub(super) fn send_stop(stopping: &mut Stopping, name: &str, id: &str, now: Timestamp, actions: &mut Vec<Action>) {
    stopping.stage = Stage::Terminating;
    stopping.kill_at = stopping.kill_at.max(after(now, MINIMUM_GRACE_SECONDS));
    actions.push(Action::Signal { container: name.into(), id: id.into(), signal: Signal::Stop });
}

/// Moves stops on whose time has come.
pub(super) fn advance(container: &mut Container, now: Timestamp, actions: &mut Vec<Action>) {
    let Phase::Running(running) = &mut container.phase else { return };
    let Some(stopping) = &mut running.stopping else { return };
    if now < stopping.kill_at {
        return;
    }
    if stopping.stage == Stage::PreStop {
        send_stop(stopping, &container.name, &running.id, now, actions);
    } else {
        // A process in an uninterruptible sleep outlives SIGKILL for a while: it is sent again, not too often.
        stopping.stage = Stage::Killing;
        stopping.kill_at = after(now, 10);
        actions.push(Action::Signal {
            container: container.name.clone(),
            id: running.id.clone(),
            signal: Signal::Kill,
        });
    }
}

/// Stops what may be stopped now: everything but sidecars, then the sidecars from the last to the first.
/// Returns true once nothing runs and nothing is being started.
pub(super) fn stop_all(state: &mut PodState, by: Timestamp, now: Timestamp, actions: &mut Vec<Action>) -> bool {
    let grace = (by.duration_since(now).as_millis() + 999).div_euclid(1000);
    let mut grace = i64::try_from(grace).unwrap_or(0).max(0);
    let forced = state.pod.metadata.deletion_grace_period_seconds == Some(0);
    let specs: Vec<_> = state
        .containers
        .iter()
        .map(|container| spec_of(state, &container.name).map(|spec| spec.into_owned()))
        .collect();
    let alive = |container: &Container| matches!(container.phase, Phase::Starting | Phase::Running(_));
    let others = state.containers.iter().any(|container| container.role != Role::Sidecar && alive(container));
    let last_sidecar =
        state.containers.iter().rposition(|container| container.role == Role::Sidecar && alive(container));
    if grace == 0 && !forced && !others && last_sidecar.is_some() {
        grace = MINIMUM_GRACE_SECONDS; // sidecars whose turn comes after the grace still get the minimum
    }
    for (index, (container, spec)) in state.containers.iter_mut().zip(specs).enumerate() {
        let turn = if container.role == Role::Sidecar { !others && last_sidecar == Some(index) } else { true };
        if turn && let Some(spec) = spec {
            let why = format!("Stopping container {}", container.name);
            stop_container(&spec, container, grace, now, &why, actions);
        }
    }
    !others && last_sidecar.is_none()
}
