//! Loads the committed schema data of the built-in kinds.

use object::schema::{Field, ListKind, Schemas, Struct, Type, TypeId};
use object::{GroupVersionKind, Str, Value, json};
use std::collections::HashMap;
use std::sync::OnceLock;

const DATA: &str = include_str!("../schema/built_in.txt");

struct Loaded {
    schemas: Schemas,
    /// `group/version/kind`, sorted.
    kinds: Vec<(&'static str, TypeId)>,
}

#[expect(clippy::expect_used, reason = "the data is part of the binary, and a test loads it")]
fn loaded() -> &'static Loaded {
    static LOADED: OnceLock<Loaded> = OnceLock::new();
    LOADED.get_or_init(|| parse(DATA).expect("the committed schema data is well-formed"))
}

/// The schemas of the built-in kinds.
#[must_use]
pub fn schemas() -> &'static Schemas {
    &loaded().schemas
}

/// The struct of a built-in kind in one of its versions, lists included (`PodList`).
#[must_use]
pub fn type_id(kind: &GroupVersionKind) -> Option<TypeId> {
    let wanted = [kind.group.as_str(), "/", &kind.version, "/", &kind.kind].concat();
    let kinds = &loaded().kinds;
    kinds.binary_search_by(|known| known.0.cmp(&wanted)).ok().map(|at| kinds[at].1)
}

/// All kinds of the data with their structs: what OpenAPI marks with x-kubernetes-group-version-kind.
pub fn kinds_with_types() -> impl Iterator<Item = (GroupVersionKind, TypeId)> {
    loaded().kinds.iter().filter_map(|(name, id)| {
        let mut parts = name.splitn(3, '/').map(Str::from);
        let (group, version, kind) = (parts.next()?, parts.next()?, parts.next()?);
        Some((GroupVersionKind { group, version, kind }, *id))
    })
}

fn parse(text: &'static str) -> Result<Loaded, String> {
    let mut ids: HashMap<&str, TypeId> = HashMap::with_capacity(1024);
    for line in text.lines() {
        if let Some(header) = line.strip_prefix('=') {
            let id = TypeId(u32::try_from(ids.len()).map_err(|error| error.to_string())?);
            ids.insert(header.split(' ').next().unwrap_or_default(), id);
        }
    }
    let mut structs: Vec<Struct> = Vec::with_capacity(ids.len());
    let mut kinds = Vec::with_capacity(512);
    let mut fields: Vec<Field> = Vec::new();
    let mut package = "";
    for (at, line) in text.lines().enumerate() {
        if line.starts_with('#') {
            continue;
        }
        let Some(header) = line.strip_prefix('=') else {
            let field =
                parse_field(line, package, &ids).map_err(|error| format!("line {}: {error}: {line}", at + 1))?;
            fields.push(field);
            continue;
        };
        close(&mut structs, &mut fields);
        let mut words = header.split(' ');
        let name = words.next().unwrap_or_default();
        package = name.rsplit_once('.').map_or("", |parts| parts.0);
        let id = TypeId(u32::try_from(structs.len()).map_err(|error| error.to_string())?);
        let mut one = Struct { name: Str::const_new(name), fields: Vec::new(), preserve_unknown: false, atomic: false };
        for word in words {
            match word.strip_prefix("k=") {
                Some(kind) => kinds.push((kind, id)),
                None => one.atomic |= word == "atomic",
            }
        }
        structs.push(one);
    }
    close(&mut structs, &mut fields);
    kinds.sort_unstable();
    Ok(Loaded { schemas: Schemas::new(structs), kinds })
}

fn close(structs: &mut [Struct], fields: &mut Vec<Field>) {
    if let Some(last) = structs.last_mut() {
        last.fields = std::mem::take(fields);
        last.fields.shrink_to_fit();
    }
}

fn parse_field(line: &'static str, package: &str, ids: &HashMap<&str, TypeId>) -> Result<Field, String> {
    // A default is JSON and may hold spaces, so it ends the line.
    let (facts, default) = line.split_once(" D=").map_or((line, None), |(facts, json)| (facts, Some(json)));
    let mut words = facts.split(' ');
    let name = words.next().unwrap_or_default();
    let mut word = words.next().ok_or("no type")?;
    let mut number = 0;
    if word.as_bytes().first().is_some_and(u8::is_ascii_digit) {
        number = word.parse().map_err(|_| "a bad number")?;
        word = words.next().ok_or("no type")?;
    }
    let mut field = Field::new(Str::const_new(if name == "~" { "" } else { name }), parse_type(word, package, ids)?);
    field.number = number;
    if matches!(field.kind, Type::Map(_) | Type::Struct(_)) {
        field.list = ListKind::Granular;
    }
    for word in words {
        match word.as_bytes() {
            b"!" => field.required = true,
            b"+" => field.keep_empty = true,
            [b'L', b'=', ..] => {
                field.list = match &word[2..] {
                    "set" => ListKind::Set,
                    "atomic" => ListKind::Atomic,
                    "granular" => ListKind::Granular,
                    map => ListKind::Map(map.trim_start_matches("map:").split(',').map(Str::const_new).collect()),
                }
            }
            [b'P', b'=', ..] => {
                let (strategy, key) = word[2..].split_once(':').unwrap_or((&word[2..], ""));
                field.patch_merge = strategy.split(',').any(|one| one == "merge");
                field.patch_retain_keys = strategy.split(',').any(|one| one == "retainKeys");
                field.patch_merge_key = (!key.is_empty()).then(|| Str::const_new(key));
            }
            _ => return Err(format!("unknown word {word}")),
        }
    }
    if let Some(text) = default {
        field.default = Some(parse_default(text)?);
    }
    Ok(field)
}

