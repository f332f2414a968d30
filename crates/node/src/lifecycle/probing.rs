//! Startup, liveness and readiness probes: when the next is due and what an outcome changes.

use super::fold::{after, report};
use super::model::{Action, Container, HookStage, Outcome, Phase, ProbeKind, ProbeState, Severity};
use super::stopping;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as Spec, Probe};

const KINDS: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness];

impl ProbeKind {
    /// The word that upstream's messages begin with.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }

    /// The probe of this kind in a container's spec.
    #[must_use]
    pub fn of(self, spec: &Spec) -> Option<&Probe> {
        match self {
            ProbeKind::Startup => spec.startup_probe.as_ref(),
            ProbeKind::Liveness => spec.liveness_probe.as_ref(),
            ProbeKind::Readiness => spec.readiness_probe.as_ref(),
        }
    }
}

impl Container {
    /// The counters of one probe.
    pub(super) fn probe_mut(&mut self, kind: ProbeKind) -> &mut ProbeState {
        match kind {
            ProbeKind::Startup => &mut self.startup,
            ProbeKind::Liveness => &mut self.liveness,
            ProbeKind::Readiness => &mut self.readiness,
        }
    }

    /// status.started: it runs, its postStart hook is over and its startup probe, where it has one, has succeeded.
    #[must_use]
    pub fn started(&self, spec: &Spec) -> bool {
        let Phase::Running(running) = &self.phase else { return false };
        running.post_start == HookStage::Done && (spec.startup_probe.is_none() || self.startup.result == Some(true))
    }

    /// status.ready of a running container.
    #[must_use]
    pub fn ready(&self, spec: &Spec) -> bool {
        self.started(spec) && (spec.readiness_probe.is_none() || self.readiness.result == Some(true))
    }
}

/// Which probes apply to the container as it stands.
fn applies(spec: &Spec, container: &Container, kind: ProbeKind) -> bool {
    if kind.of(spec).is_none() {
        return false;
    }
    match kind {
        ProbeKind::Startup => container.startup.result != Some(true),
        _ => spec.startup_probe.is_none() || container.startup.result == Some(true),
    }
}

/// When the next probe of a running container is due; None where there is nothing to wait for.
pub(super) fn next_due(spec: &Spec, container: &Container) -> Option<Timestamp> {
    let Phase::Running(running) = &container.phase else { return None };
    let due = |kind: ProbeKind| {
        let stopping = running.stopping.is_some() && kind != ProbeKind::Readiness;
        if stopping || running.post_start == HookStage::Running || !applies(spec, container, kind) {
            return None;
        }
        let state = match kind {
            ProbeKind::Startup => &container.startup,
            ProbeKind::Liveness => &container.liveness,
            ProbeKind::Readiness => &container.readiness,
        };
        if state.in_flight {
            return None;
        }
        let initial = kind.of(spec)?.initial_delay_seconds.unwrap_or(0).max(0);
        Some(state.next_at.unwrap_or_else(|| after(running.started_at, initial.into())))
    };
    KINDS.into_iter().filter_map(due).min()
}

/// Asks for the probes that are due.
pub(super) fn start_due(spec: &Spec, container: &mut Container, now: Timestamp, actions: &mut Vec<Action>) {
    for kind in KINDS {
        let Phase::Running(running) = &container.phase else { return };
        let id = running.id.clone();
        let waits =
            running.post_start == HookStage::Running || (running.stopping.is_some() && kind != ProbeKind::Readiness);
        let first = running.started_at;
        if waits || !applies(spec, container, kind) {
            continue;
        }
        let Some(probe) = kind.of(spec) else { continue };
        let initial = after(first, probe.initial_delay_seconds.unwrap_or(0).max(0).into());
        let name = container.name.clone();
        let state = container.probe_mut(kind);
        if !state.in_flight && state.next_at.unwrap_or(initial) <= now {
            state.in_flight = true;
            state.next_at = Some(after(now, probe.period_seconds.unwrap_or(10).max(1).into()));
            actions.push(Action::Probe { container: name, id, kind });
        }
    }
}

/// Counts an outcome; past its threshold it becomes the result, and a failed liveness or startup probe ends the container.
pub(super) fn outcome(
    spec: &Spec,
    container: &mut Container,
    kind: ProbeKind,
    outcome: Outcome,
    now: Timestamp,
    pod_grace: i64,
    _pod: &str,
    actions: &mut Vec<Action>,
) {
    let Some(probe) = kind.of(spec) else { return };
    let name = container.name.clone();
    let success = outcome.is_ok();
    let state = container.probe_mut(kind);
    state.in_flight = false;
    if let Err(message) = outcome {
        let text = format!("{} probe failed: {message}", kind.word());
        actions.push(report(Severity::Warning, "Unhealthy", text, &name));
    }
    state.run = if state.last == Some(success) { state.run.saturating_add(1) } else { 1 };
    state.last = Some(success);
    let threshold = if success { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
    if i64::from(state.run) < i64::from(threshold.max(1)) {
        return;
    }
    state.result = Some(success);
    if success {
        if kind == ProbeKind::Startup {
            container.readiness.next_at = None; // upstream asks for readiness at once after a successful start
        }
    } else if kind != ProbeKind::Readiness {
        let grace = probe.termination_grace_period_seconds.unwrap_or(pod_grace);
        let why = format!("Container {name} failed {} probe, will be restarted", kind.word().to_lowercase());
        stopping::stop_container(spec, container, grace, now, &why, actions);
    }
}
