//! What differs between two states of an object.

use super::paths::{Form, Shape, paths_of};
use super::set::Set;
use crate::Value;

/// The paths that a change adds, modifies and removes.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) added: Set,
    pub(super) modified: Set,
    pub(super) removed: Set,
}

impl Changes {
    pub(super) fn between(shape: Shape<'_>, old: &Value, new: &Value) -> Self {
        let (mut before, mut after) = (Set::default(), Set::default());
        paths_of(shape, old, &mut before);
        paths_of(shape, new, &mut after);
        let mut modified = Set::default();
        modifications(shape, old, new, &mut modified);
        Changes { added: after.difference(&before), modified, removed: before.difference(&after) }
    }

    /// What the writer takes: all it added or modified.
    pub(super) fn taken(&self) -> Set {
        let mut taken = self.added.clone();
        taken.union(&self.modified);
        taken
    }
}

fn modifications(shape: Shape<'_>, old: &Value, new: &Value, set: &mut Set) {
    match (shape.form(old), shape.form(new), old, new) {
        (Form::Members, Form::Members, Value::Object(before), Value::Object(after)) => {
            for (name, value) in after.iter() {
                if let Some(other) = before.get(name).filter(|other| *other != value) {
                    let child = set.child(format!("f:{name}"));
                    modifications(shape.member(name).0, other, value, child);
                }
            }
        }
        (Form::Items(keys), Form::Items(_), Value::Array(before), Value::Array(after)) => {
            for value in after {
                let element = shape.element(keys, value);
                let other = before.iter().find(|other| shape.element(keys, other) == element);
                if let Some(other) = other.filter(|other| *other != value) {
                    modifications(shape.item(), other, value, set.child(element));
                }
            }
        }
        _ => set.member |= old != new,
    }
    set.children.retain(|_, child| !child.is_empty());
}
