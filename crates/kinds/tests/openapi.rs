//! The OpenAPI documents say what upstream's say.
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use klynge_kinds::openapi::{Served, ServedSubresource, v2, v2_protobuf, v3, v3_index};
use object::json::{Limits, decode, encode};
use object::{GroupVersionKind, Str, Value};
use std::io::Read as _;

fn words(list: &[&str]) -> Vec<Str> {
    list.iter().map(|word| Str::from(*word)).collect()
}

fn row(group: &str, version: &str, kind: &str, package: &str) -> Served {
    let own = |group: &str, version: &str, kind: &str| GroupVersionKind {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
    };
    Served {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        list_kind: format!("{kind}List").into(),
        definition: format!("{package}.{version}.{kind}").into(),
        plural: format!("{}s", kind.to_lowercase()).into(),
        namespaced: kind != "Node" && kind != "CustomResourceDefinition",
        verbs: words(&["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]),
        subresources: vec![
            ServedSubresource {
                name: "status".into(),
                kind: own(group, version, kind),
                verbs: words(&["get", "patch", "update"]),
            },
            ServedSubresource {
                name: "scale".into(),
                kind: own("autoscaling", "v1", "Scale"),
                verbs: words(&["get", "patch", "update"]),
            },
        ],
    }
}

fn rows() -> Vec<Served> {
    vec![
        row("", "v1", "Pod", "io.k8s.api.core"),
        row("", "v1", "Node", "io.k8s.api.core"),
        row("apps", "v1", "Deployment", "io.k8s.api.apps"),
        row(
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions",
        ),
    ]
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter() {
                match value.as_str() {
                    Some(text) if key == "$ref" => found.push(text.rsplit('/').next().unwrap().to_owned()),
                    _ => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn kubectl_finds_what_it_looks_for() {
    let document = v3(&rows(), "apps", "v1", "v1.37.0").unwrap();
    let patch = document.at(&["paths", "/apis/apps/v1/namespaces/{namespace}/deployments/{name}", "patch"]).unwrap();
    assert_eq!(patch.str_at(&["x-kubernetes-group-version-kind", "kind"]), Some("Deployment"));
    assert_eq!(patch.str_at(&["x-kubernetes-action"]), Some("patch"));
    assert_eq!(patch.str_at(&["operationId"]), Some("patchAppsV1NamespacedDeployment"));
    let names: Vec<&str> =
        patch.get("parameters").unwrap().as_array().unwrap().iter().map(|one| one.str_at(&["name"]).unwrap()).collect();
    assert!(names.contains(&"fieldValidation") && names.contains(&"dryRun"));
    let replicas =
        document.at(&["components", "schemas", "io.k8s.api.apps.v1.DeploymentSpec", "properties", "replicas"]).unwrap();
    assert!(replicas.str_at(&["description"]).unwrap().contains("Number of desired pods"));
    assert_eq!(replicas.i64_at(&["default"]), Some(1));
    let scale =
        document.at(&["paths", "/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale", "get", "operationId"]);
    assert_eq!(scale.unwrap().as_str(), Some("readAppsV1NamespacedDeploymentScale"));
    assert!(v3(&rows(), "apps", "v9", "v1.37.0").is_none());
    let index = v3_index(&rows(), "v1.37.0");
    assert!(
        index
            .str_at(&["paths", "apis/apps/v1", "serverRelativeURL"])
            .unwrap()
            .starts_with("/openapi/v3/apis/apps/v1?hash=")
    );
    assert!(index.at(&["paths", "api/v1"]).is_some());
}

#[test]
fn every_reference_leads_somewhere() {
    let document = v2(&rows(), "v1.37.0");
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 300);
    for name in found {
        assert!(document.at(&["definitions", &name]).is_some(), "{name}");
    }
}

#[test]
fn the_protobuf_form_holds_the_definitions() {
    let document = v2(&rows(), "v1.37.0");
    let started = std::time::Instant::now();
    let bytes = v2_protobuf(&document);
    eprintln!("v2: {} bytes of JSON, {} of protobuf in {:?}", encode(&document).len(), bytes.len(), started.elapsed());
    // swagger = 1
    assert!(bytes.starts_with(b"\x0a\x032.0"));
    let contains = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(contains("io.k8s.api.core.v1.PodSpec"));
    assert!(contains("x-kubernetes-group-version-kind"));
    // NamedSchema { name, value } with the value's $ref in field 1, as in Pod.spec.
    assert!(contains("\x0a\x04spec\x12"));
    assert!(contains("#/definitions/io.k8s.api.core.v1.PodSpec"));
}

/// What of a schema is compared: everything but prose, and markers that only one side has by its age.
fn facts(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(key, value)| *key != "description" || value.as_str().is_none())
                .map(|(key, value)| (key, facts(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(facts).collect()),
        other => other.clone(),
    }
}

/// Definitions whose members were renamed in 1.37.
fn renamed(definition: &str) -> bool {
    definition.ends_with("NodeAllocatableResourceClaimStatus")
}

#[test]
fn definitions_agree_with_the_published_document() {
    let root = std::env::var_os("KLYNGE_FIXTURES").map_or_else(
        || std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/kubernetes"),
        Into::into,
    );
    let Ok(file) = std::fs::File::open(root.join("swagger-1.36.json.gz")) else {
        eprintln!("SKIPPED: no swagger-1.36.json.gz in {} (set KLYNGE_FIXTURES)", root.display());
        return;
    };
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut text).unwrap();
    let limits = Limits { bytes: 64 << 20, depth: 100, nodes: 10 << 20 };
    let published = decode(&text, &limits).unwrap().value;
    let ours = v2(&rows(), "v1.37.0");
    let (mut compared, mut found) = (0, Vec::new());
    for (name, definition) in ours.get("definitions").unwrap().as_object().unwrap().iter() {
        let Some(theirs) = published.at(&["definitions", name]) else { continue };
        for member in ["type", "required", "x-kubernetes-map-type"] {
            let sorted = |value: &Value| {
                let mut words: Vec<String> =
                    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
                words.sort();
                (words, value.as_str().map(str::to_owned))
            };
            let (ours, theirs) = (definition.get(member), theirs.get(member));
            if ours.map(sorted) != theirs.map(sorted) && !renamed(name) {
                found.push(format!("{name} {member}: {ours:?} published {theirs:?}"));
            }
        }
        let empty = object::Map::new();
        let theirs = theirs.get("properties").and_then(Value::as_object).unwrap_or(&empty).clone();
        for (member, theirs) in theirs.iter() {
            compared += 1;
            match definition.at(&["properties", member]) {
                None if renamed(name) => {}
                None => found.push(format!("{name}.{member}: missing")),
                Some(ours) => {
                    let (mut ours, mut theirs) = (facts(ours), facts(theirs));
                    // Lists without a marker are atomic; the document leaves that unsaid for older members.
                    for side in [&mut ours, &mut theirs] {
                        if side.str_at(&["x-kubernetes-list-type"]) == Some("atomic") {
                            side.remove(&["x-kubernetes-list-type"]);
                        }
                    }
                    if ours != theirs {
                        let text = |value: &Value| String::from_utf8(encode(value)).unwrap();
                        found.push(format!("{name}.{member}: {} published {}", text(&ours), text(&theirs)));
                    }
                }
            }
        }
    }
    eprintln!("{compared} members compared");
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}
