//! Update: the part that the path names is taken over, everything else stays; no change writes nothing.

use super::create::Origin;
use super::prepare::{Body, Source};
use super::services::Claims;
use super::{commit, delete, metadata, prepare};
use crate::admission::{self, Operation as Action, Review};
use crate::core::{Answered, Call, Outcome, decoded};
use kinds::Role;
use object::{Status, Value, apply, meta};
use std::sync::Arc;
use store::{CommitError, Entry, Expect};

/// How often a write that carries no resourceVersion is tried against newer states.
const ATTEMPTS_MAX: u32 = 10;

/// Which part of an object a request may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but status.
    Main,
    /// status, and of metadata what the kind allows.
    Status,
    /// spec.finalizers of a namespace.
    Finalize,
    /// status.conditions of a CertificateSigningRequest.
    Approval,
    /// spec.ephemeralContainers.
    EphemeralContainers,
    /// Containers' resources.
    Resize,
    /// What a binding changes: the candidate is taken as it is.
    Bind,
}

impl Part {
    /// The part that a subresource stands for; None where it is no part of the object.
    pub(crate) fn of(call: &Call<'_>) -> Option<Part> {
        if call.scope.subresource.is_empty() {
            return Some(Part::Main);
        }
        match call.scope.row.subresource(call.scope.subresource)?.role {
            Role::Status => Some(Part::Status),
            Role::Finalize => Some(Part::Finalize),
            Role::Approval => Some(Part::Approval),
            Role::EphemeralContainers => Some(Part::EphemeralContainers),
            Role::Resize => Some(Part::Resize),
            _ => None,
        }
    }
}

/// How an update's new state comes from the current one, in the hub version with defaults.
pub(crate) type Transform<'a> = &'a mut (dyn FnMut(&Value) -> Result<Value, Status> + Send);

/// Replaces an object by a body in the request's version; kinds that allow it are created where they are missing.
pub(crate) async fn update(call: &Call<'_>, body: Body, may_create: bool) -> Result<Outcome, Status> {
    let part = Part::of(call).ok_or_else(Status::method_not_allowed)?;
    let candidate = prepare::incoming(call, body, Source::Object)?;
    if metadata::text(&candidate, "name").is_empty() {
        let name = call.scope.name;
        let why = "name must be provided";
        let message = format!("the name of the object ({name} based on URL) was undeterminable: {why}");
        return Err(Status::bad_request(message));
    }
    super::patch::check_name(call, &candidate)?;
    let creatable = may_create && part == Part::Main && call.scope.row.create_on_update;
    if creatable && call.core.store.get(&call.scope.key(call.scope.name)).is_none() {
        let mut fresh = candidate;
        metadata::of_mut(&mut fresh).remove("resourceVersion");
        return super::create_hub(call, fresh, Origin::Posted).await;
    }
    if !call.scope.row.unconditional_update && meta::resource_version(&candidate).is_empty() {
        let why = "Invalid value: 0: must be specified for an update";
        let causes = vec![metadata::cause("FieldValueInvalid", "metadata.resourceVersion", why)];
        return Err(Status::invalid(&call.scope.gvk(), call.scope.name, causes));
    }
    update_with(call, part, "Update", &mut |_| Ok(candidate.clone())).await
}

