//! The status that clients see, computed from the state: phase, container statuses, addresses, QoS class.

use super::admission::qos_class;
use super::conditions;
use super::model::{Container, Exit, Image, Phase, PodState, Role, Sandbox};
use super::plan::outcome;
use super::restart::{restarts, spec_of};
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIP,
    PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::net::IpAddr;

/// What a containerID begins with.
pub(super) const ID_PREFIX: &str = "klynge://";

/// The node's own addresses, the primary one first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAddresses(pub Vec<IpAddr>);

/// The phase: Pending, Running, Succeeded or Failed.
pub(super) fn phase(state: &PodState) -> &'static str {
    if state.torn_down || all_stopped_for_good(state) {
        if state.terminal.is_some() {
            return "Failed";
        }
        if state.torn_down
            && let Some(before) = state.pod.status.as_ref().and_then(|status| status.phase.as_deref())
        {
            match before {
                "Succeeded" => return "Succeeded",
                "Failed" => return "Failed",
                _ => {}
            }
        }
        let apps = || state.containers.iter().filter(|container| container.role == Role::App);
        let done = |container: &Container| matches!(&container.phase, Phase::Exited(exit) if exit.code == 0);
        if outcome(state) == Some(true) || (apps().next().is_some() && apps().all(done)) {
            return "Succeeded";
        }
        return "Failed";
    }
    let begun = |container: &&Container| {
        !matches!(container.phase, Phase::Waiting { .. } | Phase::Starting) || container.last.is_some()
    };
    let mut apps = state.containers.iter().filter(|container| container.role == Role::App);
    if super::plan::initializing(state).is_some() || !apps.clone().all(|container| begun(&container)) {
        return "Pending";
    }
    if apps.next().is_none() { "Pending" } else { "Running" }
}

/// True where the pod ends and nothing runs any more.
fn all_stopped_for_good(state: &PodState) -> bool {
    state.terminate_by.is_some()
        && state.containers.iter().all(|container| !matches!(container.phase, Phase::Running(_) | Phase::Starting))
}

/// The whole status of a pod; conditions that others own are kept from the object.
#[must_use]
pub fn status(state: &PodState, node: &NodeAddresses) -> PodStatus {
    let phase = phase(state);
    let addresses: Vec<IpAddr> = match &state.sandbox {
        Sandbox::Ready { addresses, .. } => addresses.clone(),
        // What the API knows stays while the sandbox goes: clients use it to find where a pod was.
        _ => Vec::new(),
    };
    let ips: Vec<PodIP> = addresses.iter().map(|ip| PodIP { ip: ip.to_string() }).collect();
    let old = state.pod.status.clone().unwrap_or_default();
    let ips = if ips.is_empty() { old.pod_ips.clone().unwrap_or_default() } else { ips };
    let host_ips: Vec<HostIP> = node.0.iter().map(|ip| HostIP { ip: ip.to_string() }).collect();
    let of = |wanted: fn(Role) -> bool| -> Option<Vec<ContainerStatus>> {
        let list: Vec<ContainerStatus> = state
            .containers
            .iter()
            .filter(|container| wanted(container.role))
            .map(|container| one(state, container))
            .collect();
        (!list.is_empty()).then_some(list)
    };
    PodStatus {
        phase: Some(phase.into()),
        conditions: Some(conditions::conditions(state, phase)),
        message: state
            .terminal
            .as_ref()
            .map(|terminal| terminal.message.clone())
            .or(old.message.filter(|_| state.torn_down)),
        reason: state
            .terminal
            .as_ref()
            .map(|terminal| terminal.reason.clone())
            .or(old.reason.filter(|_| state.torn_down)),
        host_ip: host_ips.first().map(|host| host.ip.clone()),
        host_ips: (!host_ips.is_empty()).then_some(host_ips),
        pod_ip: ips.first().map(|pod| pod.ip.clone()),
        pod_ips: (!ips.is_empty()).then_some(ips),
        start_time: state.start_time.map(Time),
        qos_class: Some(
            old.qos_class.unwrap_or_else(|| state.pod.spec.as_ref().map_or("BestEffort", qos_class).into()),
        ),
        observed_generation: state.pod.metadata.generation,
        init_container_statuses: of(|role| matches!(role, Role::Init | Role::Sidecar)),
        container_statuses: of(|role| role == Role::App),
        ephemeral_container_statuses: of(|role| role == Role::Ephemeral),
        nominated_node_name: old.nominated_node_name,
        resource_claim_statuses: old.resource_claim_statuses,
        ..PodStatus::default()
    }
}

