//! The status of a Deployment: counts, conditions, and whether a rollout still moves.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Memory, Rollout, available, replicas};
use crate::action::{Action, Plan};
use crate::meta;

/// Upstream's way to say: no deadline.
const NO_DEADLINE: i32 = i32::MAX;

/// Adds the status to the plan. `rolling` is false where the rollout does not move on purpose (paused, scaled, deleted).
pub(super) fn finish(mut rollout: Rollout<'_>, memory: &mut Memory, now: Timestamp, rolling: bool) -> Plan {
    let mut plan = Plan::default();
    let deployment = rollout.deployment;
    let mut status = counts(&rollout);
    status.collision_count = rollout.collision_count(memory);
    let old = deployment.status.clone().unwrap_or_default();
    let mut conditions = Conditions { list: old.conditions.clone().unwrap_or_default(), now };
    let has_enough = status.available_replicas.unwrap_or(0) >= rollout.desired - rollout.max_unavailable;
    if has_enough {
        conditions.set("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.");
    } else {
        conditions.set(
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        );
    }
    if deadline(&rollout).is_none() {
        conditions.list.retain(|condition| condition.type_.as_deref() != Some("Progressing"));
    } else if rolling {
        progress(&rollout, &old, &status, memory, &mut conditions, &mut plan);
    } else if rollout.spec.paused == Some(true) {
        if conditions.reason("Progressing") != Some("DeploymentPaused") {
            conditions.set("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused");
        }
    } else if conditions.reason("Progressing") == Some("DeploymentPaused") {
        conditions.set("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed");
    }
    replica_failure(&rollout, &mut conditions);
    // Upstream lists Available first; a client that shows the last condition sees how the rollout goes.
    status.conditions = (!conditions.list.is_empty()).then_some(conditions.list);
    if !rollout.updates_itself && deployment.status.as_ref() != Some(&status) {
        rollout.actions.push(Action::update_status(&Deployment { status: Some(status), ..deployment.clone() }));
    }
    plan.actions = rollout.actions;
    plan
}

fn counts(rollout: &Rollout<'_>) -> DeploymentStatus {
    let sum = |count: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> Option<i32>| -> i32 {
        rollout.sets().filter_map(|set| set.status.as_ref().and_then(count)).sum()
    };
    let nonzero = |count: i32| (count > 0).then_some(count);
    let wanted: i32 = rollout.sets().map(|set| replicas(set)).sum();
    let available_pods: i32 = rollout.sets().map(|set| available(set)).sum();
    let updated = rollout.current.as_ref().and_then(|set| set.status.as_ref()).map_or(0, |status| status.replicas);
    DeploymentStatus {
        observed_generation: rollout.deployment.metadata.generation,
        replicas: nonzero(sum(|status| Some(status.replicas))),
        updated_replicas: nonzero(updated),
        ready_replicas: nonzero(sum(|status| status.ready_replicas)),
        available_replicas: nonzero(available_pods),
        unavailable_replicas: nonzero(wanted - available_pods),
        terminating_replicas: Some(sum(|status| status.terminating_replicas)),
        collision_count: None,
        conditions: None,
    }
}

fn deadline(rollout: &Rollout<'_>) -> Option<i64> {
    rollout.spec.progress_deadline_seconds.filter(|seconds| *seconds != NO_DEADLINE).map(i64::from)
}

