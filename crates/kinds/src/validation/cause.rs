//! Causes as upstream words them: reason, message without the field's name, field.

use object::{Cause, Value, json};

fn cause(reason: &str, field: &str, message: String) -> Cause {
    Cause { reason: reason.into(), message, field: field.to_owned() }
}

fn shown(value: &Value) -> String {
    String::from_utf8_lossy(&json::encode(value)).into_owned()
}

fn with_detail(message: String, detail: &str) -> String {
    if detail.is_empty() { message } else { format!("{message}: {detail}") }
}

/// A value that may not be so.
#[must_use]
pub fn invalid(field: &str, value: &Value, detail: &str) -> Cause {
    cause("FieldValueInvalid", field, with_detail(format!("Invalid value: {}", shown(value)), detail))
}

/// A text that may not be so.
#[must_use]
pub fn invalid_text(field: &str, text: &str, detail: &str) -> Cause {
    cause("FieldValueInvalid", field, with_detail(format!("Invalid value: {text:?}"), detail))
}

/// A value that is missing.
#[must_use]
pub fn required(field: &str, detail: &str) -> Cause {
    cause("FieldValueRequired", field, with_detail("Required value".to_owned(), detail))
}

/// A value that is none of those known.
#[must_use]
pub fn not_supported(field: &str, value: &Value, supported: &[&str]) -> Cause {
    let mut quoted: Vec<String> = supported.iter().map(|one| format!("{one:?}")).collect();
    quoted.sort();
    let list = format!("supported values: {}", quoted.join(", "));
    cause("FieldValueNotSupported", field, format!("Unsupported value: {}: {list}", shown(value)))
}

/// A value that comes twice.
#[must_use]
pub fn duplicate(field: &str, value: &Value) -> Cause {
    cause("FieldValueDuplicate", field, format!("Duplicate value: {}", shown(value)))
}

/// A value that refers to something that is not there.
#[must_use]
pub fn not_found(field: &str, value: &Value) -> Cause {
    cause("FieldValueNotFound", field, format!("Not found: {}", shown(value)))
}

/// What may not be done here.
#[must_use]
pub fn forbidden(field: &str, detail: &str) -> Cause {
    cause("FieldValueForbidden", field, with_detail("Forbidden".to_owned(), detail))
}

/// A value with too many bytes.
#[must_use]
pub fn too_long(field: &str, bytes_max: usize) -> Cause {
    cause("FieldValueTooLong", field, format!("Too long: may not be more than {bytes_max} bytes"))
}

/// The texts' errors as causes of one field.
pub(crate) fn each(field: &str, text: &str, errors: Vec<String>) -> impl Iterator<Item = Cause> {
    errors.into_iter().map(move |error| invalid_text(field, text, &error))
}

/// Whether the text at `path` is there and not empty.
pub(crate) fn has_text(object: &Value, path: &[&str]) -> bool {
    object.str_at(path).is_some_and(|text| !text.is_empty())
}

/// Complains where the text at `path` is there and none of `supported`.
pub(crate) fn one_of(causes: &mut Vec<Cause>, object: &Value, path: &[&str], field: &str, supported: &[&str]) {
    if let Some(value) = object.at(path)
        && !value.as_str().is_some_and(|text| supported.contains(&text))
    {
        causes.push(not_supported(field, value, supported));
    }
}

/// Complains where the number at `path` is there and outside of a range.
pub(crate) fn in_range(causes: &mut Vec<Cause>, object: &Value, path: &[&str], field: &str, least: i64, most: i64) {
    if let Some(number) = object.i64_at(path)
        && (number < least || number > most)
    {
        let detail = if most == i64::MAX {
            format!("must be greater than or equal to {least}")
        } else {
            format!("must be between {least} and {most}, inclusive")
        };
        causes.push(invalid(field, &Value::Int(number), &detail));
    }
}
