//! What controllers need to know of pods.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde_json::json;

use crate::action::Action;
use crate::meta;
use crate::view::View;

/// On pods of which there may be one at a time.
const AT_MOST_ONCE: &str = "klynge.io/at-most-once";

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Neither ended nor being deleted.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !matches!(phase(pod), "Succeeded" | "Failed") && !meta::is_deleting(&pod.metadata)
}

pub(crate) fn condition<'a>(pod: &'a Pod, condition_type: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == condition_type)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

pub(crate) fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// Condition and deletion of a pod that leaves because of its node. A pod without grace gets a second: deleted without any its object, and with it
/// its name, would be gone before its node has said that its containers are.
pub(crate) fn disrupt(pod: &Pod, why: &str, now: Timestamp) -> [Action; 2] {
    let mut conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    conditions.retain(|condition| condition.type_ != "DisruptionTarget");
    conditions.push(PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some("DeletionByTaintManager".into()),
        message: Some(why.into()),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    });
    let mut delete = Action::delete(pod);
    let own_grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    if let Action::Delete { grace_period_seconds, .. } = &mut delete
        && own_grace == Some(0)
    {
        *grace_period_seconds = Some(1);
    }
    [Action::patch(pod, "status", json!({"status": {"conditions": conditions}})), delete]
}

/// Whether no second copy of the pod may ever run beside it: it says so, or it has a claim that one node at a time may have.
pub(crate) fn is_at_most_once(view: &View, pod: &Pod) -> bool {
    if meta::annotation(&pod.metadata, AT_MOST_ONCE) == Some("true") {
        return true;
    }
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.into_iter().any(|volume| {
        let claimed = volume.persistent_volume_claim.as_ref().map(|source| {
            let claim = view.persistent_volume_claims.get(meta::namespace(&pod.metadata), &source.claim_name);
            let modes = claim.and_then(|claim| claim.spec.as_ref()?.access_modes.as_ref());
            // A claim that is not known may be one.
            modes.is_none_or(|modes| modes.iter().any(|mode| mode.starts_with("ReadWriteOnce")))
        });
        volume.ephemeral.is_some() || claimed == Some(true)
    })
}

/// Since when the pod is ready.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// When a ready pod counts as available; `None` if it is not ready.
pub(crate) fn available_at(pod: &Pod, min_ready_seconds: i32) -> Option<Timestamp> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready_seconds <= 0 {
        return Some(Timestamp::MIN);
    }
    ready_since(pod)?.checked_add(SignedDuration::from_secs(i64::from(min_ready_seconds))).ok()
}

pub(crate) fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).max().unwrap_or(0)
}

/// A pod from a template, managed by `owner`; the API server completes the name.
pub(crate) fn from_template(template: &PodTemplateSpec, namespace: &str, owner: OwnerReference) -> Pod {
    let metadata = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: Some(namespace.into()),
            generate_name: Some(meta::name_prefix(&owner.name)),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone().unwrap_or_default()),
        status: None,
    }
}