fn terminated(exit: &Exit) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: (!exit.id.is_empty()).then(|| format!("{ID_PREFIX}{}", exit.id)),
            exit_code: exit.code,
            reason: (!exit.reason.is_empty()).then(|| exit.reason.clone()),
            message: (!exit.message.is_empty()).then(|| exit.message.clone()),
            signal: None,
            started_at: exit.started_at.map(Time),
            finished_at: Some(Time(exit.finished_at)),
        }),
        ..ContainerState::default()
    }
}

fn waiting(reason: impl Into<String>, message: impl Into<String>) -> ContainerState {
    let message = message.into();
    let waiting =
        ContainerStateWaiting { reason: Some(reason.into()), message: (!message.is_empty()).then_some(message) };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn waiting_state(state: &PodState, container: &Container, image: &str) -> ContainerState {
    if let Image::Failed { reason, message, backing_off, .. } = &container.image {
        if *backing_off && reason == "ErrImagePull" {
            return waiting("ImagePullBackOff", format!("Back-off pulling image \"{image}\": ErrImagePull: {message}"));
        }
        return waiting(reason, message);
    }
    if let Phase::Waiting { reason, message, .. } = &container.phase
        && !reason.is_empty()
    {
        return waiting(reason, message);
    }
    not_started(state, container)
}

/// What a container waits for that has nothing to say itself: as upstream, the same from the pod's beginning to its end.
fn not_started(state: &PodState, container: &Container) -> ContainerState {
    let has_init = state.containers.iter().any(|other| matches!(other.role, Role::Init | Role::Sidecar));
    let initializing = has_init && container.role != Role::Ephemeral;
    waiting(if initializing { "PodInitializing" } else { "ContainerCreating" }, "")
}

fn one(state: &PodState, container: &Container) -> ContainerStatus {
    let spec = spec_of(state, &container.name).map(std::borrow::Cow::into_owned).unwrap_or_default();
    let image = spec.image.clone().unwrap_or_default();
    let exited = |exit: &Exit| Some(terminated(exit));
    let mut last_state = container.last.as_ref().and_then(exited);
    let (current, id, started, ready) = match &container.phase {
        Phase::Running(running) => {
            let state = ContainerState {
                running: Some(ContainerStateRunning { started_at: Some(Time(running.started_at)) }),
                ..ContainerState::default()
            };
            (state, running.id.clone(), container.started(&spec), container.ready(&spec))
        }
        Phase::Exited(exit) => {
            let again = state.terminate_by.is_none()
                && !state.torn_down
                && restarts(state, &container.name, container.role, exit.code);
            let ready = container.role == Role::Init && exit.code == 0;
            if again && container.backing_off {
                last_state = exited(exit);
                let delay = duration(container.back_off.delay_seconds());
                let message =
                    format!("back-off {delay} restarting failed container={} pod={}", container.name, state.describe());
                (waiting("CrashLoopBackOff", message), exit.id.clone(), false, false)
            } else if again && matches!(container.image, Image::Failed { .. }) {
                last_state = exited(exit);
                (waiting_state(state, container, &image), exit.id.clone(), false, false)
            } else {
                (terminated(exit), exit.id.clone(), false, ready)
            }
        }
        _ if state.torn_down => (not_started(state, container), String::new(), false, false),
        _ => (waiting_state(state, container, &image), String::new(), false, false),
    };
    let image_id = match &container.image {
        Image::Ready { id } => id.clone(),
        _ => old_image_id(state, &container.name),
    };
    ContainerStatus {
        name: container.name.clone(),
        image,
        image_id,
        container_id: (!id.is_empty()).then(|| format!("{ID_PREFIX}{id}")),
        state: Some(current),
        last_state: Some(last_state.unwrap_or_default()),
        ready,
        started: Some(started),
        restart_count: i32::try_from(container.restart_count).unwrap_or(i32::MAX),
        ..ContainerStatus::default()
    }
}

fn old_image_id(state: &PodState, name: &str) -> String {
    let Some(status) = &state.pod.status else { return String::new() };
    let all = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    let found = all.into_iter().flatten().flatten().find(|status| status.name == name);
    found.map(|status| status.image_id.clone()).unwrap_or_default()
}

/// Whole seconds as upstream prints a duration: `10s`, `1m20s`, `5m0s`.
fn duration(seconds: u32) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}
