//! The data of ConfigMaps and Secrets: keys, sizes, immutability.

use crate::validation::{each, forbidden, invalid, too_long};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use object::{Cause, Map, Value, names};

/// The most bytes that all values of one object may have together.
const BYTES_MAX: usize = 1024 * 1024;

/// How many bytes a value has: base64 holds three in four characters.
fn size(member: &str, value: &str) -> usize {
    match member {
        "binaryData" => decoded_size(value),
        _ => value.len(),
    }
}

fn decoded_size(base64: &str) -> usize {
    base64.len() / 4 * 3 - base64.bytes().rev().take(2).filter(|byte| *byte == b'=').count().min(base64.len() / 4 * 3)
}

/// What is wrong with the named maps of an object.
pub(super) fn validate(object: &Value, members: &[&str]) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut bytes = 0;
    let secret = object.get("type").is_some();
    for (at, member) in members.iter().enumerate() {
        for (key, value) in object.get(member).and_then(Value::as_object).into_iter().flat_map(Map::iter) {
            let field = format!("{member}[{key}]");
            causes.extend(each(&field, key, names::config_key(key)));
            let value = value.as_str().unwrap_or_default();
            bytes += if secret { decoded_size(value) } else { size(member, value) };
            let twice = members[..at].iter().any(|other| object.at(&[other, key]).is_some());
            if twice {
                causes.push(invalid(&field, &key.into(), "duplicate of key present in data"));
            }
        }
    }
    if bytes > BYTES_MAX {
        causes.push(too_long(if secret { "data" } else { "[]" }, BYTES_MAX));
    }
    causes
}

/// What is wrong with the change of an object that may have been marked immutable.
pub(super) fn validate_immutable(new: &Value, old: &Value, members: &[&str]) -> Vec<Cause> {
    let mut causes = Vec::new();
    if old.get("immutable").and_then(Value::as_bool) != Some(true) {
        return causes;
    }
    let detail = "field is immutable when `immutable` is set";
    if new.get("immutable").and_then(Value::as_bool) != Some(true) {
        causes.push(forbidden("immutable", detail));
    }
    let map = |object: &Value, name: &str| object.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
    for member in members {
        if map(new, member) != map(old, member) {
            causes.push(forbidden(member, detail));
        }
    }
    causes
}

/// Moves stringData, which is only written, into data as base64.
pub(super) fn merge_string_data(secret: &mut Value) {
    let Some(Value::Object(texts)) = secret.remove(&["stringData"]) else { return };
    for (key, text) in texts {
        let encoded = STANDARD.encode(text.as_str().unwrap_or_default());
        secret.set(&["data", &key], encoded.into());
    }
}
