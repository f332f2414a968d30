//! What is gathered about each definition, and how the sources are joined.

use std::collections::BTreeMap;

/// A group, version and kind.
pub(super) type Kind = (String, String, String);

/// One member of a definition.
#[derive(Clone, Default, Debug)]
pub(super) struct Facts {
    /// The type in the notation of the data file.
    pub(super) kind: String,
    pub(super) required: bool,
    pub(super) number: Option<u32>,
    /// Reached in protobuf through an embedded message.
    pub(super) embedded: bool,
    /// Whether a zero value is kept: Go has a pointer here, or no omitempty. None where no source says.
    pub(super) keep: Option<bool>,
    /// `set`, `atomic`, `granular`, or `map:key,key`.
    pub(super) list: Option<String>,
    pub(super) patch_strategy: String,
    pub(super) patch_key: Option<String>,
    /// JSON.
    pub(super) default: Option<String>,
}

#[derive(Clone, Default, Debug)]
pub(super) struct Definition {
    pub(super) fields: BTreeMap<String, Facts>,
    pub(super) kinds: Vec<Kind>,
    pub(super) atomic: bool,
    /// The path of its type in the bindings.
    pub(super) binding: Option<String>,
    /// Directory and type name in the sources.
    pub(super) origin: (String, String),
    pub(super) known_in_swagger: bool,
}

/// A field of a protobuf message.
#[derive(Clone, Debug)]
pub(super) struct MessageField {
    pub(super) number: u32,
    /// `message`, `string` and so on, as prost names it.
    pub(super) kind: String,
    /// Directory and name of the message type, for messages.
    pub(super) target: Option<(String, String)>,
}

/// What Go says of a field.
#[derive(Clone, Debug, Default)]
pub(super) struct GoField {
    pub(super) keep: bool,
    pub(super) number: Option<u32>,
    pub(super) list: Option<String>,
    pub(super) patch_strategy: String,
    pub(super) patch_key: Option<String>,
    pub(super) default: Option<String>,
}

/// A type's directory and its name, both in the spelling that all sources share after [`plain`].
pub(super) type Key = (String, String);

#[derive(Default)]
pub(super) struct Draft {
    pub(super) definitions: BTreeMap<String, Definition>,
    pub(super) messages: BTreeMap<Key, BTreeMap<String, MessageField>>,
    pub(super) go: BTreeMap<Key, BTreeMap<String, GoField>>,
    /// The definition name's prefix of a directory, such as `io.k8s.api.core.v1`.
    pub(super) prefixes: BTreeMap<String, String>,
}

/// Letters and digits in lower case: how names compare across the sources' spellings.
pub(super) fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// The other versions of a directory such as `api/core/v1`, the nearest first.
fn siblings<'a, T>(all: &'a BTreeMap<Key, T>, key: &Key) -> Vec<&'a T> {
    let Some((group, _)) = key.0.rsplit_once('/') else { return Vec::new() };
    let mut found: Vec<_> = all
        .iter()
        .filter(|((directory, name), _)| {
            *name == key.1 && *directory != key.0 && directory.rsplit_once('/').is_some_and(|parts| parts.0 == group)
        })
        .collect();
    // v1 before v1beta1 before v1alpha1: of equal names the stable one is nearest.
    found.sort_by_key(|((directory, _), _)| (directory.contains("alpha"), directory.contains("beta")));
    found.into_iter().map(|(_, value)| value).collect()
}

impl Draft {
    fn key(definition: &Definition) -> Key {
        (definition.origin.0.clone(), plain(&definition.origin.1))
    }

    /// Joins the sources.
    pub(super) fn resolve(&mut self) {
        self.inherit_markers();
        let names: Vec<String> = self.definitions.keys().cloned().collect();
        for name in &names {
            let mut definition = self.definitions[name].clone();
            self.resolve_go(&mut definition);
            let key = Self::key(&definition);
            self.resolve_numbers(&mut definition, &key);
            self.definitions.insert(name.clone(), definition);
        }
    }

    /// A definition that the swagger document does not know takes its markers from the same name in another version.
    fn inherit_markers(&mut self) {
        let by_key: BTreeMap<Key, Definition> = self
            .definitions
            .values()
            .filter(|definition| definition.known_in_swagger)
            .map(|definition| (Self::key(definition), definition.clone()))
            .collect();
        for definition in self.definitions.values_mut().filter(|definition| !definition.known_in_swagger) {
            for sibling in siblings(&by_key, &Self::key(definition)) {
                definition.atomic |= sibling.atomic;
                for (field, facts) in &mut definition.fields {
                    if let Some(known) = sibling.fields.get(field) {
                        facts.list = facts.list.take().or_else(|| known.list.clone());
                        facts.patch_key = facts.patch_key.take().or_else(|| known.patch_key.clone());
                        if facts.patch_strategy.is_empty() {
                            facts.patch_strategy.clone_from(&known.patch_strategy);
                        }
                    }
                }
            }
        }
    }

