//! JSON merge patch (RFC 7386).

use crate::{Map, Value};

/// Applies a merge patch: maps are merged, null removes, everything else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !matches!(target, Value::Object(_)) {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, value) in patch.iter() {
        if value.is_null() {
            map.remove(key);
        } else if let Value::Object(_) = value {
            merge(map.entry(key), value);
        } else {
            map.insert(key, value.clone());
        }
    }
}
