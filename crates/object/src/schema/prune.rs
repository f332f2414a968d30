//! Removes members that a schema does not know.

use super::{Schemas, Type, TypeId};
use crate::Value;
use crate::codec::{DUPLICATES_MAX, prefix_paths};

/// Removes unknown members and returns their paths (`spec.containers[0].imagee`), as strict field validation reports
/// them; at most a hundred, though all are removed.
pub fn prune(schemas: &Schemas, type_id: TypeId, value: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    prune_struct(schemas, type_id, value, &mut unknown);
    unknown
}

fn prune_struct(schemas: &Schemas, id: TypeId, value: &mut Value, unknown: &mut Vec<String>) {
    let Value::Object(map) = value else { return };
    let one = schemas.get(id);
    map.retain(|name, value| {
        let Some(field) = one.field(name) else {
            if !one.preserve_unknown && unknown.len() < DUPLICATES_MAX {
                unknown.push(name.to_owned());
            }
            return one.preserve_unknown;
        };
        let before = unknown.len();
        prune_type(schemas, &field.kind, value, unknown);
        if unknown.len() > before {
            prefix_paths(unknown, before, name);
        }
        true
    });
}

fn prune_type(schemas: &Schemas, kind: &Type, value: &mut Value, unknown: &mut Vec<String>) {
    match (kind, value) {
        (Type::Struct(id), value) => prune_struct(schemas, *id, value, unknown),
        (Type::List(item), Value::Array(items)) if holds_structs(item) => {
            for (at, value) in items.iter_mut().enumerate() {
                let before = unknown.len();
                prune_type(schemas, item, value, unknown);
                if unknown.len() > before {
                    prefix_paths(unknown, before, &format!("[{at}]"));
                }
            }
        }
        (Type::Map(item), Value::Object(map)) if holds_structs(item) => {
            for (key, value) in map.iter_mut() {
                let before = unknown.len();
                prune_type(schemas, item, value, unknown);
                if unknown.len() > before {
                    prefix_paths(unknown, before, key);
                }
            }
        }
        _ => {}
    }
}

fn holds_structs(kind: &Type) -> bool {
    matches!(kind, Type::Struct(_) | Type::List(_) | Type::Map(_))
}
