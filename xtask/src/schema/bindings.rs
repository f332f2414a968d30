//! Reads the schemas that k8s-openapi's sources state in their JsonSchema implementations.

use super::draft::{Definition, Draft, Facts};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Types with a notation of their own instead of a struct.
const SPECIAL: &[(&str, &str)] = &[
    ("api.resource.Quantity", "q"),
    ("util.intstr.IntOrString", "o"),
    ("meta.v1.Time", "t"),
    ("meta.v1.MicroTime", "u"),
    ("meta.v1.FieldsV1", "a"),
    ("runtime.RawExtension", "a"),
    ("apiextensions.v1.JSON", "a"),
    ("apiextensions.v1.JSONSchemaPropsOrArray", "a"),
    ("apiextensions.v1.JSONSchemaPropsOrBool", "a"),
    ("apiextensions.v1.JSONSchemaPropsOrStringArray", "a"),
    ("meta.v1.Patch", "a"),
];

struct Found {
    name: String,
    directory: String,
    type_name: String,
    schema: Value,
    kind: Option<(String, String, String)>,
    list_kind: Option<String>,
}

/// Reads all definitions below `root`.
pub(super) fn read(root: &Path, draft: &mut Draft) -> Result<(), String> {
    let mut found = Vec::new();
    walk(root, root, &mut found)?;
    let paths: BTreeMap<String, String> = found
        .iter()
        .map(|one| (format!("crate::{}::{}", one.directory.replace('/', "::"), one.type_name), one.name.clone()))
        .collect();
    for one in found {
        if special(&one.name).is_some() || one.name.ends_with("meta.v1.WatchEvent") {
            continue;
        }
        if let Some((prefix, _)) = one.name.rsplit_once('.') {
            draft.prefixes.insert(one.directory.clone(), prefix.to_owned());
        }
        let mut definition = Definition {
            kinds: one.kind.clone().into_iter().collect(),
            binding: Some(format!("{}::{}", one.directory.replace('/', "::"), one.type_name)),
            origin: (one.directory.clone(), one.type_name.clone()),
            ..Definition::default()
        };
        let required: Vec<&str> =
            one.schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, schema) in one.schema["properties"].as_object().into_iter().flatten() {
            let kind = kind_of(schema, &paths).map_err(|error| format!("{}.{name}: {error}", one.name))?;
            let facts = Facts { kind, required: required.contains(&name.as_str()), ..Facts::default() };
            definition.fields.insert(name.clone(), facts);
        }
        if let (Some(list_kind), Some((group, version, _))) = (one.list_kind, one.kind) {
            add_list(draft, &one.name, &one.directory, &list_kind, (group, version));
        }
        draft.definitions.insert(one.name, definition);
    }
    Ok(())
}

fn special(name: &str) -> Option<&'static str> {
    SPECIAL.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, notation)| *notation)
}

fn add_list(draft: &mut Draft, item: &str, directory: &str, list_kind: &str, group_version: (String, String)) {
    let prefix = item.rsplit_once('.').map_or("", |parts| parts.0);
    let field = |kind: &str, number: Option<u32>| Facts { kind: kind.to_owned(), number, ..Facts::default() };
    let mut definition = Definition {
        kinds: vec![(group_version.0, group_version.1, list_kind.to_owned())],
        origin: (directory.to_owned(), list_kind.to_owned()),
        ..Definition::default()
    };
    definition.fields.insert("apiVersion".into(), field("s", None));
    definition.fields.insert("kind".into(), field("s", None));
    definition.fields.insert("metadata".into(), field("@io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta", Some(1)));
    let mut items = field(&format!("[@{item}"), Some(2));
    items.required = true;
    items.keep = Some(true);
    definition.fields.insert("items".into(), items);
    draft.definitions.insert(format!("{prefix}.{list_kind}"), definition);
}

fn kind_of(schema: &Value, paths: &BTreeMap<String, String>) -> Result<String, String> {
    if let Some(path) = schema["$ref"].as_str() {
        let name = paths.get(path).ok_or_else(|| format!("{path} is no known type"))?;
        return Ok(special(name).map_or_else(|| format!("@{name}"), str::to_owned));
    }
    let format = schema["format"].as_str().unwrap_or_default();
    Ok(match (schema["type"].as_str().unwrap_or_default(), format) {
        ("string", "byte") => "y".to_owned(),
        ("string", _) => "s".to_owned(),
        ("boolean", _) => "b".to_owned(),
        ("integer", "int32") => "i".to_owned(),
        ("integer", _) => "l".to_owned(),
        ("number", _) => "f".to_owned(),
        ("array", _) => format!("[{}", kind_of(&schema["items"], paths)?),
        ("object", _) if schema["additionalProperties"].is_null() => "a".to_owned(),
        ("object", _) => format!("{{{}", kind_of(&schema["additionalProperties"], paths)?),
        _ => "a".to_owned(),
    })
}

