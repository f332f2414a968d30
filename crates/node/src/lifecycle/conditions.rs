//! Pod conditions with upstream's reasons and messages; transition times move only when a status does.

use super::model::{Container, Phase, PodState, Role, Sandbox};
use super::plan::initializing;
use super::restart::spec_of;
use super::status::phase;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The conditions that the node owns, in upstream's order.
const OWNED: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// The condition of a pod that is ended for the sake of something else, which others set as well.
pub(super) const DISRUPTED: &str = "DisruptionTarget";

struct Draft {
    kind: &'static str,
    status: bool,
    reason: &'static str,
    message: String,
}

fn draft(kind: &'static str, status: bool, reason: &'static str, message: impl Into<String>) -> Draft {
    Draft { kind, status, reason, message: message.into() }
}

fn drafts(state: &PodState, phase: &str) -> Vec<Draft> {
    let sandbox = matches!(state.sandbox, Sandbox::Ready { .. });
    let succeeded = phase == "Succeeded";
    let names = |list: Vec<&str>| format!("[{}]", list.join(" "));
    let initialized = if succeeded {
        draft("Initialized", true, "PodCompleted", "")
    } else if let Some(at) = initializing(state) {
        let waiting: Vec<&str> = state.containers[at..]
            .iter()
            .filter(|container| matches!(container.role, Role::Init | Role::Sidecar))
            .map(|container| container.name.as_str())
            .collect();
        draft(
            "Initialized",
            false,
            "ContainersNotInitialized",
            format!("containers with incomplete status: {}", names(waiting)),
        )
    } else {
        draft("Initialized", true, "", "")
    };
    let unready = |container: &&Container| {
        let ready = spec_of(state, &container.name).is_some_and(|spec| container.ready(&spec));
        matches!(container.role, Role::App | Role::Sidecar) && !ready
    };
    let unready: Vec<&str> = state.containers.iter().filter(unready).map(|container| container.name.as_str()).collect();
    let containers = if succeeded {
        draft("ContainersReady", false, "PodCompleted", "")
    } else if phase == "Failed" {
        draft("ContainersReady", false, "PodFailed", "")
    } else if unready.is_empty() {
        draft("ContainersReady", true, "", "")
    } else {
        let message = format!("containers with unready status: {}", names(unready));
        draft("ContainersReady", false, "ContainersNotReady", message)
    };
    let gates = missing_gates(state);
    let ready = if !containers.status {
        draft("Ready", false, containers.reason, containers.message.clone())
    } else if gates.is_empty() {
        draft("Ready", true, "", "")
    } else {
        draft("Ready", false, "ReadinessGatesNotReady", gates)
    };
    vec![
        draft("PodReadyToStartContainers", sandbox, "", ""),
        initialized,
        ready,
        containers,
        draft("PodScheduled", true, "", ""),
    ]
}

fn missing_gates(state: &PodState) -> String {
    let gates = state.pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_deref()).unwrap_or_default();
    let present = state.pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let sentences: Vec<String> = gates
        .iter()
        .filter_map(|gate| match present.iter().find(|condition| condition.type_ == gate.condition_type) {
            None => {
                Some(format!("corresponding condition of pod readiness gate {:?} does not exist.", gate.condition_type))
            }
            Some(condition) if condition.status != "True" => Some(format!(
                "the status of pod readiness gate {:?} is not \"True\", but {}",
                gate.condition_type, condition.status
            )),
            Some(_) => None,
        })
        .collect();
    match sentences.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// Remembers when a condition changed its status; called at the end of each step.
pub(super) fn note_transitions(state: &mut PodState, now: Timestamp) {
    for draft in drafts(state, phase(state)) {
        let status = if draft.status { "True" } else { "False" };
        match state.condition_times.get(draft.kind) {
            Some((before, _)) if before == status => {}
            _ => {
                state.condition_times.insert(draft.kind.into(), (status.into(), now));
            }
        }
    }
}

/// All conditions: ours, then those that others own.
pub(super) fn conditions(state: &PodState, phase: &str) -> Vec<PodCondition> {
    let old = state.pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let mut all: Vec<PodCondition> = drafts(state, phase)
        .into_iter()
        .map(|draft| PodCondition {
            type_: draft.kind.into(),
            status: if draft.status { "True" } else { "False" }.into(),
            reason: (!draft.reason.is_empty()).then(|| draft.reason.into()),
            message: (!draft.message.is_empty()).then_some(draft.message),
            last_transition_time: state.condition_times.get(draft.kind).map(|(_, time)| Time(*time)),
            last_probe_time: None,
            observed_generation: state.pod.metadata.generation,
        })
        .collect();
    let disrupted = state.terminal.as_ref().filter(|terminal| terminal.disrupted);
    let is_ours = |kind: &str| OWNED.contains(&kind) || disrupted.is_some() && kind == DISRUPTED;
    all.extend(old.iter().filter(|condition| !is_ours(&condition.type_)).cloned());
    all.extend(disrupted.map(|terminal| PodCondition {
        type_: DISRUPTED.into(),
        status: "True".into(),
        reason: Some("TerminationByKubelet".into()),
        message: Some(terminal.message.clone()),
        last_transition_time: state.condition_times.get(DISRUPTED).map(|(_, time)| Time(*time)),
        last_probe_time: None,
        observed_generation: state.pod.metadata.generation,
    }));
    all
}

/// True where a container of the pod runs; used by callers that only need to know whether something is left.
impl PodState {
    /// True where any container runs or is being started.
    #[must_use]
    pub fn anything_runs(&self) -> bool {
        self.containers.iter().any(|container| matches!(container.phase, Phase::Running(_) | Phase::Starting))
    }
}
