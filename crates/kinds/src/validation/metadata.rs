//! The rules for metadata that all kinds share.

use super::{each, forbidden, invalid, invalid_text, required, too_long};
use crate::row::{NameRule, Resource};
use object::{Cause, Map, Value, names};

/// The most bytes that all annotations' keys and values may have together.
pub const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// What keeps `name` from being a name by `rule`; `prefix` for a generateName.
fn name_errors(rule: NameRule, name: &str, prefix: bool) -> Vec<String> {
    // What the server appends begins with a letter or digit, so a prefix may end in a dash.
    let whole = match name.strip_suffix('-') {
        Some(stem) if prefix && !stem.is_empty() => format!("{stem}a"),
        _ => name.to_owned(),
    };
    match rule {
        NameRule::Subdomain => names::dns1123_subdomain(&whole),
        NameRule::Label => names::dns1123_label(&whole),
        NameRule::Label1035 => names::dns1035_label(&whole),
        NameRule::PathSegment if prefix => Vec::new(),
        NameRule::PathSegment => names::path_segment(name),
        NameRule::IpAddress if prefix => Vec::new(),
        NameRule::IpAddress => match name.parse::<std::net::IpAddr>() {
            Ok(address) if address.to_string() == name => Vec::new(),
            Ok(_) => vec!["must be in canonical form".to_owned()],
            Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
        },
    }
}

/// What is wrong with a new object's metadata.
#[must_use]
pub fn validate_metadata(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let metadata = |name: &str| object.str_at(&["metadata", name]).unwrap_or_default();
    let generate_name = metadata("generateName");
    if !generate_name.is_empty() {
        let errors = name_errors(resource.name_rule, generate_name, true);
        causes.extend(each("metadata.generateName", generate_name, errors));
    }
    let name = metadata("name");
    if name.is_empty() {
        causes.push(required("metadata.name", "name or generateName is required"));
    } else {
        causes.extend(each("metadata.name", name, name_errors(resource.name_rule, name, false)));
    }
    let namespace = metadata("namespace");
    if resource.namespaced {
        if namespace.is_empty() {
            causes.push(required("metadata.namespace", ""));
        } else {
            causes.extend(each("metadata.namespace", namespace, names::dns1123_label(namespace)));
        }
    } else if !namespace.is_empty() {
        causes.push(forbidden("metadata.namespace", "not allowed on this type"));
    }
    common(object, &mut causes);
    causes
}

fn common(object: &Value, causes: &mut Vec<Cause>) {
    let map = |name: &str| object.at(&["metadata", name]).and_then(Value::as_object);
    if let Some(labels) = map("labels") {
        validate_labels(labels, "metadata.labels", causes);
    }
    if let Some(annotations) = map("annotations") {
        let mut bytes = 0;
        for (key, value) in annotations.iter() {
            let lower = key.to_ascii_lowercase();
            causes.extend(each("metadata.annotations", key, names::qualified_name(&lower)));
            bytes += key.len() + value.as_str().map_or(0, str::len);
        }
        if bytes > ANNOTATIONS_BYTES_MAX {
            causes.push(too_long("metadata.annotations", ANNOTATIONS_BYTES_MAX));
        }
    }
    let mut controller: Option<String> = None;
    for (at, owner) in list(object, "ownerReferences").iter().enumerate() {
        let field = |name: &str| format!("metadata.ownerReferences[{at}].{name}");
        let text = |name: &str| owner.str_at(&[name]).unwrap_or_default();
        if text("apiVersion").rsplit('/').next().is_none_or(str::is_empty) {
            causes.push(invalid_text(&field("apiVersion"), text("apiVersion"), "version must not be empty"))
        }
        for name in ["kind", "name", "uid"] {
            if text(name).is_empty() {
                causes.push(invalid_text(&field(name), "", "must not be empty"));
            }
        }
        if text("kind") == "Event" {
            let detail = "is disallowed from being an owner";
            causes.push(invalid_text(&field("kind"), "Event", detail));
        }
        if owner.at(&["controller"]).and_then(Value::as_bool) == Some(true) {
            if let Some(first) = &controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {}",
                    text("name")
                );
                causes.push(invalid(
                    "metadata.ownerReferences",
                    &Value::Array(list(object, "ownerReferences").to_vec()),
                    &detail,
                ));
            }
            controller = Some(text("name").to_owned());
        }
    }
    let finalizers = list(object, "finalizers");
    for finalizer in finalizers {
        let text = finalizer.as_str().unwrap_or_default();
        causes.extend(each("metadata.finalizers", text, names::qualified_name(text)));
        let known = ["foregroundDeletion", "orphan", "kubernetes"];
        if !text.contains('/') && !known.contains(&text) && names::qualified_name(text).is_empty() {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            causes.push(invalid_text("metadata.finalizers", text, detail));
        }
    }
    let has = |name: &str| finalizers.iter().any(|one| one.as_str() == Some(name));
    if has("orphan") && has("foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        causes.push(invalid("metadata.finalizers", &Value::Array(finalizers.to_vec()), detail));
    }
}

fn list<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    object.at(&["metadata", name]).and_then(Value::as_array).unwrap_or_default()
}

/// What is wrong with labels.
pub(crate) fn validate_labels(labels: &Map, field: &str, causes: &mut Vec<Cause>) {
    for (key, value) in labels.iter() {
        causes.extend(each(field, key, names::qualified_name(key)));
        let value = value.as_str().unwrap_or_default();
        causes.extend(each(field, value, names::label_value(value)));
    }
}

/// What is wrong with an update's metadata.
#[must_use]
pub fn validate_metadata_update(resource: &Resource, new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for name in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        super::immutable(&mut causes, new, old, &["metadata", name]);
    }
    let version = new.str_at(&["metadata", "resourceVersion"]).unwrap_or_default();
    if version.is_empty() && !resource.unconditional_update {
        causes.push(invalid_text("metadata.resourceVersion", "", "must be specified for an update"));
    }
    if old.at(&["metadata", "deletionTimestamp"]).is_some_and(|time| !time.is_null()) {
        let added: Vec<&str> = list(new, "finalizers")
            .iter()
            .filter(|one| !list(old, "finalizers").contains(one))
            .filter_map(Value::as_str)
            .collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(", ")
            );
            causes.push(forbidden("metadata.finalizers", &detail));
        }
    }
    common(new, &mut causes);
    causes
}
