//! Why a Deployment, or another owner of pods, does not have the pods it wants.

use super::{Subject, condition, holds, last_warning, pods_of, stop};
use object::{Value, meta};

/// The sentence about a Deployment: that of its newest ReplicaSet's first unready pod, where there is one.
pub(super) fn explain(subject: &Subject) -> String {
    let deployment = &subject.object;
    let wanted = deployment.i64_at(&["spec", "replicas"]).unwrap_or(1);
    let status = |key: &str| deployment.i64_at(&["status", key]).unwrap_or_default();
    let what = format!("Deployment {}", meta::name(deployment));
    if deployment.at(&["spec", "paused"]).and_then(Value::as_bool) == Some(true) {
        return format!("{what} is paused; go on with kubectl rollout resume deployment {}.", meta::name(deployment));
    }
    if status("availableReplicas") >= wanted
        && status("updatedReplicas") >= wanted
        && status("replicas") == status("updatedReplicas")
    {
        return format!("{what} is as wanted: {wanted} of {wanted} available.");
    }
    let head = format!(
        "{what} has {} of {wanted} available ({} of the newest template)",
        status("availableReplicas"),
        status("updatedReplicas")
    );
    if let Some(failure) = condition(deployment, "ReplicaFailure").and_then(|one| one.str_at(&["message"])) {
        return format!("{head}: pods cannot be created: {}", stop(failure));
    }
    let mut sets: Vec<&Value> = subject.replica_sets.iter().collect();
    sets.retain(|set| meta::controller(set).is_some_and(|owner| owner.uid == meta::uid(deployment)));
    sets.sort_by_key(|set| {
        let revision = meta::annotation(set, "deployment.kubernetes.io/revision");
        std::cmp::Reverse(revision.and_then(|text| text.parse::<u64>().ok()).unwrap_or_default())
    });
    let unready = sets.iter().flat_map(|set| pods_of(subject, meta::uid(set))).find(|one| !ready(one));
    match unready {
        Some(one) => format!("{head}. {}", subject.of_one(one)),
        None => format!("{head}; its pods are being made."),
    }
}

/// The sentence about another owner of pods.
pub(super) fn explain_owner(subject: &Subject) -> String {
    let what = format!("{} {}", subject.kind, meta::name(&subject.object));
    let pods = pods_of(subject, meta::uid(&subject.object));
    let unready = pods.iter().find(|one| !ready(one) && one.str_at(&["status", "phase"]) != Some("Succeeded"));
    let failed = super::conditions(&subject.object).iter().find(|one| {
        matches!(one.str_at(&["type"]), Some("ReplicaFailure" | "Failed")) && one.str_at(&["status"]) == Some("True")
    });
    if let Some(failed) = failed {
        let text = |key| failed.str_at(&[key]).unwrap_or_default();
        let verb = if text("type") == "Failed" { "has failed" } else { "cannot make its pods" };
        let head = format!("{what} {verb} ({}): {}", text("reason"), stop(text("message")));
        return match unready {
            Some(one) => format!("{head} {}", subject.of_one(one)),
            None => head,
        };
    }
    if subject.kind == "Job" && holds(&subject.object, "Complete") {
        return format!("{what} has finished its work.");
    }
    if let Some(one) = unready {
        return format!("{what} has {} pods, not all ready. {}", pods.len(), subject.of_one(one));
    }
    match last_warning(&subject.events_about(&subject.object)) {
        Some(warning) if pods.is_empty() => format!("{what} has no pods; the last warning about it: {warning}"),
        _ => format!("{what} is as wanted: {} pods, none with a problem.", pods.len()),
    }
}

fn ready(pod: &Value) -> bool {
    condition(pod, "Ready").and_then(|one| one.str_at(&["status"])) == Some("True")
}