/// Reads, transforms and writes back; tried anew on conflict unless the new state names a resourceVersion.
pub(crate) async fn update_with(
    call: &Call<'_>,
    part: Part,
    operation: &str,
    transform: Transform<'_>,
) -> Result<Outcome, Status> {
    let key = call.scope.key(call.scope.name);
    for _ in 0..ATTEMPTS_MAX {
        let entry = call.core.store.get(&key).ok_or_else(|| Status::not_found(&call.scope.gvr(), call.scope.name))?;
        let current = decoded(&entry);
        let candidate = transform(&current)?;
        let conditional = check_preconditions(call, &entry, &current, &candidate)?;
        let mut new = finish(call, part, operation, &current, candidate).await?;
        let mut claims = Claims::new(call.core);
        claims.update(call, &current, &mut new)?;
        if unchanged(&current, &new) && claims.is_empty() {
            return Ok(Outcome::ok(Answered::Entry(entry)));
        }
        if call.options.dry_run {
            metadata::of_mut(&mut new).insert("resourceVersion", entry.revision.to_string());
            return Ok(Outcome::ok(Answered::Hub(new)));
        }
        let expect = Expect::Revision(entry.revision);
        let gone = delete::is_finished(call, &new);
        let mut operations = if gone {
            claims.delete(&new);
            vec![delete::removal(key.clone(), expect, &new)]
        } else {
            vec![commit::put(key.clone(), expect, &new)]
        };
        operations.extend(claims.into_operations());
        match commit::commit(call, operations).await {
            Ok(committed) => {
                call.core.changed(&call.scope.row.bucket);
                return match commit::share(&committed, new) {
                    Some(entry) => Ok(Outcome::ok(Answered::Entry(entry))),
                    None => Err(Status::internal("an update left no entry")),
                };
            }
            Err(CommitError::Conflict { operation: 0, .. }) if conditional => {
                return Err(Status::modified(&call.scope.gvr(), call.scope.name));
            }
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(commit::failure(&error)),
        }
    }
    Err(Status::modified(&call.scope.gvr(), call.scope.name))
}

/// Refuses a stale resourceVersion or another uid; true where the candidate named a resourceVersion of its own.
fn check_preconditions(
    call: &Call<'_>,
    entry: &Arc<Entry>,
    current: &Value,
    candidate: &Value,
) -> Result<bool, Status> {
    let wanted = meta::resource_version(candidate);
    if !wanted.is_empty() && wanted != "0" && wanted != entry.revision.to_string() {
        return Err(Status::modified(&call.scope.gvr(), call.scope.name));
    }
    let (uid, actual) = (meta::uid(candidate), meta::uid(current));
    if !uid.is_empty() && uid != actual {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {actual}");
        return Err(Status::conflict(&call.scope.gvr(), call.scope.name, &why));
    }
    Ok(!wanted.is_empty() && wanted != "0")
}

/// From a candidate to the state that is stored: parts, stamps, admission, validation, ownership.
async fn finish(
    call: &Call<'_>,
    part: Part,
    operation: &str,
    current: &Value,
    candidate: Value,
) -> Result<Value, Status> {
    let row = &call.scope.row;
    let mut new = take_part(call, part, current, candidate);
    metadata::stamp_update(current, &mut new);
    if meta::resource_version(&new).is_empty() {
        // An unconditional write is about the state that it was read from; whether it may be one has been decided.
        metadata::of_mut(&mut new).insert("resourceVersion", meta::resource_version(current));
    }
    let review = Review::new(call, Action::Update, call.scope.name.to_owned(), Some(current));
    admission::mutate(&review, &mut new).await?;
    if part == Part::Main {
        row.hooks.prepare_update(&mut new, current);
        metadata::stamp_generation(row, current, &mut new);
    } else if part == Part::Status {
        row.hooks.prepare_status(&mut new, current);
    } else if part != Part::Bind {
        // A binding is the scheduler's decision, no new wish of the user's: upstream does not count it.
        metadata::stamp_generation(row, current, &mut new);
    }
    for warning in row.hooks.warnings(&new, Some(current)) {
        call.warn(warning);
    }
    let causes = match part {
        Part::Status => row.validate_status(&new, current),
        Part::Main => row.validate_update(&new, current),
        _ => row.validate_part(&new, current),
    };
    if !causes.is_empty() {
        return Err(Status::invalid(&call.scope.gvk(), call.scope.name, causes));
    }
    admission::validate(&review, &new).await?;
    if operation == "Update" {
        track(call, Some(current), &mut new);
    }
    Ok(new)
}

