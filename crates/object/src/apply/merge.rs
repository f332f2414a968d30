//! Merges an applied configuration into an object, and takes away what its manager no longer applies.

use super::paths::{Form, Shape};
use super::set::Set;
use crate::{Str, Value};
use std::collections::HashSet;

/// `configuration`, which fits its schema, merged into `live`.
pub(super) fn merge(shape: Shape<'_>, live: &Value, configuration: &Value) -> Value {
    match (shape.form(live), shape.form(configuration), live, configuration) {
        (Form::Members, Form::Members, Value::Object(before), Value::Object(wanted)) => {
            let mut merged = before.clone();
            for (name, value) in wanted.iter() {
                let shape = shape.member(name).0;
                let value = merge(shape, before.get(name).unwrap_or(&Value::Null), value);
                merged.insert(name, value);
            }
            Value::Object(merged)
        }
        (_, Form::Items(keys), Value::Array(before), Value::Array(wanted)) => {
            Value::Array(merge_items(shape, keys, before, wanted))
        }
        _ => configuration.clone(),
    }
}

/// Items in the configuration's order, with those that only the object has where they stood between them.
fn merge_items(shape: Shape<'_>, keys: &[Str], before: &[Value], wanted: &[Value]) -> Vec<Value> {
    let element = |item: &Value| shape.element(keys, item);
    let wanted_elements: Vec<Str> = wanted.iter().map(element).collect();
    let before_elements: Vec<Str> = before.iter().map(element).collect();
    let unique: HashSet<&Str> = wanted_elements.iter().collect();
    let merged_item = |at: usize| {
        let other = before_elements.iter().position(|one| *one == wanted_elements[at]);
        merge(shape.item(), other.map_or(&Value::Null, |other| &before[other]), &wanted[at])
    };
    let mut merged = Vec::with_capacity(before.len() + wanted.len());
    let (mut left, mut right) = (0, 0);
    while left < before.len() || right < wanted.len() {
        if left < before.len() && !unique.contains(&before_elements[left]) {
            merged.push(before[left].clone());
            left += 1;
        } else if right < wanted.len() {
            if left < before.len() && before_elements[left] == wanted_elements[right] {
                left += 1;
            }
            merged.push(merged_item(right));
            right += 1;
        } else {
            // The configuration has this one, and it has been merged already.
            left += 1;
        }
    }
    merged
}

/// Takes away what is in `last` and nobody holds any more; `held` is what all managers hold now.
pub(super) fn prune(shape: Shape<'_>, value: &mut Value, last: &Set, held: &Set) {
    let none = Set::default();
    let form = shape.form(value);
    for (element, below) in &last.children {
        let kept = held.children.get(element).unwrap_or(&none);
        let named = element.strip_prefix("f:");
        let gone = kept.is_empty() && (below.member || named.is_some());
        match (&form, &mut *value) {
            (Form::Members, Value::Object(map)) => {
                let Some(name) = named else { continue };
                if gone {
                    map.remove(name);
                } else if let Some(member) = map.get_mut(name) {
                    prune(shape.member(name).0, member, below, kept);
                }
            }
            (Form::Items(keys), Value::Array(items)) => {
                let Some(at) = items.iter().position(|item| shape.element(keys, item) == *element) else { continue };
                if gone {
                    items.remove(at);
                } else {
                    prune(shape.item(), &mut items[at], below, kept);
                }
            }
            _ => {}
        }
    }
}
