//! Brings a decoded object into the form that upstream's types would write it in.

use super::{Field, Schemas, Type, TypeId};
use crate::{Map, Str, Value, json, time};

/// Drops nulls and the empty values that upstream omits; writes times and durations in their canonical form.
/// Quantities stay as they are (numbers become text): see [`normalise_with`].
pub fn normalise(schemas: &Schemas, type_id: TypeId, value: &mut Value) {
    normalise_with(schemas, type_id, value, &|_| None);
}

/// As [`normalise`], and replaces each quantity's text where `quantity` returns another one.
pub fn normalise_with(
    schemas: &Schemas,
    type_id: TypeId,
    value: &mut Value,
    quantity: &dyn Fn(&str) -> Option<String>,
) {
    if let Value::Object(map) = value {
        Normaliser { schemas, quantity }.members(type_id, map);
    }
}

struct Normaliser<'a> {
    schemas: &'a Schemas,
    quantity: &'a dyn Fn(&str) -> Option<String>,
}

impl Normaliser<'_> {
    fn members(&self, id: TypeId, map: &mut Map) {
        let one = self.schemas.get(id);
        map.retain(|name, value| {
            let Some(field) = one.field(name) else { return true };
            self.value(&field.kind, value);
            if value.is_null() { field.nullable || field.kind == Type::Any } else { !is_omitted(field, value) }
        });
    }

    fn value(&self, kind: &Type, value: &mut Value) {
        match (kind, &mut *value) {
            (Type::Struct(id), Value::Object(map)) => self.members(*id, map),
            (Type::List(item), Value::Array(items)) => items.iter_mut().for_each(|value| self.value(item, value)),
            (Type::Map(item), Value::Object(map)) => {
                for (_, value) in map.iter_mut() {
                    // Go reads null as the zero value of the map's type.
                    if value.is_null() && matches!(**item, Type::String | Type::Bytes) {
                        *value = Value::from("");
                    }
                    self.value(item, value);
                }
            }
            (Type::Quantity, Value::Int(_) | Value::Float(_)) => {
                let text = json::encode(value);
                *value = Value::String(Str::from_utf8_lossy(&text));
                self.value(kind, value);
            }
            (Type::Quantity, Value::String(text)) => {
                if let Some(canonical) = (self.quantity)(text) {
                    *value = Value::from(canonical);
                }
            }
            (Type::Time, Value::String(text)) => {
                // Most times come as upstream writes them, which this shape tells without parsing.
                if text.len() != 20
                    && let Some(time) = time::parse(text)
                {
                    *value = Value::from(time::format_rfc3339(time));
                }
            }
            (Type::MicroTime, Value::String(text)) => {
                if let Some(time) = time::parse(text) {
                    *value = Value::from(time::format_micro(time));
                }
            }
            (Type::Duration, Value::String(text)) => {
                if let Some(duration) = time::parse_go_duration(text) {
                    *value = Value::from(time::format_go_duration(duration));
                }
            }
            _ => {}
        }
    }
}

/// Whether Go's omitempty leaves the value out. A struct is never empty in this sense.
fn is_omitted(field: &Field, value: &Value) -> bool {
    if field.keep_empty || matches!(field.kind, Type::Any | Type::IntOrString | Type::Struct(_)) {
        return false;
    }
    match value {
        Value::Bool(flag) => !flag,
        Value::Int(number) => *number == 0,
        Value::Float(number) => *number == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Null => true,
    }
}
