//! The lists of a strategic merge patch: merged by key, sets of scalars, their order and deletions.

use super::PatchError;
use super::strategic::{DIRECTIVE, Merger, Shape, unknown_directive};
use crate::schema::{Field, Type};
use crate::{Map, Value};

/// Removes the named scalars from the list `name` of `target`.
pub(super) fn delete_primitives(target: &mut Map, name: &str, remove: &Value) -> Result<(), PatchError> {
    let Some(remove) = remove.as_array() else {
        return Err(PatchError::Malformed(format!("$deleteFromPrimitiveList/{name} must be a list")));
    };
    if let Some(Value::Array(items)) = target.get_mut(name) {
        items.retain(|item| !remove.contains(item));
    }
    Ok(())
}

/// Puts the list `name` of `target`, which the patch does not change, in the order of its $setElementOrder.
pub(super) fn reorder(target: &mut Map, name: &str, field: Option<&Field>, order: &Value) -> Result<(), PatchError> {
    let Some(order) = order.as_array() else {
        return Err(PatchError::Malformed(format!("$setElementOrder/{name} must be a list")));
    };
    if let Some(Value::Array(items)) = target.get_mut(name) {
        let before = items.clone();
        let key = field.and_then(|field| field.patch_merge_key.as_deref());
        *items = ordered(std::mem::take(items), &before, order, key);
    }
    Ok(())
}

/// Merges the items of a patch into a list.
pub(super) fn merge<'a>(
    merger: &Merger<'a>,
    field: &'a Field,
    item: &'a Type,
    list: &mut Vec<Value>,
    patch: &[Value],
    order: Option<&Value>,
    depth: usize,
) -> Result<(), PatchError> {
    let before = list.clone();
    let key = field.patch_merge_key.as_deref();
    match key {
        Some(key) => merge_maps(merger, field, item, key, list, patch, depth)?,
        None => {
            for value in patch {
                if !list.contains(value) {
                    list.push(value.clone());
                }
            }
        }
    }
    match order {
        Some(Value::Array(order)) => *list = ordered(std::mem::take(list), &before, order, key),
        Some(_) => return Err(PatchError::Malformed(format!("$setElementOrder/{} must be a list", field.name))),
        None => {}
    }
    Ok(())
}

fn merge_maps<'a>(
    merger: &Merger<'a>,
    field: &'a Field,
    item: &'a Type,
    key: &str,
    list: &mut Vec<Value>,
    patch: &[Value],
    depth: usize,
) -> Result<(), PatchError> {
    let directive = |value: &Value| value.str_at(&[DIRECTIVE]).map(str::to_owned);
    if patch.iter().any(|value| directive(value).as_deref() == Some("replace")) {
        // The list becomes what the patch has beside the directive.
        *list = patch.iter().filter(|value| directive(value).is_none()).cloned().collect();
        return Ok(());
    }
    for value in patch {
        let Some(members) = value.as_object() else {
            return Err(PatchError::Malformed(format!("the items of {} must be maps", field.name)));
        };
        let identity = members.get(key).ok_or_else(|| {
            PatchError::Malformed(format!("map: an item of {} does not contain declared merge key: {key}", field.name))
        })?;
        let same = |one: &Value| one.get(key) == Some(identity);
        match directive(value).as_deref() {
            Some("delete") => list.retain(|one| !same(one)),
            None | Some("merge") => {
                let at = match list.iter().position(same) {
                    Some(at) => at,
                    None => {
                        list.push(Value::Object(Map::new()));
                        list.len() - 1
                    }
                };
                if let Value::Object(target) = &mut list[at] {
                    merger.map(Shape::of(item), target, members, depth + 1)?;
                }
            }
            Some(other) => return Err(unknown_directive(other)),
        }
    }
    Ok(())
}

/// Items named by `order` come in its order; the others keep their place as the list `before` had it, as well as that goes.
fn ordered(items: Vec<Value>, before: &[Value], order: &[Value], key: Option<&str>) -> Vec<Value> {
    let position = |list: &[Value], value: &Value| {
        list.iter().position(|one| match key {
            Some(key) => one.get(key).is_some() && one.get(key) == value.get(key),
            None => one == value,
        })
    };
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| position(order, item).is_some());
    named.sort_by_key(|item| position(order, item));
    let mut all = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    let mut named = named.into_iter().peekable();
    loop {
        match (others.peek(), named.peek()) {
            (Some(other), Some(one)) => {
                let earlier = matches!((position(before, other), position(before, one)), (Some(a), Some(b)) if a < b);
                all.extend(if earlier { others.next() } else { named.next() });
            }
            (Some(_), None) => all.extend(others.next()),
            (None, Some(_)) => all.extend(named.next()),
            (None, None) => return all,
        }
    }
}
