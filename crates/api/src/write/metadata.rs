//! metadata: what the server stamps, and what a client may not change.

use crate::core::{Row, Scope};
use crate::random;
use jiff::Timestamp;
use object::{Cause, GroupVersionKind, Map, Status, Value, time};

/// Members that only the server writes.
const SERVER_OWNED: [&str; 7] =
    ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"];

/// A cause as upstream's field errors have it.
pub(crate) fn cause(reason: &str, field: &str, message: impl Into<String>) -> Cause {
    Cause { reason: reason.into(), message: message.into(), field: field.to_owned() }
}

/// 422 about a request's options, such as `DeleteOptions`.
pub(crate) fn invalid_options(kind: &str, causes: Vec<Cause>) -> Status {
    let kind = GroupVersionKind { group: "meta.k8s.io".into(), version: "v1".into(), kind: kind.into() };
    Status::invalid(&kind, "", causes)
}

/// A cause that names the values which would do.
pub(crate) fn unsupported(field: &str, value: &str, supported: &str) -> Cause {
    let message = format!("Unsupported value: {value}: supported values: {supported}");
    cause("FieldValueNotSupported", field, message)
}

/// What is wrong with the values of a dryRun option.
pub(crate) fn dry_run_cause(given: &[&str]) -> Option<Cause> {
    if given.iter().all(|one| *one == "All") {
        return None;
    }
    let quoted: Vec<String> = given.iter().map(|one| format!("{one:?}")).collect();
    Some(unsupported("dryRun", &format!("[{}]", quoted.join(",")), "\"All\""))
}

/// `metadata` of an object; made where it is missing.
#[expect(clippy::expect_used, reason = "the lines above have just made it a map")]
pub(crate) fn of_mut(object: &mut Value) -> &mut Map {
    if object.at(&["metadata"]).and_then(Value::as_object).is_none() {
        object.set(&["metadata"], Value::Object(Map::new()));
    }
    object.at_mut(&["metadata"]).and_then(Value::as_object_mut).expect("metadata is a map")
}

/// metadata's member as text; empty where it is missing.
pub(crate) fn text<'a>(object: &'a Value, member: &str) -> &'a str {
    object.str_at(&["metadata", member]).unwrap_or_default()
}

/// metadata.finalizers
pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    let list = object.at(&["metadata", "finalizers"]).and_then(Value::as_array).unwrap_or_default();
    list.iter().filter_map(Value::as_str).collect()
}

/// Whether the object is being deleted.
pub(crate) fn is_deleting(object: &Value) -> bool {
    object.str_at(&["metadata", "deletionTimestamp"]).is_some()
}

/// Makes the metadata of a new object the server's own.
pub(crate) fn stamp_create(scope: &Scope<'_>, object: &mut Value, now: Timestamp) -> Result<(), Status> {
    let namespaced = scope.row.namespaced;
    let metadata = of_mut(object);
    if metadata.get("resourceVersion").and_then(Value::as_str).is_some_and(|version| !version.is_empty()) {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    for member in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "managedFields"] {
        metadata.remove(member);
    }
    let given = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if namespaced {
        if !given.is_empty() && given != scope.namespace {
            let message = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(Status::bad_request(message));
        }
        metadata.insert("namespace", scope.namespace);
    } else {
        metadata.remove("namespace");
    }
    let generate = metadata.get("generateName").and_then(Value::as_str).unwrap_or_default().to_owned();
    let named = metadata.get("name").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
    if !named && !generate.is_empty() {
        metadata.insert("name", random::name(&generate));
    }
    metadata.insert("uid", random::uid());
    metadata.insert("creationTimestamp", time::format_rfc3339(now));
    if !scope.row.generation_of.is_empty() {
        metadata.insert("generation", 1_i64);
    } else {
        metadata.remove("generation");
    }
    Ok(())
}

/// Keeps what an update may not change.
pub(crate) fn stamp_update(old: &Value, new: &mut Value) {
    let kept: Vec<(&str, Option<Value>)> =
        SERVER_OWNED.iter().map(|member| (*member, old.at(&["metadata", member]).cloned())).collect();
    let metadata = of_mut(new);
    metadata.remove("selfLink");
    for (member, value) in kept {
        match value {
            Some(value) => metadata.insert(member, value),
            None => metadata.remove(member),
        };
    }
}

/// Counts the generation up where a member that the kind counts has changed.
pub(crate) fn stamp_generation(row: &Row, old: &Value, new: &mut Value) {
    if row.generation_of.iter().any(|member| old.get(member) != new.get(member)) {
        let generation = old.i64_at(&["metadata", "generation"]).unwrap_or(0) + 1;
        of_mut(new).insert("generation", generation);
    }
}
