//! The OpenAPI v2 document of everything that is served.

use super::definitions::{DELETE_OPTIONS, Definitions, Dialect, object};
use super::descriptions::Descriptions;
use super::paths;
use super::served::Served;
use object::{GroupVersionKind, Map, Value};

/// Builds the document; `version` is what the server calls itself (`v1.37.0`).
#[must_use]
pub fn document(served: &[Served], version: &str) -> Value {
    let descriptions = Descriptions::open();
    let mut definitions = Definitions::new(crate::schemas(), Dialect::V2, &descriptions);
    let mut all = Map::new();
    for row in served {
        let kind = GroupVersionKind { kind: "DeleteOptions".into(), ..row.group_version_kind() };
        definitions.add_kind(DELETE_OPTIONS, kind);
        paths::add(row, Dialect::V2, &mut all, &mut |name| definitions.want(name));
    }
    let security = object([
        ("description", Value::from("Bearer Token authentication")),
        ("in", Value::from("header")),
        ("name", Value::from("authorization")),
        ("type", Value::from("apiKey")),
    ]);
    object([
        ("swagger", Value::from("2.0")),
        ("info", object([("title", Value::from("Kubernetes")), ("version", Value::from(version))])),
        ("paths", Value::Object(all)),
        ("definitions", definitions.finish()),
        ("security", Value::Array(vec![object([("BearerToken", Value::Array(Vec::new()))])])),
        ("securityDefinitions", object([("BearerToken", security)])),
    ])
}
