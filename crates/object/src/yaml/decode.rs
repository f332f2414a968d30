//! YAML to the value tree: without recursion, and with budgets that also hold for what aliases expand to.

use super::scalar;
use crate::codec::{DUPLICATES_MAX, DecodeError, Decoded, Limits};
use crate::{Map, Str, Value};
use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, Tag};
use std::collections::HashMap;

/// How many times its own size a document may expand to through aliases, in bytes of text.
const EXPANSION_FACTOR: usize = 4;

/// Decodes the first document; nothing at all is null. Duplicate keys are reported, the last one counts; `<<` merges.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Decoded, DecodeError> {
    if bytes.len() > limits.bytes {
        return Err(DecodeError::size(bytes.len(), limits.bytes));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| DecodeError::new("invalid UTF-8 in YAML input", error.valid_up_to()))?;
    let mut options = Options::default();
    options.flow_nesting_limit = limits.depth.min(255);
    options.block_nesting_limit = limits.depth.min(255);
    let mut builder = Builder {
        open: Vec::new(),
        anchors: HashMap::new(),
        nodes_left: limits.nodes,
        bytes_left: limits.bytes.min(bytes.len().saturating_mul(EXPANSION_FACTOR) + 1024),
        depth: limits.depth,
        duplicates: Vec::new(),
        root: None,
    };
    for next in Parser::new_from_str_with_options(text.trim_start_matches('\u{feff}'), options) {
        let (event, span) = next.map_err(|error| {
            DecodeError::new(format!("yaml: line {}: {}", error.marker().line(), error.info()), error.marker().index())
        })?;
        let at = span.start.index();
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar_value(&text, style, tag.as_deref(), at)?;
                builder.spend(1, text.len(), at)?;
                if style == ScalarStyle::Plain && text == "<<" && builder.merge_follows() {
                    continue;
                }
                builder.finish(value, anchor, at)?;
            }
            Event::SequenceStart(_, anchor, _) => builder.start(Open::list(anchor), at)?,
            Event::MappingStart(_, anchor, _) => builder.start(Open::map(anchor), at)?,
            Event::SequenceEnd | Event::MappingEnd => builder.end(at)?,
            Event::Alias(anchor) => builder.alias(anchor, at)?,
            Event::DocumentEnd => break,
            _ => {}
        }
    }
    Ok(Decoded { value: builder.root.unwrap_or_default(), duplicates: builder.duplicates })
}

fn scalar_value(text: &str, style: ScalarStyle, tag: Option<&Tag>, at: usize) -> Result<Value, DecodeError> {
    let tag = tag.and_then(|tag| tag.core_suffix());
    Ok(match (tag, style) {
        (Some("str" | "binary"), _) => Value::from(text),
        (Some("null"), _) => Value::Null,
        (None, ScalarStyle::Plain) | (Some("int" | "bool"), _) => scalar::plain(text),
        (Some("float"), _) => match scalar::plain(text) {
            Value::Int(number) => Value::Float(number as f64),
            Value::Float(number) => Value::Float(number),
            _ => return Err(DecodeError::new(format!("yaml: cannot decode {text} as a float"), at)),
        },
        _ => Value::from(text),
    })
}

/// A list or map that is being filled.
struct Open {
    is_map: bool,
    anchor: usize,
    items: Vec<Value>,
    members: Vec<(Str, Value)>,
    merged: Vec<Value>,
    key: Option<Key>,
    // What its content cost, should it be repeated by an alias.
    nodes: usize,
    bytes: usize,
}

enum Key {
    Name(Str),
    Merge,
}

impl Open {
    fn new(is_map: bool, anchor: usize) -> Self {
        Open {
            is_map,
            anchor,
            items: Vec::new(),
            members: Vec::new(),
            merged: Vec::new(),
            key: None,
            nodes: 1,
            bytes: 0,
        }
    }
    fn list(anchor: usize) -> Self {
        Self::new(false, anchor)
    }
    fn map(anchor: usize) -> Self {
        Self::new(true, anchor)
    }
}

struct Anchored {
    value: Value,
    nodes: usize,
    bytes: usize,
    depth: usize,
}

struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    nodes_left: usize,
    bytes_left: usize,
    depth: usize,
    duplicates: Vec<String>,
    root: Option<Value>,
}

