//! Eviction: a delete that asks the pod's disruption budget first and counts itself against it in a transaction.

use super::delete::{DeleteRequest, delete};
use super::prepare::Body;
use super::update::{Part, update_with};
use super::{commit, metadata};
use crate::core::{Call, Outcome, decoded};
use client::{DeleteOptions, Deletion};
use object::selector::labels;
use object::{Cause, Map, Status, Value, meta, time};
use std::sync::Arc;
use store::{CommitError, Entry, Expect, Transaction};

const BUDGETS: &str = "poddisruptionbudgets.policy";
/// What upstream names as possible policies, in its order.
const POLICIES: &str = "\"Foreground\", \"Background\", \"Orphan\", \"nil\"";
/// How often the budget's count is tried against newer states; upstream's retries.
const ATTEMPTS_MAX: u32 = 20;
/// More evictions in flight than the budget's status can name are refused; upstream's number.
const DISRUPTED_MAX: usize = 2000;

/// POST pods/NAME/eviction.
pub(crate) async fn evict(call: &Call<'_>, body: Body) -> Result<Outcome, Status> {
    let eviction = body.value;
    let named = meta::name(&eviction);
    if !named.is_empty() && named != call.scope.name {
        let message = format!("name in URL does not match name in Eviction object: {named} != {}", call.scope.name);
        return Err(Status::bad_request(message));
    }
    let not_found = || Status::not_found(&call.scope.gvr(), call.scope.name);
    let entry = call.core.store.get(&call.scope.key(call.scope.name)).ok_or_else(not_found)?;
    let pod = decoded(&entry);
    let request = DeleteRequest { options: options(&eviction)? };
    let dry_run = call.options.dry_run || request.options.dry_run;
    if !goes_freely(&pod) {
        let budgets = budgets_of(call, &pod)?;
        match budgets.as_slice() {
            [] => {}
            [budget] => spend(call, budget, &pod, dry_run).await?,
            _ => {
                let why =
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(Status::new(500, "InternalError", why));
            }
        }
    }
    if !dry_run {
        if !goes_freely(&pod) {
            mark_disrupted(call).await?;
        }
        delete(call, &request).await?;
    }
    Ok(Outcome::success(201, &call.scope, "", ""))
}

/// Tells the pod's owners why it goes, as upstream does before the delete.
async fn mark_disrupted(call: &Call<'_>) -> Result<(), Status> {
    let scope = crate::core::Scope { subresource: "", ..call.scope.clone() };
    let now = time::format_rfc3339(call.now);
    let one = call.about(scope);
    let marked = update_with(&one, Part::Bind, "Update", &mut |current| {
        let mut pod = current.clone();
        pod.remove(&["metadata", "resourceVersion"]);
        let mut conditions = pod.at(&["status", "conditions"]).and_then(Value::as_array).unwrap_or_default().to_vec();
        conditions.retain(|one| one.str_at(&["type"]) != Some("DisruptionTarget"));
        let condition: Map = [
            ("type", "DisruptionTarget"),
            ("status", "True"),
            ("reason", "EvictionByEvictionAPI"),
            ("message", "Eviction API: evicting"),
            ("lastTransitionTime", now.as_str()),
        ]
        .into_iter()
        .collect();
        conditions.push(condition.into());
        pod.set(&["status", "conditions"], conditions.into());
        Ok(pod)
    })
    .await;
    match marked {
        Err(status) if !status.is_not_found() => Err(status),
        _ => Ok(()),
    }
}

/// DeleteOptions as an Eviction, or a DELETE's body, carries them.
fn options(eviction: &Value) -> Result<DeleteOptions, Status> {
    let given = eviction.get("deleteOptions").filter(|options| !options.is_null());
    given.map_or_else(|| Ok(DeleteOptions::default()), from_value)
}

/// Reads meta/v1 DeleteOptions.
pub(crate) fn from_value(value: &Value) -> Result<DeleteOptions, Status> {
    check_types(value)?;
    let text = |path: &[&str]| value.str_at(path).unwrap_or_default().into();
    let dry_run = value.get("dryRun").and_then(Value::as_array).unwrap_or_default();
    let dry_run: Vec<&str> = dry_run.iter().filter_map(Value::as_str).collect();
    let orphan = value.get("orphanDependents").and_then(Value::as_bool);
    Ok(DeleteOptions {
        grace_period_seconds: value.i64_at(&["gracePeriodSeconds"]),
        uid: text(&["preconditions", "uid"]),
        resource_version: text(&["preconditions", "resourceVersion"]),
        ..checked(value.str_at(&["propagationPolicy"]), orphan, &dry_run)?
    })
}

/// DeleteOptions of these members; 422 with every fault.
pub(crate) fn checked(policy: Option<&str>, orphan: Option<bool>, dry_run: &[&str]) -> Result<DeleteOptions, Status> {
    let mut causes = Vec::new();
    if let (Some(policy), Some(_)) = (policy, orphan) {
        let why = format!("Invalid value: {policy:?}: orphanDependents and deletionPropagation cannot be both set");
        causes.push(metadata::cause("FieldValueInvalid", "propagationPolicy", why));
    }
    let propagation = match policy {
        None => orphan.map(|orphan| if orphan { Deletion::Orphan } else { Deletion::Background }),
        Some("Foreground") => Some(Deletion::Foreground),
        Some("Background") => Some(Deletion::Background),
        Some("Orphan") => Some(Deletion::Orphan),
        Some(other) => {
            causes.push(metadata::unsupported("propagationPolicy", &format!("{other:?}"), POLICIES));
            None
        }
    };
    causes.extend(metadata::dry_run_cause(dry_run));
    if !causes.is_empty() {
        return Err(metadata::invalid_options("DeleteOptions", causes));
    }
    Ok(DeleteOptions { propagation, dry_run: !dry_run.is_empty(), ..DeleteOptions::default() })
}

