//! What `kubectl get pods` shows.

use crate::cells::text_or;
use crate::edit::items;
use jiff::Timestamp;
use object::Value;
use object::table::{Column, age};

/// The columns of pods.
pub(super) fn columns() -> Vec<Column> {
    vec![
        Column::name(),
        Column::new("Ready", |pod, _| Summary::of(pod).ready().into()),
        Column::new("Status", |pod, _| Summary::of(pod).reason.into()),
        Column::new("Restarts", |pod, now| Summary::of(pod).restarts(now).into()),
        Column::age(),
        Column::new("IP", |pod, _| {
            let first = items(pod, &["status", "podIPs"]).first().and_then(|one| one.str_at(&["ip"]));
            first.or_else(|| pod.str_at(&["status", "podIP"])).filter(|ip| !ip.is_empty()).unwrap_or("<none>").into()
        })
        .wide(),
        Column::new("Node", |pod, _| text_or(pod, &["spec", "nodeName"], "<none>")).wide(),
        Column::new("Nominated Node", |pod, _| text_or(pod, &["status", "nominatedNodeName"], "<none>")).wide(),
        Column::new("Readiness Gates", |pod, _| readiness_gates(pod).into()).wide(),
    ]
}

fn readiness_gates(pod: &Value) -> String {
    let gates = items(pod, &["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let is_true =
        |gate: &&Value| crate::cells::is_condition_true(pod, gate.str_at(&["conditionType"]).unwrap_or_default());
    format!("{}/{}", gates.iter().filter(is_true).count(), gates.len())
}

/// What the containers' states add up to.
pub(crate) struct Summary {
    ready: usize,
    total: usize,
    /// The one word for the pod's state, such as `Running` or `CrashLoopBackOff`.
    pub(crate) reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

/// The word for a container that has ended.
fn ended(terminated: &Value) -> String {
    match terminated.str_at(&["reason"]).unwrap_or_default() {
        "" => match terminated.i64_at(&["signal"]).unwrap_or_default() {
            0 => format!("ExitCode:{}", terminated.i64_at(&["exitCode"]).unwrap_or_default()),
            signal => format!("Signal:{signal}"),
        },
        reason => reason.to_owned(),
    }
}

fn last_end(status: &Value) -> Option<Timestamp> {
    status.str_at(&["lastState", "terminated", "finishedAt"])?.parse().ok()
}

fn restart_count(status: &Value) -> i64 {
    status.i64_at(&["restartCount"]).unwrap_or_default()
}

impl Summary {
    pub(crate) fn of(pod: &Value) -> Self {
        let phase = pod.str_at(&["status", "phase"]).unwrap_or_default();
        let status_reason = pod.str_at(&["status", "reason"]).unwrap_or_default();
        let mut reason = if status_reason.is_empty() { phase } else { status_reason }.to_owned();
        let gated = |one: &Value| {
            one.str_at(&["type"]) == Some("PodScheduled") && one.str_at(&["reason"]) == Some("SchedulingGated")
        };
        if items(pod, &["status", "conditions"]).iter().any(gated) {
            reason = "SchedulingGated".to_owned();
        }
        let restarts_always = |name: Option<&str>| {
            let container = items(pod, &["spec", "initContainers"]).iter().find(|one| one.str_at(&["name"]) == name);
            container.is_some_and(|one| one.str_at(&["restartPolicy"]) == Some("Always"))
        };
        let inits = items(pod, &["spec", "initContainers"]);
        let sidecars = inits.iter().filter(|one| one.str_at(&["restartPolicy"]) == Some("Always")).count();
        let mut summary = Summary {
            ready: 0,
            total: items(pod, &["spec", "containers"]).len() + sidecars,
            reason,
            restarts: 0,
            last_restart: None,
        };
        let (mut sidecar_restarts, mut sidecar_last) = (0, None);
        let mut initializing = false;
        for (at, status) in items(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
            let sidecar = restarts_always(status.str_at(&["name"]));
            summary.restarts += restart_count(status);
            summary.last_restart = summary.last_restart.max(last_end(status));
            if sidecar {
                sidecar_restarts += restart_count(status);
                sidecar_last = sidecar_last.max(last_end(status));
            }
            let terminated = status.at(&["state", "terminated"]);
            let waiting = status.str_at(&["state", "waiting", "reason"]).unwrap_or_default();
            if terminated.is_some_and(|one| one.i64_at(&["exitCode"]).unwrap_or_default() == 0) {
                continue;
            }
            if sidecar && crate::cells::flag(status, &["started"]) {
                summary.ready += usize::from(crate::cells::flag(status, &["ready"]));
                continue;
            }
            summary.reason = match terminated {
                Some(terminated) => format!("Init:{}", ended(terminated)),
                None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
                None => format!("Init:{at}/{}", inits.len()),
            };
            initializing = true;
            break;
        }
        if !initializing || crate::cells::is_condition_true(pod, "Initialized") {
            summary.restarts = sidecar_restarts;
            summary.last_restart = sidecar_last;
            summary.add_containers(pod);
        }
        if pod.str_at(&["metadata", "deletionTimestamp"]).is_some() {
            if status_reason == "NodeLost" {
                summary.reason = "Unknown".to_owned();
            } else if !matches!(phase, "Succeeded" | "Failed") {
                summary.reason = "Terminating".to_owned();
            }
        }
        summary
    }

    fn add_containers(&mut self, pod: &Value) {
        let mut running = false;
        for status in items(pod, &["status", "containerStatuses"]).iter().rev() {
            self.restarts += restart_count(status);
            self.last_restart = self.last_restart.max(last_end(status));
            let waiting = status.str_at(&["state", "waiting", "reason"]).unwrap_or_default();
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if let Some(terminated) = status.at(&["state", "terminated"]) {
                self.reason = ended(terminated);
            } else if crate::cells::flag(status, &["ready"]) && status.at(&["state", "running"]).is_some() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            let ready = crate::cells::is_condition_true(pod, "Ready");
            self.reason = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn ready(&self) -> String {
        format!("{}/{}", self.ready, self.total)
    }

    fn restarts(&self, now: Timestamp) -> String {
        match self.last_restart {
            Some(last) if self.restarts != 0 => {
                format!("{} ({} ago)", self.restarts, age(Some(&last.to_string()), now))
            }
            _ => self.restarts.to_string(),
        }
    }
}
