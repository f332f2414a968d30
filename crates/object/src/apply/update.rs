//! Keeps managedFields for writes that are no apply.

use super::compare::Changes;
use super::managers::{Identity, Managers, strip};
use super::paths::Shape;
use crate::schema::{Schemas, Type, TypeId};
use crate::{Map, Value};
use jiff::Timestamp;

/// Who writes, through what, and when.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The manager's name: the fieldManager parameter, or the first part of the User-Agent.
    pub manager: &'a str,
    /// The version written in, such as `apps/v1`.
    pub api_version: &'a str,
    /// `status`, `scale`, ...; empty for the object itself.
    pub subresource: &'a str,
    /// The time of the request.
    pub now: Timestamp,
}

/// Makes `new` carry the managedFields that follow from its difference to `old`: the writer takes what it added or
/// changed, and nobody keeps what is gone. Nothing is touched where nothing changed. As upstream documents,
/// `managedFields: [{}]` in `new` strips them all.
pub fn track_update(schemas: &Schemas, type_id: TypeId, old: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let given = new.at(&["metadata", "managedFields"]).and_then(Value::as_array);
    let reset = given.is_some_and(|list| matches!(list, [one] if one.as_object().is_some_and(Map::is_empty)));
    if reset {
        new.remove(&["metadata", "managedFields"]);
        return;
    }
    let given = given.is_some_and(|list| !list.is_empty());
    let source = if given { Some(&*new) } else { old };
    let mut managers = source.map(Managers::of).unwrap_or_default();
    let kind = Type::Struct(type_id);
    let shape = Shape::of(schemas, &kind);
    let empty = Value::Object(Map::new());
    let mut changes = Changes::between(shape, old.unwrap_or(&empty), new);
    for set in [&mut changes.added, &mut changes.modified, &mut changes.removed] {
        // A status that an ordinary write brings along (a node that registers itself) is its writer's as well.
        strip(set, if writer.subresource.is_empty() { "whole" } else { writer.subresource });
    }
    let taken = changes.taken();
    if !taken.is_empty() || !changes.removed.is_empty() {
        let identity = Identity {
            manager: writer.manager.into(),
            applies: false,
            api_version: writer.api_version.into(),
            subresource: writer.subresource.into(),
        };
        let mut own = managers.position(&identity).map(|at| managers.entries[at].set.clone()).unwrap_or_default();
        managers.lose(&taken, Some(&identity));
        managers.lose(&changes.removed, None);
        own = own.difference(&changes.removed);
        own.union(&taken);
        if !taken.is_empty() {
            managers.put(identity, own, writer.now);
        }
    }
    managers.cap();
    managers.write(new);
}