impl Builder {
    fn spend(&mut self, nodes: usize, bytes: usize, at: usize) -> Result<(), DecodeError> {
        let left = (self.nodes_left.checked_sub(nodes), self.bytes_left.checked_sub(bytes));
        let (Some(nodes_left), Some(bytes_left)) = left else {
            return Err(DecodeError::limit("yaml: document contains excessive aliasing or too many values", at));
        };
        (self.nodes_left, self.bytes_left) = (nodes_left, bytes_left);
        if let Some(open) = self.open.last_mut() {
            open.nodes += nodes;
            open.bytes += bytes;
        }
        Ok(())
    }

    fn start(&mut self, open: Open, at: usize) -> Result<(), DecodeError> {
        if self.open.len() >= self.depth {
            return Err(DecodeError::limit("yaml: exceeded max depth", at));
        }
        self.nodes_left = self
            .nodes_left
            .checked_sub(1)
            .ok_or_else(|| DecodeError::limit("yaml: the document holds too many values", at))?;
        self.open.push(open);
        Ok(())
    }

    fn end(&mut self, at: usize) -> Result<(), DecodeError> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        if let Some(outer) = self.open.last_mut() {
            outer.nodes += open.nodes;
            outer.bytes += open.bytes;
        }
        let (anchor, nodes, bytes) = (open.anchor, open.nodes, open.bytes);
        let value = if open.is_map { self.close_map(open, at)? } else { Value::Array(open.items) };
        if anchor > 0 {
            // An anchor costs a copy too.
            self.spend(nodes, bytes, at)?;
            self.anchors.insert(anchor, Anchored { depth: depth_of(&value), value: value.clone(), nodes, bytes });
        }
        self.place(value, at)
    }

    fn close_map(&mut self, open: Open, at: usize) -> Result<Value, DecodeError> {
        let (map, twice) = Map::from_members(open.members);
        if !twice.is_empty() {
            let way = self.path();
            let dot = if way.is_empty() { "" } else { "." };
            let room = DUPLICATES_MAX.saturating_sub(self.duplicates.len());
            self.duplicates.extend(twice.into_iter().take(room).map(|key| format!("{way}{dot}{key}")));
        }
        if open.merged.is_empty() {
            return Ok(Value::Object(map));
        }
        // Of equal keys the last stays: the map's own members come last, and an earlier source after a later one.
        let sources = open.merged.into_iter().flat_map(|source| match source {
            Value::Array(sources) => sources,
            other => vec![other],
        });
        let mut members = Vec::new();
        for source in sources.collect::<Vec<_>>().into_iter().rev() {
            let Value::Object(source) = source else {
                return Err(DecodeError::new("yaml: map merge requires map or sequence of maps as the value", at));
            };
            members.extend(source);
        }
        members.extend(map);
        let map = Map::from_members(members).0;
        Ok(Value::Object(map))
    }

    /// Where the builder stands, as a path.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            if !open.is_map {
                path.push_str(&format!("[{}]", open.items.len()));
            } else if let Some(Key::Name(name)) = &open.key {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
            }
        }
        path
    }

    fn alias(&mut self, anchor: usize, at: usize) -> Result<(), DecodeError> {
        let Some(known) = self.anchors.get(&anchor) else {
            return Err(DecodeError::new("yaml: an alias refers to a value that contains it", at));
        };
        if self.open.len() + known.depth > self.depth {
            return Err(DecodeError::limit("yaml: exceeded max depth", at));
        }
        // Budgets first: the copy is what an alias bomb multiplies.
        let (nodes, bytes) = (known.nodes, known.bytes);
        self.spend(nodes, bytes, at)?;
        let value = self.anchors.get(&anchor).map(|known| known.value.clone()).unwrap_or_default();
        self.place(value, at)
    }

    /// Takes `<<` as a map's key; false where it is a value.
    fn merge_follows(&mut self) -> bool {
        match self.open.last_mut() {
            Some(open) if open.is_map && open.key.is_none() => {
                open.key = Some(Key::Merge);
                true
            }
            _ => false,
        }
    }

    fn finish(&mut self, value: Value, anchor: usize, at: usize) -> Result<(), DecodeError> {
        if anchor > 0 {
            let bytes = value.as_str().map_or(0, str::len);
            self.spend(1, bytes, at)?;
            self.anchors.insert(anchor, Anchored { value: value.clone(), nodes: 1, bytes, depth: 0 });
        }
        self.place(value, at)
    }

    fn place(&mut self, value: Value, at: usize) -> Result<(), DecodeError> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(value);
            return Ok(());
        };
        if !open.is_map {
            open.items.push(value);
            return Ok(());
        }
        match open.key.take() {
            None => {
                let name = scalar::key(value)
                    .ok_or_else(|| DecodeError::new("yaml: a list or map can't be the key of a map", at))?;
                open.key = Some(Key::Name(name));
            }
            Some(Key::Name(name)) => open.members.push((name, value)),
            Some(Key::Merge) => open.merged.push(value),
        }
        Ok(())
    }
}

