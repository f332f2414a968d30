//! Strategic merge patch: a merge patch that knows from the schema which lists are merged, and by which key.

use super::PatchError;
use super::lists;
use crate::schema::{Field, Schemas, Type, TypeId};
use crate::{Map, Value};

pub(super) const DIRECTIVE: &str = "$patch";
pub(super) const RETAIN_KEYS: &str = "$retainKeys";
pub(super) const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";
pub(super) const SET_ORDER: &str = "$setElementOrder/";

/// The deepest nesting that is merged; objects are decoded with a smaller limit.
const DEPTH_MAX: usize = 512;

/// Applies a strategic merge patch to an object of `type_id`; `target` is unchanged if it is refused.
pub fn strategic(schemas: &Schemas, type_id: TypeId, target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed("a strategic merge patch must be a map".to_owned()));
    };
    let mut result = match target {
        Value::Object(map) => map.clone(),
        _ => Map::new(),
    };
    Merger { schemas }.map(Shape::Struct(type_id), &mut result, patch, 0)?;
    *target = Value::Object(result);
    Ok(())
}

/// What is known of a map's members.
#[derive(Clone, Copy)]
pub(super) enum Shape<'a> {
    /// A struct of the schema.
    Struct(TypeId),
    /// A map from strings to one type.
    Map(&'a Type),
    /// Nothing: unstructured content.
    Unknown,
}

impl<'a> Shape<'a> {
    pub(super) fn of(kind: &'a Type) -> Self {
        match kind {
            Type::Struct(id) => Shape::Struct(*id),
            Type::Map(item) => Shape::Map(item),
            _ => Shape::Unknown,
        }
    }
}

pub(super) struct Merger<'a> {
    pub(super) schemas: &'a Schemas,
}

impl<'a> Merger<'a> {
    /// Merges `patch` into `target`.
    pub(super) fn map(&self, shape: Shape<'a>, target: &mut Map, patch: &Map, depth: usize) -> Result<(), PatchError> {
        if depth > DEPTH_MAX {
            return Err(PatchError::Malformed(format!("the patch is nested deeper than {DEPTH_MAX} levels")));
        }
        match patch.get(DIRECTIVE) {
            None => {}
            Some(Value::String(directive)) => match directive.as_str() {
                "merge" => {}
                "replace" => {
                    *target = patch.clone();
                    target.remove(DIRECTIVE);
                    return Ok(());
                }
                "delete" => {
                    *target = Map::new();
                    return Ok(());
                }
                other => return Err(unknown_directive(other)),
            },
            Some(_) => return Err(PatchError::Malformed("$patch must be a string".to_owned())),
        }
        if let Some(retain) = patch.get(RETAIN_KEYS) {
            retain_keys(target, patch, retain)?;
        }
        for (key, value) in patch.iter() {
            if key == DIRECTIVE || key == RETAIN_KEYS {
                continue;
            }
            if let Some(list) = key.strip_prefix(DELETE_PRIMITIVES) {
                lists::delete_primitives(target, list, value)?;
                continue;
            }
            if let Some(list) = key.strip_prefix(SET_ORDER) {
                // A list that the patch changes is put in order when it is merged.
                if !patch.contains_key(list) {
                    let field = self.field(shape, list).0;
                    lists::reorder(target, list, field, value)?;
                }
                continue;
            }
            if value.is_null() {
                target.remove(key);
                continue;
            }
            let (field, kind) = self.field(shape, key);
            let order = patch.get(&format!("{SET_ORDER}{key}"));
            self.member(field, kind, target.entry(key), value, order, depth + 1)?;
        }
        Ok(())
    }

    fn member(
        &self,
        field: Option<&'a Field>,
        kind: Option<&'a Type>,
        target: &mut Value,
        patch: &Value,
        order: Option<&Value>,
        depth: usize,
    ) -> Result<(), PatchError> {
        match patch {
            Value::Object(patch) => {
                if !matches!(target, Value::Object(_)) {
                    *target = Value::Object(Map::new());
                }
                let Value::Object(map) = target else { return Ok(()) };
                self.map(kind.map_or(Shape::Unknown, Shape::of), map, patch, depth)
            }
            Value::Array(items) => match (field, kind) {
                (Some(field), Some(Type::List(item))) if field.patch_merge => {
                    if !matches!(target, Value::Array(_)) {
                        *target = Value::Array(Vec::new());
                    }
                    let Value::Array(list) = target else { return Ok(()) };
                    lists::merge(self, field, item, list, items, order, depth)
                }
                _ => {
                    *target = patch.clone();
                    Ok(())
                }
            },
            other => {
                *target = other.clone();
                Ok(())
            }
        }
    }

    /// The field and type of a member.
    fn field(&self, shape: Shape<'a>, name: &str) -> (Option<&'a Field>, Option<&'a Type>) {
        match shape {
            Shape::Struct(id) => {
                let field = self.schemas.get(id).field(name);
                (field, field.map(|field| &field.kind))
            }
            Shape::Map(item) => (None, Some(item)),
            Shape::Unknown => (None, None),
        }
    }
}

pub(super) fn unknown_directive(directive: &str) -> PatchError {
    PatchError::Malformed(format!(
        "Unknown patch type specified in the map: {directive:?} (known are merge, replace, delete)"
    ))
}

/// Removes what the patch does not retain.
fn retain_keys(target: &mut Map, patch: &Map, retain: &Value) -> Result<(), PatchError> {
    let Some(keys) = retain.as_array() else {
        return Err(PatchError::Malformed("$retainKeys must be a list of strings".to_owned()));
    };
    let keeps = |key: &str| keys.iter().any(|one| one.as_str() == Some(key));
    for (key, value) in patch.iter() {
        if !value.is_null() && !key.starts_with('$') && !keeps(key) {
            return Err(PatchError::Malformed(format!("{key:?} is set by the patch but not named by its $retainKeys")));
        }
    }
    target.retain(|key, _| keeps(key));
    Ok(())
}