fn progress(
    rollout: &Rollout<'_>,
    old: &DeploymentStatus,
    status: &DeploymentStatus,
    memory: &mut Memory,
    conditions: &mut Conditions,
    plan: &mut Plan,
) {
    let get = |count: Option<i32>| count.unwrap_or(0);
    if let Some(message) = memory.create_failure.take() {
        let message = format!("Failed to create new replica set: {message}");
        conditions.set("Progressing", "False", "ReplicaSetCreateError", &message);
        return;
    }
    let Some(current) = &rollout.current else {
        // The set is being created by this very plan; the next one sees it.
        return;
    };
    let name = meta::name(&current.metadata);
    match conditions.reason("Progressing") {
        None => conditions.set(
            "Progressing",
            "True",
            "NewReplicaSetCreated",
            &format!("Created new replica set \"{name}\""),
        ),
        Some("DeploymentPaused") => {
            conditions.set("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed")
        }
        Some(_) => {}
    }
    let was_complete = conditions.reason("Progressing") == Some("NewReplicaSetAvailable");
    if get(status.replicas) == get(status.updated_replicas) && was_complete {
        return;
    }
    let complete = get(status.updated_replicas) == rollout.desired
        && get(status.replicas) == rollout.desired
        && get(status.available_replicas) == rollout.desired;
    let moved = get(status.updated_replicas) > get(old.updated_replicas)
        || get(status.replicas) - get(status.updated_replicas) < get(old.replicas) - get(old.updated_replicas)
        || get(status.ready_replicas) > get(old.ready_replicas)
        || get(status.available_replicas) > get(old.available_replicas);
    if complete {
        let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
        conditions.set("Progressing", "True", "NewReplicaSetAvailable", &message);
    } else if moved || was_complete {
        conditions.set("Progressing", "True", "ReplicaSetUpdated", &format!("ReplicaSet \"{name}\" is progressing."));
    } else {
        let updated_at =
            conditions.find("Progressing").and_then(|condition| condition.last_update_time.as_ref()).map(|time| time.0);
        let limit = deadline(rollout)
            .zip(updated_at)
            .and_then(|(seconds, at)| at.checked_add(SignedDuration::from_secs(seconds)).ok());
        match limit {
            Some(limit) if limit <= conditions.now => {
                let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
                conditions.set("Progressing", "False", "ProgressDeadlineExceeded", &message);
            }
            Some(limit) => plan.requeue_at(limit),
            None => {}
        }
    }
}

/// A failure to create pods stands on the ReplicaSet; the Deployment repeats it.
fn replica_failure(rollout: &Rollout<'_>, conditions: &mut Conditions) {
    let failures = rollout.current.iter().chain(&rollout.old).filter_map(|set| {
        let listed = set.status.as_ref()?.conditions.as_ref()?;
        listed.iter().find(|condition| condition.type_.as_deref() == Some("ReplicaFailure"))
    });
    match failures.into_iter().next() {
        Some(failure) => {
            let (reason, message) =
                (failure.reason.clone().unwrap_or_default(), failure.message.clone().unwrap_or_default());
            conditions.set("ReplicaFailure", "True", &reason, &message);
        }
        None => conditions.list.retain(|condition| condition.type_.as_deref() != Some("ReplicaFailure")),
    }
}

struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    fn find(&self, condition_type: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|condition| condition.type_.as_deref() == Some(condition_type))
    }

    fn reason(&self, condition_type: &str) -> Option<&str> {
        self.find(condition_type).and_then(|condition| condition.reason.as_deref())
    }

    /// Sets a condition. Only a change of status moves the transition time; progress refreshes the update time, from
    /// which the deadline counts.
    fn set(&mut self, condition_type: &str, status: &str, reason: &str, message: &str) {
        let known = self.find(condition_type);
        let same_status = known.is_some_and(|known| known.status.as_deref() == Some(status));
        let same_reason = same_status && known.is_some_and(|known| known.reason.as_deref() == Some(reason));
        if same_reason && condition_type != "Progressing" {
            return;
        }
        let unchanged = same_reason && known.is_some_and(|known| known.message.as_deref() == Some(message));
        if unchanged && reason != "ReplicaSetUpdated" {
            return;
        }
        let since = known.filter(|_| same_status).and_then(|known| known.last_transition_time.clone());
        let condition = DeploymentCondition {
            type_: Some(condition_type.into()),
            status: Some(status.into()),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_transition_time: Some(since.unwrap_or(Time(self.now))),
            last_update_time: Some(Time(self.now)),
        };
        match self.list.iter_mut().find(|known| known.type_.as_deref() == Some(condition_type)) {
            Some(known) => *known = condition,
            None => self.list.push(condition),
        }
    }
}
