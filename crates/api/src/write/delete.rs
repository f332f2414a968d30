//! Delete: preconditions, propagation, graceful periods, finalizers; the object goes when nothing holds it.

use super::services::Claims;
use super::{commit, metadata};
use crate::admission::{self, Operation as Action, Review};
use crate::core::{Answered, Call, Outcome, decoded};
use crate::read::{self, Selection};
use client::{DeleteOptions, Deletion};
use jiff::{SignedDuration, Timestamp};
use kinds::Grace;
use object::{Status, Value, meta, time};
use std::sync::Arc;
use store::{Change, CommitError, Entry, Expect, Key, Operation};

/// How often a delete is tried against newer states.
const ATTEMPTS_MAX: u32 = 10;

/// Kinds that upstream answers a delete of with the object instead of a Status.
const ANSWERED_WITH_OBJECT: &[&str] = &[
    "pods",
    "services",
    "serviceaccounts",
    "persistentvolumes",
    "persistentvolumeclaims",
    "podtemplates",
    "resourcequotas",
];

/// Kinds whose dependents upstream orphans when the caller says nothing.
const ORPHANING: &[&str] = &["replicationcontrollers", "jobs.batch"];

/// A delete and how it is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteRequest {
    pub(crate) options: DeleteOptions,
}

/// Whether nothing keeps an object that is being deleted.
pub(crate) fn is_finished(call: &Call<'_>, object: &Value) -> bool {
    metadata::is_deleting(object)
        && metadata::finalizers(object).is_empty()
        && object.i64_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0) == 0
        && (call.scope.row.bucket != "namespaces" || namespace_is_empty(object))
}

fn namespace_is_empty(namespace: &Value) -> bool {
    namespace.at(&["spec", "finalizers"]).and_then(Value::as_array).is_none_or(<[Value]>::is_empty)
}

/// The removal of a key; watchers see `object` with the deletion's revision.
pub(crate) fn removal(key: Key, expect: Expect, object: &Value) -> Operation {
    Operation { key, expect, change: Change::Delete(Some(commit::template(object))) }
}

/// What a delete does to the current state.
enum Step {
    /// The object goes.
    Remove(Value),
    /// It is marked and stays.
    Mark(Value),
    /// It is marked already.
    Nothing,
}

/// Deletes the object that the call names.
pub(crate) async fn delete(call: &Call<'_>, request: &DeleteRequest) -> Result<Outcome, Status> {
    let review = Review::new(call, Action::Delete, call.scope.name.to_owned(), None);
    admission::validate(&review, &Value::Null).await?;
    delete_named(call, call.scope.name, request).await
}

async fn delete_named(call: &Call<'_>, name: &str, request: &DeleteRequest) -> Result<Outcome, Status> {
    let key = call.scope.key(name);
    let options = &request.options;
    for _ in 0..ATTEMPTS_MAX {
        let entry = call.core.store.get(&key).ok_or_else(|| Status::not_found(&call.scope.gvr(), name))?;
        let current = decoded(&entry);
        check_preconditions(call, name, &entry, &current, options)?;
        let step = next_step(call, &current, options);
        if options.dry_run || call.options.dry_run {
            return Ok(Outcome::ok(Answered::Hub(current.as_ref().clone())));
        }
        let expect = Expect::Revision(entry.revision);
        let (object, operations, gone) = match step {
            Step::Nothing => return Ok(Outcome::ok(Answered::Entry(entry))),
            Step::Mark(object) => {
                let operation = commit::put(key.clone(), expect, &object);
                (object, vec![operation], false)
            }
            Step::Remove(object) => {
                let mut claims = Claims::new(call.core);
                if call.scope.row.bucket == "services" {
                    claims.delete(&object);
                }
                let mut operations = vec![removal(key.clone(), expect, &object)];
                operations.extend(claims.into_operations());
                (object, operations, true)
            }
        };
        match commit::commit(call, operations).await {
            Ok(committed) => {
                call.core.changed(&call.scope.row.bucket);
                let uid = meta::uid(&object).to_owned();
                let entry = commit::share(&committed, object);
                return Ok(match entry {
                    Some(entry) if !gone || ANSWERED_WITH_OBJECT.contains(&call.scope.row.bucket.as_str()) => {
                        Outcome::ok(Answered::Entry(entry))
                    }
                    entry => {
                        let mut outcome = Outcome::success(200, &call.scope, name, &uid);
                        outcome.last = entry;
                        outcome
                    }
                });
            }
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(commit::failure(&error)),
        }
    }
    Err(Status::modified(&call.scope.gvr(), name))
}

