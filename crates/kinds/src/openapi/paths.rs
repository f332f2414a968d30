//! The paths of a row, with their operations written in a dialect.

use super::definitions::{Dialect, kind_value, object, strings};
use super::operations::{Kind, Operation, PRETTY, Parameter, adapt_subresource, capital, id_part, operation};
use super::served::Served;
use object::{Map, Value};

/// Media types of plain answers.
pub(super) const ANSWERS: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const WATCH_ANSWERS: [&str; 5] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// Adds the paths of one row; tells `want` each definition they refer to.
pub(super) fn add(served: &Served, dialect: Dialect, paths: &mut Map, want: &mut dyn FnMut(&str)) {
    let part = id_part(&served.group, &served.version);
    let scope = if served.namespaced { "Namespaced" } else { "" };
    let base = format!("/{}", served.prefix());
    let collection = if served.namespaced {
        format!("{base}/namespaces/{{namespace}}/{}", served.plural)
    } else {
        format!("{base}/{}", served.plural)
    };
    let kind = served.group_version_kind();
    let list = served.list_definition();
    let build = |verb: &str, name: &str| operation(verb, &part, name, &served.definition, &list, &kind);
    let named = format!("{scope}{}", served.kind);
    let tag = tag(served);
    let mut put = |path: String, operations: Vec<Operation>, has_name: bool, has_namespace: bool| {
        if operations.is_empty() {
            return;
        }
        for operation in &operations {
            operation.body.iter().chain(&operation.answer).for_each(|name| want(name));
        }
        let mut item = Map::new();
        for operation in &operations {
            item.insert(operation.method, render(operation, dialect, &tag));
        }
        let mut shared = Vec::new();
        if has_name {
            shared.push(path_parameter(dialect, "name", &format!("name of the {}", served.kind)));
        }
        if has_namespace {
            shared.push(path_parameter(
                dialect,
                "namespace",
                "object name and auth scope, such as for teams and projects",
            ));
        }
        shared.push(query_parameter(dialect, PRETTY));
        item.insert("parameters", shared);
        paths.insert(path, item);
    };
    let verbs = |wanted: &[&'static str]| -> Vec<Operation> {
        wanted.iter().filter(|verb| served.has_verb(verb)).filter_map(|verb| build(verb, &named)).collect()
    };
    put(collection.clone(), verbs(&["list", "create", "deletecollection"]), false, served.namespaced);
    put(format!("{collection}/{{name}}"), verbs(&["get", "update", "patch", "delete"]), true, served.namespaced);
    if served.namespaced && served.has_verb("list") {
        let all = build("list", &format!("{}ForAllNamespaces", served.kind));
        put(format!("{base}/{}", served.plural), all.into_iter().collect(), false, false);
    }
    for subresource in &served.subresources {
        let definition = crate::type_id(&subresource.kind).map(|id| crate::schemas().get(id).name.to_string());
        let definition = definition.unwrap_or_else(|| served.definition.to_string());
        let name = format!("{named}{}", capital(&subresource.name));
        let operations = subresource.verbs.iter().filter_map(|verb| {
            let mut one = operation(verb, &part, &name, &definition, &list, &subresource.kind)?;
            adapt_subresource(&subresource.name, &mut one);
            Some(one)
        });
        let operations: Vec<Operation> = operations.collect();
        put(format!("{collection}/{{name}}/{}", subresource.name), operations, true, served.namespaced);
    }
}

/// `apps_v1`: how documents group operations.
fn tag(served: &Served) -> String {
    let group = if served.group.is_empty() { "core" } else { served.group.trim_end_matches(".k8s.io") };
    let mut words = group.split('.');
    let first = words.next().unwrap_or_default().to_owned();
    let rest: String = words.map(capital).collect();
    format!("{first}{rest}_{}", served.version)
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "string",
        Kind::Number => "integer",
        Kind::Flag => "boolean",
    }
}

fn query_parameter(dialect: Dialect, (name, kind): Parameter) -> Value {
    let kind = Value::from(kind_name(kind));
    let place = [("in", Value::from("query")), ("name", Value::from(name))];
    let mut parameter: Map = place.into_iter().collect();
    if dialect == Dialect::V2 {
        parameter.insert("type", kind);
        parameter.insert("uniqueItems", true);
    } else {
        parameter.insert("schema", object([("type", kind), ("uniqueItems", Value::from(true))]));
    }
    Value::Object(parameter)
}

fn path_parameter(dialect: Dialect, name: &str, description: &str) -> Value {
    let Value::Object(mut parameter) = query_parameter(dialect, ("", Kind::Text)) else { return Value::Null };
    parameter.insert("in", "path");
    parameter.insert("name", name);
    parameter.insert("description", description);
    parameter.insert("required", true);
    Value::Object(parameter)
}

fn code_text(code: &str) -> &'static str {
    match code {
        "201" => "Created",
        "202" => "Accepted",
        "401" => "Unauthorized",
        _ => "OK",
    }
}

fn content(types: &[&str], schema: &Value) -> Value {
    Value::Object(types.iter().map(|media| (*media, object([("schema", schema.clone())]))).collect())
}

fn render(operation: &Operation, dialect: Dialect, tag: &str) -> Value {
    let consumes: &[&str] = if operation.method == "patch" { &PATCHES } else { &["*/*"] };
    let produces: &[&str] = match (operation.action, &operation.answer) {
        (_, None) => &["*/*"],
        ("list", _) => &WATCH_ANSWERS,
        _ => &ANSWERS,
    };
    let mut out = Map::new();
    out.insert("operationId", operation.id.clone());
    out.insert("tags", strings([tag]));
    out.insert("x-kubernetes-action", operation.action);
    out.insert("x-kubernetes-group-version-kind", kind_value(&operation.kind));
    let mut parameters: Vec<Value> = operation.parameters.iter().map(|one| query_parameter(dialect, *one)).collect();
    if dialect == Dialect::V2 {
        out.insert("consumes", strings(consumes.iter().copied()));
        out.insert("produces", strings(produces.iter().copied()));
        out.insert("schemes", strings(["https"]));
    }
    if let Some(body) = &operation.body {
        let schema = dialect.reference(body);
        if dialect == Dialect::V2 {
            let mut parameter: Map = [("in", "body"), ("name", "body")].into_iter().collect();
            parameter.insert("schema", schema);
            if operation.body_required {
                parameter.insert("required", true);
            }
            parameters.insert(0, Value::Object(parameter));
        } else {
            let mut request: Map = [("content", content(consumes, &schema))].into_iter().collect();
            if operation.body_required {
                request.insert("required", true);
            }
            out.insert("requestBody", request);
        }
    }
    if !parameters.is_empty() {
        out.insert("parameters", parameters);
    }
    let mut responses = Map::new();
    for code in ["200"].iter().chain(operation.codes) {
        let mut response: Map = [("description", code_text(code))].into_iter().collect();
        let schema = operation
            .answer
            .as_ref()
            .map_or_else(|| object([("type", Value::from("string"))]), |name| dialect.reference(name));
        if dialect == Dialect::V2 {
            response.insert("schema", schema);
        } else {
            response.insert("content", content(produces, &schema));
        }
        responses.insert(*code, response);
    }
    responses.insert("401", object([("description", Value::from(code_text("401")))]));
    out.insert("responses", responses);
    Value::Object(out)
}
