//! Whether an applied configuration fits its schema: known members, the right types, keys that are there and unique.
//! The faults are worded as upstream's typed merge words them, Go's way of printing values included.

use super::error::Error;
use super::paths::{Form, Shape};
use super::set::shown;
use crate::schema::{Schemas, Type, TypeId};
use crate::{Map, Str, Value, json};
use std::collections::HashSet;

/// How many faults are reported.
const FAULTS_MAX: usize = 100;

/// Refuses a configuration that does not fit, with every fault and where it is.
///
/// # Errors
/// [`Error::Unfit`].
pub fn fit(schemas: &Schemas, type_id: TypeId, configuration: &Value) -> Result<(), Error> {
    let kind = Type::Struct(type_id);
    let mut walk = Walk { path: Vec::new(), faults: Vec::new() };
    walk.value(Shape::of(schemas, &kind), configuration);
    match walk.faults.as_slice() {
        [] => Ok(()),
        [one] => Err(Error::Unfit(one.clone())),
        many => Err(Error::Unfit(format!("errors:\n  {}", many.join("\n  ")))),
    }
}

struct Walk {
    /// Elements as errors write them: `.spec`, `[name="a"]`.
    path: Vec<String>,
    faults: Vec<String>,
}

impl Walk {
    fn fault(&mut self, what: &str) {
        if self.faults.len() < FAULTS_MAX {
            let path = self.path.concat();
            self.faults.push(if path.is_empty() { what.to_owned() } else { format!("{path}: {what}") });
        }
    }

    fn below(&mut self, element: String, shape: Shape<'_>, value: &Value) {
        self.path.push(element);
        self.value(shape, value);
        self.path.pop();
    }

    fn value(&mut self, shape: Shape<'_>, value: &Value) {
        let Some(kind) = shape.kind.filter(|_| !value.is_null()) else { return };
        match (kind, value) {
            (Type::Any, _)
            | (Type::Bool, Value::Bool(_))
            | (Type::String | Type::Bytes, Value::String(_))
            | (Type::Int32 | Type::Int64 | Type::Float, Value::Int(_) | Value::Float(_)) => {}
            (Type::Struct(_) | Type::Map(_), Value::Object(map)) => self.members(shape, map),
            (Type::List(_), Value::Array(items)) => self.items(shape, value, items),
            (Type::Struct(_) | Type::Map(_), _) => self.fault(&format!("expected map, got &{{{}}}", printed(value))),
            (Type::List(_), _) => self.fault(&format!("expected list, got &{{{}}}", printed(value))),
            (Type::Bool, _) => self.fault(&format!("expected boolean, got &{{{}}}", printed(value))),
            (Type::String | Type::Bytes, _) => {
                self.fault(&format!("expected string, got &value.valueUnstructured{{Value:{}}}", literal(value)));
            }
            (Type::Int32 | Type::Int64 | Type::Float, _) => {
                self.fault(&format!("expected numeric (int or float), got {}", go_type(value)));
            }
            (_, Value::Object(_) | Value::Array(_)) => {
                self.fault(&format!("expected any scalar, got &{{{}}}", printed(value)));
            }
            _ => {}
        }
    }

    fn members(&mut self, shape: Shape<'_>, map: &Map) {
        let keeps = match shape.kind {
            Some(Type::Struct(id)) => shape.schemas.get(*id).preserve_unknown,
            _ => true,
        };
        for (name, value) in map.iter() {
            let (member, named) = shape.member(name);
            if named || keeps {
                self.below(format!(".{name}"), member, value);
            } else {
                self.path.push(format!(".{name}"));
                self.fault("field not declared in schema");
                self.path.pop();
            }
        }
    }

    fn items(&mut self, shape: Shape<'_>, list: &Value, items: &[Value]) {
        let Form::Items(keys) = shape.form(list) else {
            for (at, item) in items.iter().enumerate() {
                self.below(format!("[{at}]"), shape.item(), item);
            }
            return;
        };
        let mut seen = HashSet::new();
        for (at, item) in items.iter().enumerate() {
            if let Some(why) = key_fault(shape, keys, item) {
                self.fault(&format!("element {at}: {why}"));
                continue;
            }
            let element = shape.element(keys, item);
            let text = shown(&element);
            if !seen.insert(element) {
                self.fault(&format!("duplicate entries for key {text}"));
                continue;
            }
            self.below(text, shape.item(), item);
        }
    }
}

/// Why an item has no place in a list whose items are told apart.
fn key_fault(shape: Shape<'_>, keys: &[Str], item: &Value) -> Option<String> {
    if keys.is_empty() {
        return match item {
            Value::Null => Some("associative list without keys may not have a null element".to_owned()),
            Value::Object(_) => Some("associative list without keys has an element that's a map type".to_owned()),
            Value::Array(_) => Some("not supported: associative list with lists as elements".to_owned()),
            _ => None,
        };
    }
    match item {
        Value::Null => Some("associative list with keys may not have a null element".to_owned()),
        Value::Object(map) => {
            let default = |key: &Str| match shape.item().kind {
                Some(Type::Struct(id)) => {
                    shape.schemas.get(*id).field(key).is_some_and(|field| field.default.is_some())
                }
                _ => false,
            };
            let absent = |key: &Str| map.get(key).is_none_or(Value::is_null) && !default(key);
            // One key of several is enough to tell an item from the others.
            keys.iter().all(absent).then(|| {
                let keys: Vec<String> = keys.iter().map(|key| format!("{:?}", key.as_str())).collect();
                format!(
                    "associative list with keys has an element that omits all key fields [{}] (and doesn't have default \
                     values for any key fields)",
                    keys.join(" ")
                )
            })
        }
        _ => Some("associative list with keys may not have non-map elements".to_owned()),
    }
}

/// A value as Go's `%v` prints it.
#[must_use]
pub fn printed(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(printed).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let members: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", printed(value))).collect();
            format!("map[{}]", members.join(" "))
        }
        other => String::from_utf8_lossy(&json::encode(other)).into_owned(),
    }
}

/// A value as Go's `%#v` prints it.
fn literal(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::Array(items) => {
            format!("[]interface {{}}{{{}}}", items.iter().map(literal).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let members: Vec<String> = map.iter().map(|(key, value)| format!("{key:?}:{}", literal(value))).collect();
            format!("map[string]interface {{}}{{{}}}", members.join(", "))
        }
        other => String::from_utf8_lossy(&json::encode(other)).into_owned(),
    }
}

/// The type that Go decodes a value to.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int64",
        Value::Float(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
