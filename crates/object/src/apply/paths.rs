//! How the schema says an object is taken apart into owned paths.

use super::set::{Set, json_element};
use crate::schema::{Field, ListKind, Schemas, Type};
use crate::{Map, Str, Value};

/// What is known of a node.
#[derive(Clone, Copy)]
pub(super) struct Shape<'a> {
    pub(super) schemas: &'a Schemas,
    /// None where nothing is known: maps are granular then, lists atomic.
    pub(super) kind: Option<&'a Type>,
    pub(super) list: &'a ListKind,
}

const ATOMIC: &ListKind = &ListKind::Atomic;
const GRANULAR: &ListKind = &ListKind::Granular;

/// How a node is merged.
pub(super) enum Form<'a> {
    /// As a whole.
    Leaf,
    /// Member by member.
    Members,
    /// Item by item, told apart by key members; none for a set of scalars.
    Items(&'a [Str]),
}

impl<'a> Shape<'a> {
    /// The shape of a whole object.
    pub(super) fn of(schemas: &'a Schemas, kind: &'a Type) -> Self {
        Shape { schemas, kind: Some(kind), list: GRANULAR }
    }

    fn unknown(self) -> Self {
        Shape { schemas: self.schemas, kind: None, list: GRANULAR }
    }

    /// How `value` is merged.
    pub(super) fn form(self, value: &Value) -> Form<'a> {
        match value {
            Value::Object(_) => {
                let atomic_struct = matches!(self.kind, Some(Type::Struct(id)) if self.schemas.get(*id).atomic);
                let whole = matches!(self.kind, Some(Type::Quantity | Type::Time | Type::IntOrString));
                if *self.list == ListKind::Atomic || atomic_struct || whole { Form::Leaf } else { Form::Members }
            }
            Value::Array(_) => match self.list {
                ListKind::Set => Form::Items(&[]),
                ListKind::Map(keys) => Form::Items(keys),
                _ => Form::Leaf,
            },
            _ => Form::Leaf,
        }
    }

    /// The shape of a member, and whether the schema names it.
    pub(super) fn member(self, name: &str) -> (Self, bool) {
        match self.kind {
            Some(Type::Struct(id)) => match self.schemas.get(*id).field(name) {
                Some(field) => (self.field(field), true),
                None => (self.unknown(), false),
            },
            Some(Type::Map(item)) => {
                (Shape { schemas: self.schemas, kind: Some(item), list: default_list(item) }, false)
            }
            _ => (self.unknown(), false),
        }
    }

    fn field(self, field: &'a Field) -> Self {
        Shape { schemas: self.schemas, kind: Some(&field.kind), list: &field.list }
    }

    /// The shape of a list's items.
    pub(super) fn item(self) -> Self {
        match self.kind {
            Some(Type::List(item)) => Shape { schemas: self.schemas, kind: Some(item), list: default_list(item) },
            _ => self.unknown(),
        }
    }

    /// The element that tells an item from the others: its keys, with the schema's defaults for absent ones.
    pub(super) fn element(self, keys: &[Str], item: &Value) -> Str {
        if keys.is_empty() {
            return json_element("v:", item);
        }
        let mut map = Map::new();
        for key in keys {
            let default = || match self.item().kind {
                Some(Type::Struct(id)) => self.schemas.get(*id).field(key).and_then(|field| field.default.clone()),
                _ => None,
            };
            if let Some(value) = item.get(key).filter(|value| !value.is_null()).cloned().or_else(default) {
                map.insert(key.clone(), value);
            }
        }
        json_element("k:", &Value::Object(map))
    }
}

fn default_list(kind: &Type) -> &'static ListKind {
    if matches!(kind, Type::List(_)) { ATOMIC } else { GRANULAR }
}

/// The paths of all that `value` sets.
pub(super) fn paths_of(shape: Shape<'_>, value: &Value, set: &mut Set) {
    match (shape.form(value), value) {
        (Form::Members, Value::Object(map)) => {
            for (name, member) in map.iter() {
                let (below, named) = shape.member(name);
                let child = set.child(format!("f:{name}"));
                paths_of(below, member, child);
                let empty = member.is_null() || member.as_object().is_some_and(Map::is_empty);
                child.member |= empty || !named;
            }
        }
        (Form::Items(keys), Value::Array(items)) => {
            for item in items {
                let child = set.child(shape.element(keys, item));
                paths_of(shape.item(), item, child);
                child.member = true;
            }
        }
        _ => set.member = true,
    }
    set.children.retain(|_, child| !child.is_empty());
}