/// Whether a value is of a type.
type Test<'a> = &'a dyn Fn(&Value) -> bool;

/// Refuses DeleteOptions whose members are of other types than their schema's.
fn check_types(value: &Value) -> Result<(), Status> {
    let is_texts = |value: &Value| value.as_array().is_some_and(|list| list.iter().all(|one| one.as_str().is_some()));
    let members: [(&[&str], Test<'_>, &str); 7] = [
        (&["gracePeriodSeconds"], &|value| value.as_i64().is_some(), "int64"),
        (&["propagationPolicy"], &|value| value.as_str().is_some(), "string"),
        (&["orphanDependents"], &|value| value.as_bool().is_some(), "bool"),
        (&["dryRun"], &is_texts, "[]string"),
        (&["preconditions"], &|value| value.as_object().is_some(), "Preconditions"),
        (&["preconditions", "uid"], &|value| value.as_str().is_some(), "string"),
        (&["preconditions", "resourceVersion"], &|value| value.as_str().is_some(), "string"),
    ];
    if value.as_object().is_none() {
        return Err(Status::bad_request("json: cannot unmarshal the body into Go value of type v1.DeleteOptions"));
    }
    for (path, test, kind) in members {
        let Some(found) = value.at(path).filter(|found| !found.is_null()) else { continue };
        if !test(found) {
            let given = match found {
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                Value::Array(_) => "array",
                Value::Object(_) => "object",
                _ => "number",
            };
            let field = path.join(".");
            let why =
                format!("json: cannot unmarshal {given} into Go struct field DeleteOptions.{field} of type {kind}");
            return Err(Status::bad_request(why));
        }
    }
    Ok(())
}

/// Pods that no budget protects: finished, not started, or on their way out already.
fn goes_freely(pod: &Value) -> bool {
    let phase = pod.str_at(&["status", "phase"]).unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending") || meta::is_deleting(pod)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.at(&["status", "conditions"]).and_then(Value::as_array).unwrap_or_default();
    conditions.iter().any(|one| one.str_at(&["type"]) == Some("Ready") && one.str_at(&["status"]) == Some("True"))
}

fn budgets_of(call: &Call<'_>, pod: &Value) -> Result<Vec<Arc<Entry>>, Status> {
    let prefix = format!("{}/", call.scope.namespace);
    let listed = call.core.store.list(BUDGETS, &prefix, None, None, None).map_err(Status::internal)?;
    let selects = |entry: &Arc<Entry>| {
        let budget = decoded(entry);
        let selector = labels::Selector::from_label_selector(budget.at(&["spec", "selector"]).unwrap_or(&Value::Null));
        selector.is_ok_and(|selector| selector.matches_labels(meta::labels(pod)))
    };
    Ok(listed.entries.into_iter().filter(selects).collect())
}

fn refused(message: &str) -> Status {
    let mut status = Status::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", 0);
    status.causes =
        vec![Cause { reason: "DisruptionBudget".into(), message: message.to_owned(), field: String::new() }];
    status
}

/// Counts the eviction against the budget.
async fn spend(call: &Call<'_>, budget: &Arc<Entry>, pod: &Value, dry_run: bool) -> Result<(), Status> {
    let mut entry = Arc::clone(budget);
    for _ in 0..ATTEMPTS_MAX {
        let current = decoded(&entry);
        let name = meta::name(&current);
        let number = |member: &str| current.i64_at(&["status", member]).unwrap_or(0);
        if !is_ready(pod) {
            // A pod that serves nobody takes nothing from the budget, once the budget is met or the policy says so.
            let always = current.str_at(&["spec", "unhealthyPodEvictionPolicy"]) == Some("AlwaysAllow");
            if always || (number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0) {
                return Ok(());
            }
        }
        if number("observedGeneration") < meta::generation(&current) {
            let mut status = refused(&format!("The disruption budget {name} is still being processed by the server."));
            status.retry_after_seconds = 10;
            return Err(status);
        }
        if number("disruptionsAllowed") < 0 {
            let why =
                format!("poddisruptionbudgets.policy \"{name}\" is forbidden: pdb disruptions allowed is negative");
            return Err(Status::new(403, "Forbidden", why));
        }
        let disrupted = current.at(&["status", "disruptedPods"]).and_then(Value::as_object).map_or(0, object::Map::len);
        if disrupted > DISRUPTED_MAX {
            let why = format!(
                "poddisruptionbudgets.policy \"{name}\" is forbidden: DisruptedPods map too big - too many evictions not confirmed by PDB controller"
            );
            return Err(Status::new(403, "Forbidden", why));
        }
        if number("disruptionsAllowed") == 0 {
            let message = format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                number("desiredHealthy"),
                number("currentHealthy"),
            );
            return Err(refused(&message));
        }
        if dry_run {
            return Ok(());
        }
        let mut new = current.as_ref().clone();
        new.set(&["status", "disruptionsAllowed"], (number("disruptionsAllowed") - 1).into());
        new.set(&["status", "disruptedPods", meta::name(pod)], time::format_rfc3339(call.now).into());
        let operation = commit::put(entry.key.clone(), Expect::Revision(entry.revision), &new);
        match call.core.store.commit(Transaction { operations: vec![operation], relaxed: false }).await {
            Ok(_) => return Ok(()),
            Err(CommitError::Conflict { current: Some(newer), .. }) => entry = newer,
            Err(CommitError::Conflict { current: None, .. }) => return Ok(()),
            Err(error) => return Err(commit::failure(&error)),
        }
    }
    Err(Status::too_many_requests("couldn't update PodDisruptionBudget due to conflicts", 10))
}