    fn resolve_go(&self, definition: &mut Definition) {
        let key = Self::key(definition);
        let mut sources: Vec<_> = self.go.get(&key).into_iter().collect();
        sources.extend(siblings(&self.go, &key));
        for (name, facts) in &mut definition.fields {
            // Embedded structs keep their members under their own name.
            let found = sources.iter().find_map(|source| source.get(name));
            let Some(go) = found else { continue };
            facts.keep = facts.keep.or(Some(go.keep));
            // What the published document leaves out it leaves out on purpose.
            if !definition.known_in_swagger {
                facts.list = facts.list.take().or_else(|| go.list.clone());
                facts.patch_key = facts.patch_key.take().or_else(|| go.patch_key.clone());
                if facts.patch_strategy.is_empty() {
                    facts.patch_strategy.clone_from(&go.patch_strategy);
                }
            }
            facts.default = facts.default.take().or_else(|| go.default.clone());
        }
    }

    fn resolve_numbers(&mut self, definition: &mut Definition, key: &Key) {
        let mut sources: Vec<BTreeMap<String, MessageField>> = self.messages.get(key).cloned().into_iter().collect();
        sources.extend(siblings(&self.messages, key).into_iter().cloned());
        let own = self.messages.contains_key(key);
        let go = self.go.get(key).cloned().unwrap_or_default();
        let names: Vec<String> = definition.fields.keys().cloned().collect();
        for (at, source) in sources.iter().enumerate() {
            let taken: Vec<u32> = definition.fields.values().filter_map(|facts| facts.number).collect();
            for name in &names {
                let Some(facts) = definition.fields.get_mut(name) else { continue };
                if facts.number.is_some() || facts.embedded {
                    continue;
                }
                let Some(field) = source.get(&plain(name)) else { continue };
                // Another version's number counts only where it does not collide with an own one.
                if at > 0 && own && taken.contains(&field.number) {
                    continue;
                }
                // A list of strings that is a message of its own (APIResource.verbs) has no place in the notation.
                if facts.kind == "[s" && field.kind == "message" {
                    continue;
                }
                facts.number = Some(field.number);
                if facts.kind == "s" && field.target.as_ref().is_some_and(|target| target.1 == "duration") {
                    facts.kind = "d".to_owned();
                }
            }
            if at == 0 || !own {
                self.resolve_embedded(definition, source);
            }
        }
        for (name, field) in &go {
            if let Some(facts) = definition.fields.get_mut(name)
                && facts.number.is_none()
                && !facts.embedded
            {
                facts.number = field.number;
            }
        }
    }

    /// A message field without a JSON member of its name, all of whose members the JSON struct has, is embedded.
    fn resolve_embedded(&mut self, definition: &mut Definition, source: &BTreeMap<String, MessageField>) {
        let own: Vec<String> = definition.fields.keys().map(|name| plain(name)).collect();
        for (name, field) in source {
            let Some(target) = &field.target else { continue };
            if own.contains(name) || field.kind != "message" || definition.fields.contains_key("") {
                continue;
            }
            if let Some(kind) = self.embedded_type(definition, target) {
                definition.fields.insert(String::new(), Facts { kind, number: Some(field.number), ..Facts::default() });
            }
        }
    }

    fn embedded_type(&mut self, outer: &mut Definition, target: &Key) -> Option<String> {
        let message = self.messages.get(target)?.clone();
        let mut members = BTreeMap::new();
        let mut inner_embedded = None;
        for (name, field) in &message {
            let json = outer.fields.keys().find(|known| plain(known) == *name).cloned();
            match (json, &field.target) {
                (Some(json), _) => {
                    members.insert(json, field.clone());
                }
                (None, Some(inner)) => inner_embedded = Some((field.number, self.embedded_type(outer, inner)?)),
                (None, None) => return None,
            }
        }
        if members.is_empty() && inner_embedded.is_none() {
            return None;
        }
        let prefix = self.prefixes.get(&target.0)?.clone();
        let known = self
            .definitions
            .iter()
            .find(|(_, known)| known.origin.0 == target.0 && plain(&known.origin.1) == target.1)
            .map(|(name, _)| name.clone());
        let name = known.clone().unwrap_or_else(|| format!("wire/{prefix}.{}", target.1));
        let mut definition = Definition::default();
        if let Some((number, kind)) = inner_embedded {
            definition.fields.insert(String::new(), Facts { kind, number: Some(number), ..Facts::default() });
        }
        for (json, field) in members {
            let Some(facts) = outer.fields.get_mut(&json) else { continue };
            facts.embedded = true;
            facts.number = None;
            let mut inner = facts.clone();
            inner.embedded = false;
            inner.number = Some(field.number);
            definition.fields.insert(json, inner);
        }
        if known.is_none() {
            self.definitions.insert(name.clone(), definition);
        }
        Some(format!("@{name}"))
    }
}
