//! Discovery from the resource table: /api, /apis, their versions, and the aggregated form of both.

use super::body::Answer;
use super::dispatch::Context;
use super::respond;
use crate::core::Row;
use crate::negotiate::{self, Encoding, Offers, Shape};
use http::header::{ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Response, StatusCode};
use kinds::{Group, Table};
use object::{Map, Status, Value, json, yaml};
use sha2::{Digest, Sha256};

/// Answers a path below /api or /apis.
pub(crate) fn handle(context: &Context, path: &str) -> Result<Response<Answer>, Status> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let table = context.core.table();
    let aggregates = matches!(parts.as_slice(), ["api"] | ["apis"]);
    let offers = if aggregates { Offers::Discovery } else { Offers::Objects };
    let accepted = negotiate::negotiate(context.accept(), offers, context.query.get("pretty"), context.user_agent())?;
    if let Shape::Discovery(version) = accepted.shape {
        return Ok(aggregated(context, &table, parts == ["api"], version));
    }
    let value = match parts.as_slice() {
        ["api"] => versions(context),
        ["apis"] => groups(&table),
        ["api", version] => resources(&table, "", version)?,
        ["apis", group] => {
            let found = table.groups().iter().find(|one| one.name == *group && !one.name.is_empty());
            let mut value = group_value(found.ok_or_else(Status::no_such_path)?);
            value.set(&["kind"], "APIGroup".into());
            value.set(&["apiVersion"], "v1".into());
            value
        }
        ["apis", group, version] => resources(&table, group, version)?,
        _ => return Err(Status::no_such_path()),
    };
    let (media_type, bytes) = match accepted.encoding {
        Encoding::Yaml => ("application/yaml", yaml::encode(&value).into_bytes()),
        // Discovery's own types have no committed protobuf schema; clients read the type of the answer.
        Encoding::Json | Encoding::Protobuf => ("application/json", json::encode(&value)),
    };
    Ok(respond::answer(200, media_type, Answer::bytes(bytes)))
}

fn versions(context: &Context) -> Value {
    let mut value = Value::default();
    value.set(&["kind"], "APIVersions".into());
    value.set(&["versions"], vec![Value::from("v1")].into());
    let address = format!("{}:{}", context.core.advertise, context.core.port);
    let server: Map = [("clientCIDR", "0.0.0.0/0"), ("serverAddress", address.as_str())].into_iter().collect();
    value.set(&["serverAddressByClientCIDRs"], vec![Value::from(server)].into());
    value
}

fn group_value(group: &Group) -> Value {
    let version = |name: &str| -> Value {
        let group_version = format!("{}/{name}", group.name);
        let one: Map = [("groupVersion", group_version.as_str()), ("version", name)].into_iter().collect();
        one.into()
    };
    let mut value = Value::default();
    value.set(&["name"], group.name.clone().into());
    value.set(&["versions"], group.versions.iter().map(|name| version(name)).collect::<Vec<_>>().into());
    if let Some(preferred) = group.versions.first() {
        value.set(&["preferredVersion"], version(preferred));
    }
    value
}

fn groups(table: &Table) -> Value {
    let mut value = Value::default();
    value.set(&["kind"], "APIGroupList".into());
    value.set(&["apiVersion"], "v1".into());
    let groups: Vec<Value> = table.groups().iter().filter(|group| !group.name.is_empty()).map(group_value).collect();
    value.set(&["groups"], groups.into());
    value
}

fn texts(items: &[object::Str]) -> Value {
    items.iter().map(|item| Value::from(item.clone())).collect::<Vec<_>>().into()
}

/// The rows of a group in a version.
fn rows<'a>(table: &'a Table, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Row> {
    table.resources().iter().filter(move |row| row.group == group && row.version(version).is_some())
}

fn storage_hash(row: &Row) -> String {
    use base64::Engine;
    let text = format!("{}/{}/{}", row.hub.group, row.hub.version, row.hub.kind);
    base64::engine::general_purpose::STANDARD.encode(&Sha256::digest(text.as_bytes())[..8])
}