fn parse_default(text: &str) -> Result<Value, String> {
    json::decode(text.as_bytes(), &json::Limits::REQUEST)
        .map(|decoded| decoded.value)
        .map_err(|error| error.to_string())
}

fn parse_type(word: &str, package: &str, ids: &HashMap<&str, TypeId>) -> Result<Type, String> {
    Ok(match word.as_bytes() {
        b"b" => Type::Bool,
        b"i" => Type::Int32,
        b"l" => Type::Int64,
        b"f" => Type::Float,
        b"s" => Type::String,
        b"y" => Type::Bytes,
        b"o" => Type::IntOrString,
        b"q" => Type::Quantity,
        b"t" => Type::Time,
        b"u" => Type::MicroTime,
        b"d" => Type::Duration,
        b"a" => Type::Any,
        [b'[', ..] => Type::List(Box::new(parse_type(&word[1..], package, ids)?)),
        [b'{', ..] => Type::Map(Box::new(parse_type(&word[1..], package, ids)?)),
        [b'@', b'.', ..] => {
            let name = [package, &word[1..]].concat();
            Type::Struct(*ids.get(name.as_str()).ok_or_else(|| format!("no definition {name}"))?)
        }
        [b'@', ..] => Type::Struct(*ids.get(&word[1..]).ok_or_else(|| format!("no definition {}", &word[1..]))?),
        _ => return Err(format!("unknown type {word}")),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn kind(group: &str, version: &str, kind: &str) -> GroupVersionKind {
        GroupVersionKind { group: group.into(), version: version.into(), kind: kind.into() }
    }

    #[test]
    fn the_committed_data_loads() {
        let loaded = parse(DATA).unwrap();
        assert!(loaded.schemas.iter().count() > 800);
        for (_, one) in loaded.schemas.iter() {
            assert!(one.fields.windows(2).all(|pair| pair[0].name < pair[1].name), "{}", one.name);
            let mut numbers: Vec<u32> = one.fields.iter().map(|field| field.number).filter(|n| *n > 0).collect();
            numbers.sort_unstable();
            let before = numbers.len();
            numbers.dedup();
            assert_eq!(numbers.len(), before, "{} has a number twice", one.name);
        }
    }

    #[test]
    fn facts_that_clients_rely_on() {
        let schemas = schemas();
        let field = |of: &str, name: &str| {
            schemas.get(schemas.find(&format!("io.k8s.api.{of}")).unwrap()).field(name).unwrap().clone()
        };
        let ports = field("core.v1.Container", "ports");
        assert_eq!(ports.list, ListKind::Map(vec!["containerPort".into(), "protocol".into()]));
        assert_eq!(ports.patch_merge_key.as_deref(), Some("containerPort"));
        let ports = field("core.v1.ServiceSpec", "ports");
        assert_eq!(ports.list, ListKind::Map(vec!["port".into(), "protocol".into()]));
        let volumes = field("core.v1.PodSpec", "volumes");
        assert!(volumes.patch_merge && volumes.patch_retain_keys);
        assert_eq!(field("core.v1.Secret", "data").kind, Type::Map(Box::new(Type::Bytes)));
        assert_eq!(field("core.v1.ResourceRequirements", "limits").kind, Type::Map(Box::new(Type::Quantity)));
        assert!(field("apps.v1.DeploymentSpec", "replicas").keep_empty);
        assert!(!field("core.v1.PodSpec", "hostNetwork").keep_empty);
        assert_eq!(field("core.v1.PodSpec", "restartPolicy").default, Some(Value::from("Always")));
        let pods = type_id(&kind("", "v1", "PodList")).unwrap();
        assert_eq!(schemas.get(pods).name, "io.k8s.api.core.v1.PodList");
        assert!(type_id(&kind("apps", "v1", "Deployment")).is_some());
        assert!(type_id(&kind("apps", "v1", "Pod")).is_none());
    }
}
