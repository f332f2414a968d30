//! What a restarted agent makes of its checkpoint and of what the runtime still runs: containers that went on are as before.

use super::model::{Exit, HookStage, Image, Phase, PodState, RecoveredContainer, Role, Running, Sandbox, Volumes};
use jiff::Timestamp;
use std::net::IpAddr;

/// Takes over what the runtime knows; everything that was under way when the agent died is asked for again. True where the
/// sandbox has to go: its making was not known to be over, so it may lack its network or its files, and holds no container.
pub(super) fn recover(
    state: &mut PodState,
    sandbox: Option<(u32, Vec<IpAddr>)>,
    known: Vec<RecoveredContainer>,
    now: Timestamp,
) -> bool {
    if matches!(state.volumes, Volumes::Preparing { .. }) {
        state.volumes = Volumes::Absent;
    }
    let alive = sandbox.is_some();
    let half_made = alive && known.is_empty() && !matches!(state.sandbox, Sandbox::Ready { .. });
    match sandbox {
        Some(_) if half_made => state.sandbox = Sandbox::Destroying,
        Some((pid, mut addresses)) => {
            if let (true, Sandbox::Ready { addresses: before, .. }) = (addresses.is_empty(), &state.sandbox) {
                addresses.clone_from(before);
            }
            state.sandbox = Sandbox::Ready { pid, addresses };
        }
        None => state.sandbox = Sandbox::Absent,
    }
    for container in &mut state.containers {
        if container.image == Image::Pulling {
            container.image = Image::Unknown;
        }
        for probe in [&mut container.startup, &mut container.liveness, &mut container.readiness] {
            probe.in_flight = false;
        }
        // The newest run of a name is the one that counts; earlier ones are history that `last` holds already.
        let found = known.iter().filter(|known| known.name == container.name).max_by_key(|known| known.started_at);
        let remembered = match &container.phase {
            Phase::Running(running) => Some((running.id.clone(), running.started_at)),
            _ => None,
        };
        match (found, &mut container.phase) {
            (Some(found), Phase::Running(running)) if alive && found.id == running.id => {
                running.post_start = HookStage::Done;
                if let Some(exit) = &found.exit {
                    container.phase = Phase::Exited(exit.clone());
                }
            }
            (Some(found), Phase::Starting) if alive => {
                container.phase = match &found.exit {
                    Some(exit) => Phase::Exited(exit.clone()),
                    None => Phase::Running(Running {
                        id: found.id.clone(),
                        started_at: found.started_at,
                        post_start: HookStage::Done,
                        stopping: None,
                    }),
                };
            }
            (_, Phase::Starting) => container.phase = waiting(),
            (_, Phase::Running(_)) => {
                let (id, started_at) = remembered.unwrap_or_default();
                container.phase = Phase::Exited(lost(id, Some(started_at), now));
            }
            _ => {}
        }
    }
    if !alive && state.terminate_by.is_none() && !state.torn_down {
        reinitialize(state);
    }
    half_made
}

/// New namespaces initialise again, as upstream: the init containers run once more before anything else is started.
pub(super) fn reinitialize(state: &mut PodState) {
    for container in state.containers.iter_mut().filter(|container| container.role == Role::Init) {
        if let Phase::Exited(exit) = &container.phase {
            container.last = Some(exit.clone());
            container.phase = waiting();
            container.restart_count = container.restart_count.saturating_add(1);
        }
    }
    state.reinitializing =
        state.containers.iter().any(|container| matches!(container.role, Role::Init | Role::Sidecar));
}

/// A container that has nothing to say yet.
pub(super) fn waiting() -> Phase {
    Phase::Waiting { reason: String::new(), message: String::new(), retry_at: None }
}

/// The end of a container whose end nobody saw.
pub(super) fn lost(id: String, started_at: Option<Timestamp>, now: Timestamp) -> Exit {
    Exit {
        id,
        code: 137,
        reason: "ContainerStatusUnknown".into(),
        message: "The container could not be located when the pod was terminated".into(),
        started_at,
        finished_at: now,
    }
}
