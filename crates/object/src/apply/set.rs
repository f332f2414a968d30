//! A set of field paths as a tree: what fieldsV1 holds.

use crate::{Map, Str, Value, json};
use std::collections::BTreeMap;

/// The deepest path that is read; objects are decoded with a smaller limit.
const DEPTH_MAX: usize = 512;

/// Paths below one node. Elements are kept as fieldsV1 writes them: `f:name`, `k:{"name":"a"}`, `v:"a"`, `i:0`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Whether the node itself is in the set.
    pub member: bool,
    /// What is below it.
    pub children: BTreeMap<Str, Set>,
}

impl Set {
    /// True without any path.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(Set::is_empty)
    }

    /// The node below an element, made where it is missing.
    pub fn child(&mut self, element: impl Into<Str>) -> &mut Set {
        self.children.entry(element.into()).or_default()
    }

    /// Paths in either.
    pub fn union(&mut self, other: &Set) {
        self.member |= other.member;
        for (element, set) in &other.children {
            self.child(element.clone()).union(set);
        }
    }

    /// Paths in this set and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Set) -> Set {
        let none = Set::default();
        let below = |(element, set): (&Str, &Set)| {
            let rest = set.difference(other.children.get(element).unwrap_or(&none));
            (!rest.is_empty()).then(|| (element.clone(), rest))
        };
        Set { member: self.member && !other.member, children: self.children.iter().filter_map(below).collect() }
    }

    /// Paths in both.
    #[must_use]
    pub fn intersection(&self, other: &Set) -> Set {
        let below = |(element, set): (&Str, &Set)| {
            let both = set.intersection(other.children.get(element)?);
            (!both.is_empty()).then(|| (element.clone(), both))
        };
        Set { member: self.member && other.member, children: self.children.iter().filter_map(below).collect() }
    }

    /// Takes the subtree at a path of elements away.
    pub fn remove(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else { return };
        if rest.is_empty() {
            self.children.remove(*first);
        } else if let Some(child) = self.children.get_mut(*first) {
            child.remove(rest);
            if child.is_empty() {
                self.children.remove(*first);
            }
        }
    }

    /// Every path, as errors write them: `.spec.containers[name="a"].image`.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        if self.member {
            paths.push(prefix.to_owned());
        }
        for (element, set) in &self.children {
            set.collect(&format!("{prefix}{}", shown(element)), paths);
        }
    }

    /// Reads fieldsV1.
    #[must_use]
    pub fn from_fields(fields: &Value) -> Set {
        let mut set = Set::default();
        read(fields, &mut set, 0);
        set
    }

    /// Writes fieldsV1.
    #[must_use]
    pub fn to_fields(&self) -> Value {
        let mut map = Map::new();
        for (element, set) in self.children.iter().filter(|(_, set)| !set.is_empty()) {
            let mut below = set.to_fields();
            if set.member && set.children.values().any(|one| !one.is_empty()) {
                below.set(&["."], Value::Object(Map::new()));
            }
            map.insert(element.clone(), below);
        }
        Value::Object(map)
    }
}

fn read(fields: &Value, set: &mut Set, depth: usize) {
    let Some(map) = fields.as_object() else { return };
    if depth > 0 && map.is_empty() {
        set.member = true;
    }
    if depth >= DEPTH_MAX {
        return;
    }
    for (element, below) in map.iter() {
        if element == "." {
            set.member = true;
        } else if let Some(element) = canonical(element) {
            read(below, set.child(element), depth + 1);
        }
    }
}

/// The element with its JSON in our spelling, so that equal elements are equal texts; None for what is none.
fn canonical(element: &str) -> Option<Str> {
    let (kind, rest) = element.split_at_checked(2)?;
    match kind {
        "f:" | "i:" => Some(element.into()),
        "k:" | "v:" => {
            let value = json::decode(rest.as_bytes(), &crate::Limits::default()).ok()?.value;
            Some(json_element(kind, &value))
        }
        _ => None,
    }
}

/// An element that holds JSON.
pub(super) fn json_element(kind: &str, value: &Value) -> Str {
    let mut text = kind.as_bytes().to_vec();
    json::encode_into(value, &mut text);
    String::from_utf8_lossy(&text).into()
}

/// An element as errors write it.
pub(super) fn shown(element: &str) -> String {
    let Some((kind, rest)) = element.split_at_checked(2) else { return element.to_owned() };
    match kind {
        "f:" => format!(".{rest}"),
        "v:" => format!("[={rest}]"),
        "k:" => {
            let Ok(decoded) = json::decode(rest.as_bytes(), &crate::Limits::default()) else {
                return format!("[{rest}]");
            };
            let keys = decoded.value.as_object().into_iter().flat_map(Map::iter);
            let keys: Vec<String> =
                keys.map(|(key, value)| format!("{key}={}", String::from_utf8_lossy(&json::encode(value)))).collect();
            format!("[{}]", keys.join(","))
        }
        _ => format!("[{rest}]"),
    }
}