fn resources(table: &Table, group: &str, version: &str) -> Result<Value, Status> {
    let mut list = Vec::new();
    for row in rows(table, group, version) {
        let mut one = Value::default();
        one.set(&["name"], row.plural.clone().into());
        one.set(&["singularName"], row.singular.clone().into());
        one.set(&["namespaced"], row.namespaced.into());
        one.set(&["kind"], row.kind.clone().into());
        one.set(&["verbs"], texts(&row.verbs));
        if !row.short_names.is_empty() {
            one.set(&["shortNames"], texts(&row.short_names));
        }
        if !row.categories.is_empty() {
            one.set(&["categories"], texts(&row.categories));
        }
        if !row.is_create_only() {
            one.set(&["storageVersionHash"], storage_hash(row).into());
        }
        list.push(one);
        for part in &row.subresources {
            let mut one = Value::default();
            one.set(&["name"], format!("{}/{}", row.plural, part.name).into());
            one.set(&["singularName"], "".into());
            one.set(&["namespaced"], row.namespaced.into());
            one.set(&["kind"], part.kind.kind.clone().into());
            if part.kind.group != group || part.kind.version != version {
                one.set(&["group"], part.kind.group.clone().into());
                one.set(&["version"], part.kind.version.clone().into());
            }
            one.set(&["verbs"], texts(&part.verbs));
            list.push(one);
        }
    }
    if list.is_empty() {
        return Err(Status::no_such_path());
    }
    list.sort_by(|a, b| a.str_at(&["name"]).cmp(&b.str_at(&["name"])));
    let mut value = Value::default();
    value.set(&["kind"], "APIResourceList".into());
    value.set(&["apiVersion"], "v1".into());
    value.set(&["groupVersion"], if group.is_empty() { version.into() } else { format!("{group}/{version}").into() });
    value.set(&["resources"], list.into());
    Ok(value)
}

fn kind_value(group: &str, version: &str, kind: &str) -> Value {
    let value: Map = [("group", group), ("version", version), ("kind", kind)].into_iter().collect();
    value.into()
}

/// apidiscovery.k8s.io's list of groups with all their resources, of /api or of /apis.
fn aggregated(context: &Context, table: &Table, core: bool, version: &str) -> Response<Answer> {
    let mut items = Vec::new();
    for group in table.groups().iter().filter(|group| group.name.is_empty() == core) {
        let mut item = Value::default();
        item.set(&["metadata"], Value::Object(Map::new()));
        if !core {
            item.set(&["metadata", "name"], group.name.clone().into());
        }
        let versions = group.versions.iter().map(|name| {
            let mut one = Value::default();
            one.set(&["version"], name.clone().into());
            one.set(&["freshness"], "Current".into());
            let mut found: Vec<&Row> = rows(table, &group.name, name).collect();
            found.sort_by(|a, b| a.plural.cmp(&b.plural));
            one.set(&["resources"], found.into_iter().map(|row| aggregated_row(row, name)).collect::<Vec<_>>().into());
            one
        });
        item.set(&["versions"], versions.collect::<Vec<_>>().into());
        items.push(item);
    }
    let mut list = Value::default();
    list.set(&["kind"], "APIGroupDiscoveryList".into());
    list.set(&["apiVersion"], format!("apidiscovery.k8s.io/{version}").into());
    list.set(&["metadata"], Value::Object(Map::new()));
    list.set(&["items"], items.into());
    let bytes = json::encode(&list);
    let tag: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02X}")).collect();
    let tag = format!("\"{tag}\"");
    let content_type = match version {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    };
    let unchanged = context.header(IF_NONE_MATCH) == tag;
    let body = if unchanged { Answer::empty() } else { Answer::bytes(bytes) };
    let mut response = respond::answer(200, content_type, body);
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

fn aggregated_row(row: &Row, version: &str) -> Value {
    let mut one = Value::default();
    one.set(&["resource"], row.plural.clone().into());
    one.set(&["responseKind"], kind_value(&row.group, version, &row.kind));
    one.set(&["scope"], if row.namespaced { "Namespaced" } else { "Cluster" }.into());
    one.set(&["singularResource"], row.singular.clone().into());
    one.set(&["verbs"], texts(&row.verbs));
    if !row.short_names.is_empty() {
        one.set(&["shortNames"], texts(&row.short_names));
    }
    if !row.categories.is_empty() {
        one.set(&["categories"], texts(&row.categories));
    }
    if !row.subresources.is_empty() {
        let parts = row.subresources.iter().map(|part| {
            let mut value = Value::default();
            value.set(&["subresource"], part.name.clone().into());
            let kind = &part.kind;
            let version = if kind.group == row.group { version } else { &kind.version };
            value.set(&["responseKind"], kind_value(&kind.group, version, &kind.kind));
            value.set(&["verbs"], texts(&part.verbs));
            value
        });
        one.set(&["subresources"], parts.collect::<Vec<_>>().into());
    }
    one
}
