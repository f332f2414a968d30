//! Upstream's serialization fixtures: protobuf and JSON of the same object are the same tree, in both directions.
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use klynge_kinds::{schemas, type_id};
use object::json::{Limits, decode as decode_json, encode as encode_json};
use object::{GroupVersionKind, Map, Value, proto};
use std::path::PathBuf;

fn fixtures() -> Option<PathBuf> {
    let root = match std::env::var_os("KLYNGE_FIXTURES") {
        Some(directory) => PathBuf::from(directory),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/kubernetes"),
    };
    let directory = root.join("testdata-1.36");
    if directory.is_dir() {
        return Some(directory);
    }
    eprintln!("SKIPPED: no fixtures at {} (set KLYNGE_FIXTURES)", directory.display());
    None
}

/// What the two encodings can't agree on: nulls, and empty members that only one of them can express.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key, plain(value))).collect::<Map>(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(plain).collect()),
        Value::Float(number) if number.fract() == 0.0 => Value::Int(*number as i64),
        other => other.clone(),
    }
}

fn differences(path: &str, left: &Value, right: &Value, found: &mut Vec<String>) {
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&str> = a.keys().chain(b.keys()).collect();
            for key in keys {
                differences(
                    &format!("{path}.{key}"),
                    a.get(key).unwrap_or(&Value::Null),
                    b.get(key).unwrap_or(&Value::Null),
                    found,
                );
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{at}]"), a, b, found);
            }
        }
        (a, b) if a == b => {}
        (a, b) => {
            let text =
                |value: &Value| String::from_utf8(encode_json(value)).unwrap().chars().take(120).collect::<String>();
            found.push(format!("{path}: protobuf {} json {}", text(a), text(b)));
        }
    }
}

#[test]
fn protobuf_and_json_fixtures_are_the_same_trees() {
    let Some(directory) = fixtures() else { return };
    let (mut checked, mut identical, mut unknown, mut found) = (0, 0, Vec::new(), Vec::new());
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "pb")) {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).unwrap();
        let envelope = proto::envelope::unwrap(&bytes).unwrap();
        let kind = GroupVersionKind::parse(&envelope.api_version, &envelope.kind);
        let Some(id) = type_id(&kind) else {
            unknown.push(name);
            continue;
        };
        let mut json = decode_json(&std::fs::read(path.with_extension("json")).unwrap(), &Limits::REQUEST).unwrap();
        assert!(json.duplicates.is_empty());
        // The fixtures are one version older than the data: these members were renamed since.
        let pruned = object::schema::prune(schemas(), id, &mut json.value);
        let renamed = |path: &String| path.contains("nodeAllocatableResource");
        found.extend(pruned.iter().filter(|path| !renamed(path)).map(|path| format!("{name}: unknown {path}")));
        assert_eq!(object::schema::check_types(schemas(), id, &json.value), [], "{name}");
        let mut from_proto = proto::decode(schemas(), id, envelope.raw, &Limits::REQUEST).unwrap();
        object::meta::set_group_version_kind(&mut from_proto, &kind);
        differences(&name, &plain(&from_proto), &plain(&json.value), &mut found);
        let encoded = match proto::encode(schemas(), id, &json.value) {
            Ok(encoded) => encoded,
            Err(error) => {
                found.push(format!("{name}: {error}"));
                continue;
            }
        };
        let back = proto::decode(schemas(), id, &encoded, &Limits::REQUEST).unwrap();
        let mut again = back;
        object::meta::set_group_version_kind(&mut again, &kind);
        differences(&format!("{name} (again)"), &plain(&again), &plain(&from_proto), &mut found);
        identical += usize::from(proto::envelope::wrap(&envelope.api_version, &envelope.kind, &encoded) == bytes);
        checked += 1;
    }
    eprintln!(
        "{checked} fixtures checked, {identical} of them byte-equal when written again; kinds not served: {unknown:?}"
    );
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
    assert!(checked > 90);
}
