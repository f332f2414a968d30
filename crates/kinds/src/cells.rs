//! Cells that the columns of several kinds share, in the forms of upstream's printers.

use jiff::Timestamp;
use object::selector::labels::Selector;
use object::table::{Column, age};
use object::{Map, Value};

/// The text at `path`; empty where there is none.
pub(crate) fn text(object: &Value, path: &[&str]) -> Value {
    object.str_at(path).unwrap_or_default().into()
}

/// The text at `path`, or another where it is missing or empty.
pub(crate) fn text_or(object: &Value, path: &[&str], other: &str) -> Value {
    object.str_at(path).filter(|text| !text.is_empty()).unwrap_or(other).into()
}

/// The number at `path`; 0 where there is none.
pub(crate) fn number(object: &Value, path: &[&str]) -> Value {
    Value::Int(object.i64_at(path).unwrap_or_default())
}

/// The flag at `path`; false where there is none.
pub(crate) fn flag(object: &Value, path: &[&str]) -> bool {
    object.at(path).and_then(Value::as_bool).unwrap_or_default()
}

/// How many items or members the node at `path` has.
pub(crate) fn count(object: &Value, path: &[&str]) -> i64 {
    match object.at(path) {
        Some(Value::Array(items)) => items.len() as i64,
        Some(Value::Object(map)) => map.len() as i64,
        _ => 0,
    }
}

/// The time since the timestamp at `path`, or another text where there is none.
pub(crate) fn since(object: &Value, path: &[&str], now: Timestamp, other: &str) -> Value {
    match object.str_at(path).filter(|text| !text.is_empty()) {
        Some(timestamp) => age(Some(timestamp), now).into(),
        None => other.into(),
    }
}

/// `a=b,c=d`, or `<none>`.
pub(crate) fn labels(labels: Option<&Map>) -> Value {
    let pairs = labels.into_iter().flat_map(Map::iter);
    let pairs: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    if pairs.is_empty() { "<none>".into() } else { pairs.join(",").into() }
}

/// The map of labels at `path` in that form.
pub(crate) fn labels_at(object: &Value, path: &[&str]) -> Value {
    labels(object.at(path).and_then(Value::as_object))
}

/// The LabelSelector at `path` as text.
pub(crate) fn selector_at(object: &Value, path: &[&str]) -> Value {
    match Selector::from_label_selector(object.at(path).unwrap_or(&Value::Null)) {
        Ok(selector) if selector.is_everything() => "<none>".into(),
        Ok(selector) => selector.to_string().into(),
        Err(_) => "<error>".into(),
    }
}

/// The member `name` of all containers at `path`, joined by commas.
pub(crate) fn containers_at(object: &Value, path: &[&str], name: &str) -> Value {
    let containers = object.at(path).and_then(Value::as_array).unwrap_or_default();
    let texts: Vec<&str> = containers.iter().map(|one| one.str_at(&[name]).unwrap_or_default()).collect();
    texts.join(",").into()
}

/// The wide columns `Containers` and `Images` of a kind with spec.template.
pub(crate) fn template_columns() -> [Column; 2] {
    const CONTAINERS: [&str; 4] = ["spec", "template", "spec", "containers"];
    [
        Column::new("Containers", |object, _| containers_at(object, &CONTAINERS, "name")).wide(),
        Column::new("Images", |object, _| containers_at(object, &CONTAINERS, "image")).wide(),
    ]
}

/// The wide column `Selector` of a kind with a LabelSelector at spec.selector.
pub(crate) fn selector_column() -> Column {
    Column::new("Selector", |object, _| selector_at(object, &["spec", "selector"])).wide()
}

/// Whether the condition `kind` at status.conditions is True.
pub(crate) fn is_condition_true(object: &Value, kind: &str) -> bool {
    let conditions = object.at(&["status", "conditions"]).and_then(Value::as_array).unwrap_or_default();
    let one = conditions.iter().find(|one| one.str_at(&["type"]) == Some(kind));
    one.is_some_and(|one| one.str_at(&["status"]) == Some("True"))
}
