//! metadata.managedFields: which manager holds which fields.

use super::set::Set;
use crate::{Map, Str, Value};
use jiff::Timestamp;

/// How many entries of the operation Update there may be; older ones are put together, as upstream does.
const UPDATE_MANAGERS_MAX: usize = 10;
/// The manager that older entries are put together under.
const ANCIENT: &str = "ancient-changes";

/// What tells one entry from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    pub(super) manager: Str,
    /// True for Apply, false for Update.
    pub(super) applies: bool,
    pub(super) api_version: Str,
    pub(super) subresource: Str,
}

impl Identity {
    /// One applier has one entry, whatever version it applies in.
    pub(super) fn is(&self, other: &Identity) -> bool {
        self.manager == other.manager
            && self.applies == other.applies
            && self.subresource == other.subresource
            && (self.applies || self.api_version == other.api_version)
    }

    /// As conflicts name it.
    pub(super) fn shown(&self) -> String {
        let mut text = format!("{:?}", self.manager.as_str());
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource.as_str()));
        }
        if !self.applies {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) identity: Identity,
    /// As it is written; empty where there is none.
    pub(super) time: Str,
    pub(super) set: Set,
}

/// All entries of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Managers {
    pub(super) entries: Vec<Entry>,
}

impl Managers {
    /// Reads an object's entries; what is no entry is left out.
    pub(super) fn of(object: &Value) -> Self {
        let list = object.at(&["metadata", "managedFields"]).and_then(Value::as_array).unwrap_or_default();
        let entry = |value: &Value| {
            let text = |name: &str| Str::from(value.str_at(&[name]).unwrap_or_default());
            let applies = match value.str_at(&["operation"])? {
                "Apply" => true,
                "Update" => false,
                _ => return None,
            };
            Some(Entry {
                identity: Identity {
                    manager: text("manager"),
                    applies,
                    api_version: text("apiVersion"),
                    subresource: text("subresource"),
                },
                time: text("time"),
                set: Set::from_fields(value.get("fieldsV1")?),
            })
        };
        Managers { entries: list.iter().filter_map(entry).collect() }
    }

    pub(super) fn position(&self, identity: &Identity) -> Option<usize> {
        self.entries.iter().position(|entry| entry.identity.is(identity))
    }

    /// Sets what a manager holds, and when it was written; an empty set removes the entry.
    pub(super) fn put(&mut self, identity: Identity, set: Set, now: Timestamp) {
        let time = crate::time::format_rfc3339(now).into();
        match self.position(&identity) {
            Some(at) if set.is_empty() => drop(self.entries.remove(at)),
            Some(at) => self.entries[at] = Entry { identity, time, set },
            None if set.is_empty() => {}
            None => self.entries.push(Entry { identity, time, set }),
        }
    }

    /// Every manager but `except` loses `lost`.
    pub(super) fn lose(&mut self, lost: &Set, except: Option<&Identity>) {
        for entry in &mut self.entries {
            if !except.is_some_and(|identity| entry.identity.is(identity)) {
                entry.set = entry.set.difference(lost);
            }
        }
        self.entries.retain(|entry| !entry.set.is_empty());
    }

    /// Puts the oldest updates together where there are too many.
    pub(super) fn cap(&mut self) {
        loop {
            let updates = self.entries.iter().filter(|entry| !entry.identity.applies);
            if updates.clone().count() <= UPDATE_MANAGERS_MAX {
                return;
            }
            let others = updates.filter(|entry| entry.identity.manager != ANCIENT);
            let Some(oldest) = others.min_by(|a, b| a.time.cmp(&b.time)).map(|entry| entry.identity.clone()) else {
                return;
            };
            let Some(at) = self.position(&oldest) else { return };
            let entry = self.entries.remove(at);
            let ancient = Identity { manager: ANCIENT.into(), subresource: Str::default(), ..entry.identity };
            match self.position(&ancient) {
                Some(at) => {
                    self.entries[at].set.union(&entry.set);
                    if self.entries[at].time < entry.time {
                        self.entries[at].time = entry.time;
                    }
                }
                None => self.entries.push(Entry { identity: ancient, time: entry.time, set: entry.set }),
            }
        }
    }

    /// Whether the same managers hold the same fields, whenever they were written.
    pub(super) fn holds_the_same(&self, other: &Managers) -> bool {
        let same =
            |entry: &Entry| other.entries.iter().any(|one| one.identity == entry.identity && one.set == entry.set);
        self.entries.len() == other.entries.len() && self.entries.iter().all(same)
    }

    /// Writes the entries into an object: appliers first, then by time and name.
    pub(super) fn write(mut self, object: &mut Value) {
        if self.entries.is_empty() {
            object.remove(&["metadata", "managedFields"]);
            return;
        }
        let rank = |entry: &Entry| (!entry.identity.applies, entry.time.clone(), entry.identity.clone());
        self.entries.sort_by_key(rank);
        let list: Vec<Value> = self.entries.into_iter().map(Entry::into_value).collect();
        object.set(&["metadata", "managedFields"], Value::Array(list));
    }
}

impl Entry {
    fn into_value(self) -> Value {
        let mut map = Map::new();
        map.insert("manager", self.identity.manager);
        map.insert("operation", if self.identity.applies { "Apply" } else { "Update" });
        map.insert("apiVersion", self.identity.api_version);
        if !self.time.is_empty() {
            map.insert("time", self.time);
        }
        map.insert("fieldsType", "FieldsV1");
        map.insert("fieldsV1", self.set.to_fields());
        if !self.identity.subresource.is_empty() {
            map.insert("subresource", self.identity.subresource);
        }
        Value::Object(map)
    }
}

/// Takes away what nobody owns: names, and what the server alone writes; and what the subresource does not write.
pub(super) fn strip(set: &mut Set, subresource: &str) {
    for name in ["f:apiVersion", "f:kind"] {
        set.remove(&[name]);
    }
    for name in [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "generation",
        "managedFields",
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        set.remove(&["f:metadata", &format!("f:{name}")]);
    }
    if let Some(metadata) = set.children.get_mut("f:metadata") {
        metadata.member = false;
        if metadata.is_empty() {
            set.children.remove("f:metadata");
        }
    }
    match subresource {
        "" => drop(set.children.remove("f:status")),
        "status" => set.children.retain(|element, _| matches!(element.as_str(), "f:metadata" | "f:status")),
        _ => {}
    }
}
