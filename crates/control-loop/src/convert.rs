//! Plans carry JSON values, the client takes the core's value tree.

use object::{Map, Value};

/// The same value in the core's tree.
pub(crate) fn to_object_value(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(flag) => Value::Bool(*flag),
        serde_json::Value::Number(number) => {
            number.as_i64().map_or_else(|| Value::Float(number.as_f64().unwrap_or(0.0)), Value::Int)
        }
        serde_json::Value::String(text) => Value::String(text.as_str().into()),
        serde_json::Value::Array(items) => Value::Array(items.iter().map(to_object_value).collect()),
        serde_json::Value::Object(members) => {
            let mut map = Map::default();
            for (name, member) in members {
                map.insert(name.as_str(), to_object_value(member));
            }
            Value::Object(map)
        }
    }
}
