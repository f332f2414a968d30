//! What tests of this crate share: value trees from JSON text, and a small schema.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use crate::schema::{Field, ListKind, Schemas, Struct, Type, TypeId};
use crate::{Map, Value};

/// A value tree from JSON text.
pub(crate) fn value(text: &str) -> Value {
    from(serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}")))
}

fn from(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(flag) => Value::Bool(flag),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(number) => Value::Int(number),
            None => Value::Float(number.as_f64().unwrap()),
        },
        serde_json::Value::String(text) => Value::from(text),
        serde_json::Value::Array(items) => Value::Array(items.into_iter().map(from).collect()),
        serde_json::Value::Object(members) => {
            Value::Object(members.into_iter().map(|(key, item)| (key, from(item))).collect::<Map>())
        }
    }
}

/// A field without anything special.
pub(crate) fn field(name: &str, kind: Type) -> Field {
    let list = if matches!(kind, Type::List(_)) { ListKind::Atomic } else { ListKind::Granular };
    Field {
        name: name.into(),
        number: 0,
        kind,
        required: false,
        nullable: false,
        list,
        patch_merge: false,
        patch_retain_keys: false,
        patch_merge_key: None,
        default: None,
        keep_empty: false,
    }
}

/// A list of structs merged by keys.
pub(crate) fn keyed(name: &str, item: TypeId, keys: &[&str]) -> Field {
    let mut field = field(name, Type::List(Box::new(Type::Struct(item))));
    field.list = ListKind::Map(keys.iter().map(|key| (*key).into()).collect());
    field.patch_merge = true;
    field.patch_merge_key = Some(keys[0].into());
    field
}

/// A set of strings.
pub(crate) fn set(name: &str) -> Field {
    let mut field = field(name, Type::List(Box::new(Type::String)));
    field.list = ListKind::Set;
    field.patch_merge = true;
    field
}

/// A small workload: metadata, and a spec with the list kinds there are. The workload is the first struct.
pub(crate) fn schemas() -> Schemas {
    let named =
        |name: &str, fields: Vec<Field>| Struct { name: name.into(), fields, preserve_unknown: false, atomic: false };
    let texts = || Type::Map(Box::new(Type::String));
    let mut port = field("protocol", Type::String);
    port.default = Some("TCP".into());
    let mut selector = field("selector", texts());
    selector.list = ListKind::Atomic;
    let mut strategy = field("strategy", Type::Struct(TypeId(5)));
    strategy.patch_retain_keys = true;
    Schemas::new(vec![
        named(
            "Workload",
            vec![
                field("apiVersion", Type::String),
                field("kind", Type::String),
                field("metadata", Type::Struct(TypeId(1))),
                field("spec", Type::Struct(TypeId(2))),
                field("status", Type::Struct(TypeId(6))),
            ],
        ),
        named(
            "ObjectMeta",
            vec![
                field("name", Type::String),
                field("namespace", Type::String),
                field("labels", texts()),
                field("annotations", texts()),
                set("finalizers"),
                field("managedFields", Type::List(Box::new(Type::Any))),
                field("resourceVersion", Type::String),
                field("uid", Type::String),
            ],
        ),
        named(
            "Spec",
            vec![
                field("replicas", Type::Int32),
                field("paused", Type::Bool),
                field("arguments", Type::List(Box::new(Type::String))),
                keyed("containers", TypeId(3), &["name"]),
                selector,
                strategy,
                field("extra", Type::Any),
            ],
        ),
        named(
            "Container",
            vec![
                field("name", Type::String),
                field("image", Type::String),
                keyed("ports", TypeId(4), &["containerPort", "protocol"]),
                field("command", Type::List(Box::new(Type::String))),
            ],
        ),
        named("Port", vec![field("containerPort", Type::Int32), field("name", Type::String), port]),
        named("Strategy", vec![field("type", Type::String), field("rollingUpdate", Type::Any)]),
        named("Status", vec![field("ready", Type::Int32)]),
    ])
}

/// The type of the workload in [`schemas`].
pub(crate) const WORKLOAD: TypeId = TypeId(0);
