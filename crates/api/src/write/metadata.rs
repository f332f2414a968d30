//! metadata: what the server stamps, what a client may not change, and the rules that hold for every kind.

use crate::core::{Row, Scope};
use crate::random;
use jiff::Timestamp;
use kinds::NameRule;
use object::{Cause, GroupVersionKind, Map, Status, Value, time};

/// Total size that annotations may have.
const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;

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

/// The rules that hold for every object's metadata. Names are checked by the kind where it has rules of its own.
pub(crate) fn validate(row: &Row, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let name = text(object, "name");
    if name.is_empty() {
        causes.push(cause("FieldValueRequired", "metadata.name", "Required value: name or generateName is required"));
    } else if old.is_none()
        && let Some(why) = name_fault(row.name_rule, name)
    {
        causes.push(cause("FieldValueInvalid", "metadata.name", format!("Invalid value: \"{name}\": {why}")));
    }
    let entries = |member: &str| object.at(&["metadata", member]).and_then(Value::as_object);
    if let Some(labels) = entries("labels") {
        for (key, value) in labels.iter() {
            if let Some(why) = qualified_name_fault(key) {
                let message = format!("Invalid value: \"{key}\": {why}");
                causes.push(cause("FieldValueInvalid", "metadata.labels", message));
            }
            let value = value.as_str().unwrap_or_default();
            if let Some(why) = label_value_fault(value) {
                let message = format!("Invalid value: \"{value}\": {why}");
                causes.push(cause("FieldValueInvalid", "metadata.labels", message));
            }
        }
    }
    if let Some(annotations) = entries("annotations") {
        let mut total = 0;
        for (key, value) in annotations.iter() {
            total += key.len() + value.as_str().map_or(0, str::len);
            if let Some(why) = qualified_name_fault(&key.to_ascii_lowercase()) {
                let message = format!("Invalid value: \"{key}\": {why}");
                causes.push(cause("FieldValueInvalid", "metadata.annotations", message));
            }
        }
        if total > ANNOTATIONS_MAX_BYTES {
            let message = format!("Too long: may not be more than {ANNOTATIONS_MAX_BYTES} bytes");
            causes.push(cause("FieldValueTooLong", "metadata.annotations", message));
        }
    }
    let owners = object.at(&["metadata", "ownerReferences"]).and_then(Value::as_array).unwrap_or_default();
    let controllers = owners.iter().filter(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true));
    if controllers.count() > 1 {
        let message = "Invalid value: Only one reference can have Controller set to true";
        causes.push(cause("FieldValueInvalid", "metadata.ownerReferences", message));
    }
    for (at, owner) in owners.iter().enumerate() {
        for member in ["apiVersion", "kind", "name", "uid"] {
            if owner.str_at(&[member]).unwrap_or_default().is_empty() {
                let field = format!("metadata.ownerReferences[{at}].{member}");
                causes.push(cause("FieldValueRequired", &field, "Required value: must not be empty"));
            }
        }
    }
    if let Some(old) = old
        && is_deleting(old)
    {
        let before = finalizers(old);
        let added: Vec<&str> = finalizers(object).into_iter().filter(|one| !before.contains(one)).collect();
        if !added.is_empty() {
            let message = format!(
                "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{{\"{}\"}}",
                added.join("\", \"")
            );
            causes.push(cause("FieldValueForbidden", "metadata.finalizers", message));
        }
    }
    causes
}

const LABEL_1123_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and \
    must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035_RULE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
    alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
    validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
    '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

fn is_dns_label(text: &str) -> bool {
    is_name_part(text) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// What is wrong with a name by the kind's rule.
fn name_fault(rule: NameRule, name: &str) -> Option<&'static str> {
    match rule {
        NameRule::Subdomain if name.len() > 253 => Some("must be no more than 253 bytes"),
        NameRule::Subdomain if !name.split('.').all(is_dns_label) => Some(SUBDOMAIN_RULE),
        NameRule::Label | NameRule::Label1035 if name.len() > 63 => Some("must be no more than 63 bytes"),
        NameRule::Label if !is_dns_label(name) => Some(LABEL_1123_RULE),
        NameRule::Label1035 if !is_dns_label(name) || !name.starts_with(|c: char| c.is_ascii_lowercase()) => {
            Some(LABEL_1035_RULE)
        }
        NameRule::PathSegment if name == "." || name == ".." => Some("may not be '.' or '..'"),
        NameRule::PathSegment if name.contains('/') => Some("may not contain '/'"),
        NameRule::PathSegment if name.contains('%') => Some("may not contain '%'"),
        NameRule::IpAddress if name.parse::<std::net::IpAddr>().is_err() => {
            Some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
        }
        _ => None,
    }
}

const NAME_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
    an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
    and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
    validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const PREFIX_RULE: &str = "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
    '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

fn is_name_part(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

fn qualified_name_fault(key: &str) -> Option<&'static str> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let subdomain = |text: &str| text.len() <= 253 && text.split('.').all(is_dns_label);
    if prefix.is_some_and(|prefix| !subdomain(prefix)) {
        Some(PREFIX_RULE)
    } else if name.is_empty() {
        Some("name part must be non-empty")
    } else if name.len() > 63 {
        Some("name part must be no more than 63 bytes")
    } else if !is_name_part(name) {
        Some(NAME_RULE)
    } else {
        None
    }
}

fn label_value_fault(value: &str) -> Option<&'static str> {
    if value.len() > 63 {
        Some("must be no more than 63 bytes")
    } else if !value.is_empty() && !is_name_part(value) {
        Some(LABEL_RULE)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_label_keys_and_values() {
        for (key, good) in [("app", true), ("a.b/c", true), ("A.b/c", false), ("a/", false), ("-a", false), ("", false)]
        {
            assert_eq!(qualified_name_fault(key).is_none(), good, "{key}");
        }
        for (value, good) in [("", true), ("a_b", true), ("a b", false), ("-", false)] {
            assert_eq!(label_value_fault(value).is_none(), good, "{value}");
        }
    }
}
