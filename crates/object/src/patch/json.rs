//! JSON patch (RFC 6902).

use super::PatchError;
use super::pointer;
use crate::Value;

/// The most operations of one patch, as upstream has it.
pub const OPERATIONS_MAX: usize = 10_000;
/// The most that all copy operations of one patch may copy, in approximate bytes, as upstream has it.
const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Applies a JSON patch; `target` is unchanged if it is refused.
pub fn json(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Some(operations) = patch.as_array() else {
        return Err(PatchError::Malformed("a JSON patch must be a list of operations".to_owned()));
    };
    if operations.len() > OPERATIONS_MAX {
        let count = operations.len();
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {count}"
        )));
    }
    let mut result = target.clone();
    let mut copied_bytes = 0;
    for operation in operations {
        apply(&mut result, operation, &mut copied_bytes)?;
    }
    *target = result;
    Ok(())
}

fn apply(target: &mut Value, operation: &Value, copied_bytes: &mut usize) -> Result<(), PatchError> {
    let name = operation.str_at(&["op"]).unwrap_or_default();
    let path_text = operation
        .str_at(&["path"])
        .ok_or_else(|| PatchError::Unprocessable(format!("{name} operation does not apply: missing value: path")))?;
    let path = parse(path_text)?;
    let from = || {
        let text = operation.str_at(&["from"]).unwrap_or_default();
        parse(text).map(|path| (text.to_owned(), path))
    };
    let value = || {
        let missing = || PatchError::Unprocessable(format!("{name} operation does not apply: missing value: value"));
        operation.get("value").cloned().ok_or_else(missing)
    };
    match name {
        "add" => add(target, &path, path_text, value()?, name),
        "remove" => remove(target, &path, path_text, name).map(drop),
        "replace" => {
            let value = value()?;
            match pointer::get_mut(target, &path) {
                Some(node) => {
                    *node = value;
                    Ok(())
                }
                None => Err(missing("replace", "doc is missing key", path_text)),
            }
        }
        "move" => {
            let (from_text, from) = from()?;
            if path.starts_with(&from) && path.len() > from.len() {
                let why = format!("move operation does not apply: {from_text} contains {path_text}");
                return Err(PatchError::Unprocessable(why));
            }
            let value = remove(target, &from, &from_text, name)?;
            add(target, &path, path_text, value, name)
        }
        "copy" => {
            let (from_text, from) = from()?;
            let value = pointer::get(target, &from)
                .cloned()
                .ok_or_else(|| missing("copy", "doc is missing from path", &from_text))?;
            *copied_bytes += size(&value);
            if *copied_bytes > COPIED_BYTES_MAX {
                return Err(PatchError::TooLarge(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied_bytes}, exceeding the limit {COPIED_BYTES_MAX}"
                )));
            }
            add(target, &path, path_text, value, name)
        }
        "test" => {
            let expected = operation.get("value").unwrap_or(&Value::Null);
            if pointer::get(target, &path).unwrap_or(&Value::Null) == expected {
                Ok(())
            } else {
                Err(PatchError::Unprocessable(format!("testing value {path_text} failed: test failed")))
            }
        }
        other => Err(PatchError::Unprocessable(format!("Unexpected kind: {other}"))),
    }
}

fn parse(text: &str) -> Result<Vec<String>, PatchError> {
    pointer::segments(text).ok_or_else(|| PatchError::Unprocessable(format!("{text:?} is not a JSON pointer")))
}

fn missing(operation: &str, what: &str, path: &str) -> PatchError {
    PatchError::Unprocessable(format!("{operation} operation does not apply: {what}: {path}: missing value"))
}

fn add(target: &mut Value, path: &[String], text: &str, value: Value, operation: &str) -> Result<(), PatchError> {
    let Some((last, way)) = path.split_last() else {
        *target = value;
        return Ok(());
    };
    let gone = || missing(operation, "doc is missing path", &format!("{text:?}"));
    match pointer::get_mut(target, way).ok_or_else(gone)? {
        Value::Object(map) => {
            map.insert(last.as_str(), value);
            Ok(())
        }
        Value::Array(items) => {
            let at = if last == "-" {
                items.len()
            } else {
                // One past the end is a place to add to.
                pointer::index(last, items.len() + 1).ok_or_else(|| {
                    PatchError::Unprocessable(format!(
                        "{operation} operation does not apply: error in {operation} for path: '{text}': Unable to access invalid index: {last}: invalid index referenced"
                    ))
                })?
            };
            items.insert(at, value);
            Ok(())
        }
        _ => Err(gone()),
    }
}

fn remove(target: &mut Value, path: &[String], text: &str, operation: &str) -> Result<Value, PatchError> {
    let Some((last, way)) = path.split_last() else {
        return Ok(std::mem::take(target));
    };
    let removed = match pointer::get_mut(target, way) {
        Some(Value::Object(map)) => map.remove(last),
        Some(Value::Array(items)) => pointer::index(last, items.len()).map(|at| items.remove(at)),
        _ => None,
    };
    removed.ok_or_else(|| missing(operation, "doc is missing path", &format!("{text:?}")))
}

/// About how many bytes a value has in JSON.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 4,
        Value::Int(_) | Value::Float(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| size(item) + 1).sum::<usize>(),
        Value::Object(map) => 2 + map.iter().map(|(key, item)| key.len() + 4 + size(item)).sum::<usize>(),
    }
}
