//! Small edits of value trees that defaulting is made of.

use object::{Map, Value};

/// Sets the node at `path` where it is missing, null or an empty text.
pub(crate) fn default_to(object: &mut Value, path: &[&str], value: impl Into<Value>) {
    let missing = match object.at(path) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    };
    if missing {
        object.set(path, value.into());
    }
}

/// Sets the number at `path` where it is missing or zero.
pub(crate) fn default_number(object: &mut Value, path: &[&str], value: i64) {
    if object.i64_at(path).unwrap_or_default() == 0 && !matches!(object.at(path), Some(Value::String(_))) {
        object.set(path, Value::Int(value));
    }
}

/// An empty map.
pub(crate) fn empty() -> Value {
    Value::Object(Map::new())
}

/// The items of the list at `path`, for changing; none where there is no list.
pub(crate) fn items_mut<'a>(object: &'a mut Value, path: &[&str]) -> &'a mut [Value] {
    object.at_mut(path).and_then(Value::as_array_mut).map(Vec::as_mut_slice).unwrap_or_default()
}

/// The items of the list at `path`; none where there is no list.
pub(crate) fn items<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    object.at(path).and_then(Value::as_array).unwrap_or_default()
}