/// Keeps managedFields for every write that is no apply.
pub(crate) fn track(call: &Call<'_>, old: Option<&Value>, new: &mut Value) {
    let row = &call.scope.row;
    // Fields are owned in the stored version: one form per object, and conversion does not touch ownership.
    let Some(hub) = row.version(&row.hub.version).or_else(|| row.versions.first()) else { return };
    apply::track_update(
        hub.schemas(),
        hub.type_id(),
        old,
        new,
        &apply::Writer {
            manager: &call.options.field_manager,
            api_version: &row.hub.api_version(),
            subresource: call.scope.subresource,
            now: call.now,
        },
    );
}

/// The current object with the candidate's part in it.
fn take_part(call: &Call<'_>, part: Part, current: &Value, mut candidate: Value) -> Value {
    match part {
        Part::Main => {
            if call.scope.row.subresource("status").is_some() {
                keep(current, &mut candidate, &["status"]);
            }
            if call.scope.row.bucket == "services" {
                super::carry_over::carry_over(current, &mut candidate);
            }
            if call.scope.row.bucket == "namespaces" {
                keep(current, &mut candidate, &["spec", "finalizers"]);
            }
            candidate
        }
        Part::Status => {
            let mut new = current.clone();
            keep(&candidate, &mut new, &["status"]);
            let metadata = candidate.remove(&["metadata"]).unwrap_or_default();
            new.set(&["metadata"], metadata);
            // Owners and, for workloads, labels belong to the object itself.
            keep(current, &mut new, &["metadata", "ownerReferences"]);
            if call.scope.row.group == "apps" || call.scope.row.bucket == "replicationcontrollers" {
                keep(current, &mut new, &["metadata", "labels"]);
            }
            new
        }
        Part::Bind => candidate,
        Part::Finalize => with(current, &candidate, &["spec", "finalizers"]),
        Part::Approval => with(current, &candidate, &["status", "conditions"]),
        Part::EphemeralContainers => with(current, &candidate, &["spec", "ephemeralContainers"]),
        Part::Resize => {
            let mut new = current.clone();
            for list in ["containers", "initContainers"] {
                let wanted = candidate.at(&["spec", list]).and_then(Value::as_array).unwrap_or_default();
                let Some(containers) = new.at_mut(&["spec", list]).and_then(Value::as_array_mut) else { continue };
                for container in containers {
                    let name = container.str_at(&["name"]).unwrap_or_default().to_owned();
                    let Some(from) = wanted.iter().find(|one| one.str_at(&["name"]) == Some(&name)) else { continue };
                    keep(from, container, &["resources"]);
                    keep(from, container, &["resizePolicy"]);
                }
            }
            new
        }
    }
}

fn with(current: &Value, candidate: &Value, path: &[&str]) -> Value {
    let mut new = current.clone();
    keep(candidate, &mut new, path);
    // managedFields and a stale resourceVersion are judged by the candidate's metadata.
    keep(candidate, &mut new, &["metadata", "managedFields"]);
    new
}

/// Makes `to` have at `path` what `from` has there, nothing included.
fn keep(from: &Value, to: &mut Value, path: &[&str]) {
    match from.at(path) {
        Some(value) => to.set(path, value.clone()),
        None => {
            to.remove(path);
        }
    }
}

/// Equal but for resourceVersion and the times in managedFields.
fn unchanged(old: &Value, new: &Value) -> bool {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return false };
    let outside = |member: &(&str, &Value)| member.0 != "metadata";
    if !old.iter().filter(outside).eq(new.iter().filter(outside)) {
        return false;
    }
    let members = |map: &object::Map| -> Option<object::Map> {
        let mut metadata = map.get("metadata")?.as_object()?.clone();
        metadata.remove("resourceVersion");
        if let Some(entries) = metadata.get_mut("managedFields").and_then(Value::as_array_mut) {
            entries.iter_mut().filter_map(Value::as_object_mut).for_each(|entry| {
                entry.remove("time");
            });
        }
        Some(metadata)
    };
    members(old) == members(new)
}