fn walk(root: &Path, directory: &Path, found: &mut Vec<Found>) -> Result<(), String> {
    let entries = std::fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.is_dir() {
            walk(root, &path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            let relative = directory.strip_prefix(root).unwrap_or(directory).to_string_lossy().into_owned();
            read_file(&text, &relative, found).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}

fn quoted_after<'a>(text: &'a str, marker: &str) -> Option<&'a str> {
    let rest = &text[text.find(marker)? + marker.len()..];
    let start = rest.find('"')? + 1;
    let end = start + rest[start..].find('"')?;
    Some(&rest[start..end])
}

fn read_file(text: &str, directory: &str, found: &mut Vec<Found>) -> Result<(), String> {
    let marker = "impl crate::schemars::JsonSchema for ";
    let Some(at) = text.find(marker) else { return Ok(()) };
    let rest = &text[at + marker.len()..];
    let type_name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
    let Some(name) = quoted_after(rest, "fn schema_name()") else { return Ok(()) };
    let Some(start) = rest.find("json_schema!(") else { return Ok(()) };
    let mut literal = Literal { text: &rest[start + "json_schema!(".len()..] };
    let schema = literal.value()?;
    let kind = quoted_after(text, "const KIND: ").map(|kind| {
        let part = |marker| quoted_after(text, marker).unwrap_or_default().to_owned();
        (part("const GROUP: "), part("const VERSION: "), kind.to_owned())
    });
    let list_kind = quoted_after(text, "const LIST_KIND: ").map(str::to_owned);
    found.push(Found { name: name.to_owned(), directory: directory.to_owned(), type_name, schema, kind, list_kind });
    Ok(())
}

/// The argument of `json_schema!`: JSON with trailing commas, Rust strings, and expressions in parentheses.
struct Literal<'a> {
    text: &'a str,
}

impl Literal<'_> {
    fn peek(&mut self) -> Option<char> {
        self.text = self.text.trim_start();
        self.text.chars().next()
    }

    fn bump(&mut self) {
        let mut characters = self.text.chars();
        characters.next();
        self.text = characters.as_str();
    }

    fn expect(&mut self, expected: char) -> Result<(), String> {
        if self.peek() != Some(expected) {
            return Err(format!("expected {expected:?} before {:?}", self.text.chars().take(40).collect::<String>()));
        }
        self.bump();
        Ok(())
    }

    fn value(&mut self) -> Result<Value, String> {
        match self.peek() {
            Some('{') => {
                self.bump();
                let mut map = Map::new();
                while self.peek() != Some('}') {
                    let key = self.string()?;
                    self.expect(':')?;
                    let value = self.value()?;
                    map.insert(key, value);
                    if self.peek() == Some(',') {
                        self.bump();
                    }
                }
                self.bump();
                Ok(Value::Object(map))
            }
            Some('[') => {
                self.bump();
                let mut list = Vec::new();
                while self.peek() != Some(']') {
                    list.push(self.value()?);
                    if self.peek() == Some(',') {
                        self.bump();
                    }
                }
                self.bump();
                Ok(Value::Array(list))
            }
            Some('"') => self.string().map(Value::String),
            Some('(') => self.expression(),
            Some('_') => {
                let end = self.text.find(">()").ok_or("an expression without its type's end")? + 3;
                let path = self.text[..end - 3].rsplit("::<").next().unwrap_or_default().to_owned();
                self.text = &self.text[end..];
                Ok(serde_json::json!({ "$ref": path }))
            }
            Some(_) => {
                let end = self.text.find([',', '}', ']', '\n']).ok_or("the text ends within a value")?;
                let word = self.text[..end].trim();
                let value = serde_json::from_str(word).map_err(|error| format!("{word}: {error}"))?;
                self.text = &self.text[end..];
                Ok(value)
            }
            None => Err("the text ends within a value".to_owned()),
        }
    }

    fn string(&mut self) -> Result<String, String> {
        self.expect('"')?;
        let mut result = String::new();
        let mut characters = self.text.chars();
        while let Some(character) = characters.next() {
            match character {
                '"' => {
                    self.text = characters.as_str();
                    return Ok(result);
                }
                '\\' => match characters.next() {
                    Some('n') => result.push('\n'),
                    Some('t') => result.push('\t'),
                    Some('r') => result.push('\r'),
                    Some('u') => {
                        let digits: String = characters.by_ref().skip(1).take_while(|c| *c != '}').collect();
                        let code = u32::from_str_radix(&digits, 16).map_err(|error| error.to_string())?;
                        result.extend(char::from_u32(code));
                    }
                    Some(other) => result.push(other),
                    None => break,
                },
                other => result.push(other),
            }
        }
        Err("a string does not end".to_owned())
    }

    fn expression(&mut self) -> Result<Value, String> {
        let marker = "subschema_for::<";
        let start = self.text.find(marker).ok_or("an expression without subschema_for")? + marker.len();
        let end = start + self.text[start..].find('>').ok_or("an expression without its type's end")?;
        let path = self.text[start..end].to_owned();
        let mut depth = 0usize;
        while let Some(character) = self.peek() {
            match character {
                '"' => {
                    self.string()?;
                    continue;
                }
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            self.bump();
            if depth == 0 {
                break;
            }
        }
        Ok(serde_json::json!({ "$ref": path }))
    }
}