fn check_preconditions(
    call: &Call<'_>,
    name: &str,
    entry: &Arc<Entry>,
    current: &Value,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let uid = meta::uid(current);
    if !options.uid.is_empty() && options.uid != uid {
        let wanted = &options.uid;
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}");
        return Err(Status::conflict(&call.scope.gvr(), name, &why));
    }
    let revision = entry.revision.to_string();
    if !options.resource_version.is_empty() && options.resource_version != revision {
        let wanted = &options.resource_version;
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {revision}"
        );
        return Err(Status::conflict(&call.scope.gvr(), name, &why));
    }
    Ok(())
}

fn next_step(call: &Call<'_>, current: &Value, options: &DeleteOptions) -> Step {
    let row = &call.scope.row;
    let mut object = current.clone();
    let deleting = metadata::is_deleting(current);
    set_propagation(call, &mut object, options);
    if row.bucket == "namespaces" {
        if !deleting {
            mark(&mut object, 0, call.now);
            object.set(&["status", "phase"], "Terminating".into());
        }
        return if metadata::finalizers(&object).is_empty() && namespace_is_empty(&object) {
            Step::Remove(object)
        } else if &object == current {
            Step::Nothing
        } else {
            Step::Mark(object)
        };
    }
    let requested = options.grace_period_seconds.map(|seconds| seconds.max(0));
    let held = current.i64_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0);
    let seconds = match row.hooks.graceful_delete(current, requested) {
        Grace::Immediate => 0,
        Grace::Seconds(seconds) => seconds,
    };
    // Once it is marked, a delete may only shorten the period.
    let waits = seconds > 0 && !(deleting && held == 0);
    if waits {
        if deleting && (requested.is_none() || seconds >= held) {
            return if &object == current { Step::Nothing } else { Step::Mark(object) };
        }
        let since = if deleting { begun(current, held).unwrap_or(call.now) } else { call.now };
        mark(&mut object, seconds, since);
        return Step::Mark(object);
    }
    if metadata::finalizers(&object).is_empty() {
        metadata::of_mut(&mut object).insert("deletionGracePeriodSeconds", 0_i64);
        if !deleting {
            metadata::of_mut(&mut object).remove("deletionGracePeriodSeconds");
        }
        return Step::Remove(object);
    }
    if !deleting || held > 0 {
        mark(&mut object, 0, call.now);
    }
    if &object == current { Step::Nothing } else { Step::Mark(object) }
}

/// When the deletion was asked for: deletionTimestamp is that moment and the period added up.
fn begun(object: &Value, held: i64) -> Option<Timestamp> {
    meta::deletion_time(object)?.checked_sub(SignedDuration::from_secs(held)).ok()
}

fn mark(object: &mut Value, seconds: i64, since: Timestamp) {
    let at = since.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(since);
    let generation = object.i64_at(&["metadata", "generation"]);
    let metadata = metadata::of_mut(object);
    metadata.insert("deletionTimestamp", time::format_rfc3339(at));
    metadata.insert("deletionGracePeriodSeconds", seconds);
    // Being deleted is a wish like any other: whoever observes generations sees it.
    if let Some(generation) = generation {
        metadata.insert("generation", generation + 1);
    }
}

/// Adds or removes the finalizers that stand for the propagation policy.
fn set_propagation(call: &Call<'_>, object: &mut Value, options: &DeleteOptions) {
    let bucket = call.scope.row.bucket.as_str();
    let wanted = match options.propagation {
        Some(policy) => policy,
        None if meta::has_finalizer(object, meta::finalizers::ORPHAN) => Deletion::Orphan,
        None if meta::has_finalizer(object, meta::finalizers::FOREGROUND) => Deletion::Foreground,
        None if ORPHANING.contains(&bucket) => {
            if bucket == "jobs.batch" {
                call.warn(
                    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to \
                     remove them or set propagationPolicy=Orphan to suppress this warning",
                );
            }
            Deletion::Orphan
        }
        None => Deletion::Background,
    };
    for (name, policy) in
        [(meta::finalizers::ORPHAN, Deletion::Orphan), (meta::finalizers::FOREGROUND, Deletion::Foreground)]
    {
        if wanted == policy {
            meta::add_finalizer(object, name);
        } else {
            meta::remove_finalizer(object, name);
        }
    }
}

/// Deletes every object of a collection that the selection holds; answers with what was selected.
pub(crate) async fn delete_collection(
    call: &Call<'_>,
    selection: &Selection,
    request: &DeleteRequest,
) -> Result<Vec<Arc<Entry>>, Status> {
    let review = Review::new(call, Action::Delete, String::new(), None);
    admission::validate(&review, &Value::Null).await?;
    let listed = read::entries(call.core, &call.scope, selection, None)?;
    for entry in &listed.entries {
        let rest = entry.key.rest();
        let (namespace, name) = rest.rsplit_once('/').unwrap_or(("", rest));
        let scope = crate::core::Scope { namespace, name, ..call.scope.clone() };
        let one = call.about(scope);
        match delete_named(&one, name, request).await {
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        one.take_warnings().into_iter().for_each(|warning| call.warn(warning));
    }
    Ok(listed.entries)
}