/// Bounded by the nesting limit that its parts were read under.
fn depth_of(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth_of).max().unwrap_or(0),
        Value::Object(map) => 1 + map.iter().map(|(_, value)| depth_of(value)).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn json(text: &str) -> String {
        let decoded = decode(text.as_bytes(), &Limits::REQUEST).unwrap();
        String::from_utf8(crate::json::encode(&decoded.value)).unwrap()
    }

    #[test]
    fn scalars_follow_the_rules_that_manifests_are_written_for() {
        for (text, expected) in [
            ("a: yes", r#"{"a":true}"#),
            ("a: 'yes'", r#"{"a":"yes"}"#),
            ("a: off", r#"{"a":false}"#),
            ("a: ~", r#"{"a":null}"#),
            ("a:", r#"{"a":null}"#),
            ("a: 0755", r#"{"a":493}"#),
            ("a: 0x1f", r#"{"a":31}"#),
            ("a: 0o17", r#"{"a":15}"#),
            ("a: 09", r#"{"a":9}"#),
            ("a: 1_000", r#"{"a":1000}"#),
            ("a: -12", r#"{"a":-12}"#),
            ("a: 1.5", r#"{"a":1.5}"#),
            ("a: 1e3", r#"{"a":1000}"#),
            ("a: 1.2.3", r#"{"a":"1.2.3"}"#),
            ("a: 2026-11-23", r#"{"a":"2026-11-23"}"#),
            ("a: 10.0.0.1", r#"{"a":"10.0.0.1"}"#),
            ("a: 100m", r#"{"a":"100m"}"#),
            ("a: --x", r#"{"a":"--x"}"#),
            ("a: !!str 1", r#"{"a":"1"}"#),
            ("80: x\ntrue: y1", r#"{"80":"x","true":"y1"}"#),
            ("a: |\n  x\n  y\n", r#"{"a":"x\ny\n"}"#),
            ("- 1\n- [a, {b: c}]", r#"[1,["a",{"b":"c"}]]"#),
            ("", "null"),
            ("a: 1\n---\nb: 2", r#"{"a":1}"#),
            ("x: &x {a: 1}\nz: {<<: [*x, {a: 2, c: 2}], b: 3}", r#"{"x":{"a":1},"z":{"a":1,"b":3,"c":2}}"#),
            ("x: &x {a: 1, b: 2}\nz: {<<: *x, b: 3}", r#"{"x":{"a":1,"b":2},"z":{"a":1,"b":3}}"#),
        ] {
            assert_eq!(json(text), expected, "{text}");
        }
    }

    #[test]
    fn duplicates_have_paths() {
        let decoded = decode(b"spec:\n  list:\n  - a: 1\n    a: 2\nspec2: {}\nspec2: 1\n", &Limits::REQUEST).unwrap();
        assert_eq!(decoded.duplicates, ["spec.list[0].a", "spec2"]);
    }

    #[test]
    fn bombs_are_refused_before_they_go_off() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let items = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }
        assert!(decode(bomb.as_bytes(), &Limits::REQUEST).unwrap_err().too_large);
        let long = format!("a: &a {}\nb: [{}]", "x".repeat(10_000), vec!["*a"; 1000].join(","));
        assert!(decode(long.as_bytes(), &Limits::REQUEST).unwrap_err().too_large);
        assert!(decode("[".repeat(5000).as_bytes(), &Limits::REQUEST).is_err());
        assert!(decode(b"a: &a [*a]", &Limits::REQUEST).is_err());
        assert!(decode(b"a: [", &Limits::REQUEST).is_err());
        assert!(decode(b"a: *nobody", &Limits::REQUEST).is_err());
    }
}
