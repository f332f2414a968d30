//! Fills in defaults that depend on nothing else.

use super::{Schemas, Type, TypeId};
use crate::{Map, Value};

/// Sets the static default of every member that is absent, null, or a zero value that upstream can't tell from absent.
/// Defaults of a struct that is itself absent are not set, unless the struct has a default too.
pub fn apply_defaults(schemas: &Schemas, type_id: TypeId, value: &mut Value) {
    if let Value::Object(map) = value {
        fill(schemas, type_id, map);
    }
}

fn fill(schemas: &Schemas, id: TypeId, map: &mut Map) {
    let one = schemas.get(id);
    for field in &one.fields {
        let Some(default) = &field.default else { continue };
        let unset = match map.get(&field.name) {
            None | Some(Value::Null) => true,
            Some(value) => !field.keep_empty && is_zero_scalar(value),
        };
        if unset {
            map.insert(field.name.clone(), default.clone());
        }
    }
    for (name, value) in map.iter_mut() {
        // Scalars have nothing inside; most members are scalars.
        if matches!(value, Value::Object(_) | Value::Array(_))
            && let Some(field) = one.field(name)
        {
            fill_type(schemas, &field.kind, value);
        }
    }
}

fn fill_type(schemas: &Schemas, kind: &Type, value: &mut Value) {
    match (kind, value) {
        (Type::Struct(id), Value::Object(map)) => fill(schemas, *id, map),
        (Type::List(item), Value::Array(items)) => items.iter_mut().for_each(|value| fill_type(schemas, item, value)),
        (Type::Map(item), Value::Object(map)) => {
            if matches!(**item, Type::Struct(_) | Type::List(_) | Type::Map(_)) {
                map.iter_mut().for_each(|(_, value)| fill_type(schemas, item, value));
            }
        }
        _ => {}
    }
}

fn is_zero_scalar(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => !flag,
        Value::Int(number) => *number == 0,
        Value::Float(number) => *number == 0.0,
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}
