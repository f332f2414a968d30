//! The OpenAPI v3 documents: one per group and version, and their index.

use super::definitions::{DELETE_OPTIONS, Definitions, Dialect, object};
use super::descriptions::Descriptions;
use super::paths;
use super::served::Served;
use object::{GroupVersionKind, Map, Value};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Builds the document of one group and version; None where nothing of it is served.
#[must_use]
pub fn document(served: &[Served], group: &str, version: &str, server_version: &str) -> Option<Value> {
    let rows: Vec<&Served> = served.iter().filter(|row| row.group == group && row.version == version).collect();
    if rows.is_empty() {
        return None;
    }
    let descriptions = Descriptions::open();
    let mut definitions = Definitions::new(crate::schemas(), Dialect::V3, &descriptions);
    let mut all = Map::new();
    for row in rows {
        let kind = GroupVersionKind { kind: "DeleteOptions".into(), ..row.group_version_kind() };
        definitions.add_kind(DELETE_OPTIONS, kind);
        paths::add(row, Dialect::V3, &mut all, &mut |name| definitions.want(name));
    }
    let security = object([
        ("description", Value::from("Bearer Token authentication")),
        ("in", Value::from("header")),
        ("name", Value::from("authorization")),
        ("type", Value::from("apiKey")),
    ]);
    let components =
        object([("schemas", definitions.finish()), ("securitySchemes", object([("BearerToken", security)]))]);
    Some(object([
        ("openapi", Value::from("3.0.0")),
        ("info", object([("title", Value::from("Kubernetes")), ("version", Value::from(server_version))])),
        ("paths", Value::Object(all)),
        ("components", components),
    ]))
}

/// The index at `/openapi/v3`. A document's hash changes with its rows and with the server's version, so that clients
/// may keep documents for as long as they like.
#[must_use]
pub fn index(served: &[Served], server_version: &str) -> Value {
    let mut hashes: BTreeMap<String, DefaultHasher> = BTreeMap::new();
    for row in served {
        let hasher = hashes.entry(row.prefix()).or_insert_with(|| {
            let mut hasher = DefaultHasher::new();
            (server_version, env!("CARGO_PKG_VERSION")).hash(&mut hasher);
            hasher
        });
        row.hash(hasher);
    }
    let paths = hashes.into_iter().map(|(prefix, hasher)| {
        let url = format!("/openapi/v3/{prefix}?hash={:016X}", hasher.finish());
        (prefix, object([("serverRelativeURL", Value::from(url))]))
    });
    object([("paths", Value::Object(paths.collect()))])
}
