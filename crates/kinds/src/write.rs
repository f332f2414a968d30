//! What the write door asks a row at each step: rules that all kinds share around the kind's own hooks.

use crate::row::{Resource, Role};
use crate::validation::{validate_metadata, validate_metadata_update};
use object::{Cause, Map, Value};

impl Resource {
    fn has_status(&self) -> bool {
        self.subresources.iter().any(|one| one.role == Role::Status)
    }

    /// Sets the defaults that depend on other fields; static ones come from the schema, before.
    pub fn default(&self, object: &mut Value) {
        self.hooks.default(object);
    }

    /// Makes a decoded object ready to be validated and stored for the first time: no status unless the kind takes it,
    /// generation 1 where the kind counts. metadata.uid is set already.
    pub fn prepare_create(&self, object: &mut Value) {
        if self.has_status() && !self.keeps_status_on_create {
            object.remove(&["status"]);
        }
        if self.generation_of.is_empty() {
            object.remove(&["metadata", "generation"]);
        } else {
            object.set(&["metadata", "generation"], Value::Int(1));
        }
        self.hooks.prepare_create(object);
    }

    /// Makes an updated object ready: status stays the old one's, generation rises when what it counts changes.
    pub fn prepare_update(&self, new: &mut Value, old: &Value) {
        if self.has_status() {
            copy(new, old, "status");
        }
        self.hooks.prepare_update(new, old);
        let generation = old.i64_at(&["metadata", "generation"]);
        if self.generation_of.is_empty() {
            match generation {
                Some(number) => new.set(&["metadata", "generation"], Value::Int(number)),
                None => drop(new.remove(&["metadata", "generation"])),
            }
            return;
        }
        let changed = self.generation_of.iter().any(|member| new.get(member) != old.get(member));
        let number = generation.unwrap_or_default() + i64::from(changed);
        new.set(&["metadata", "generation"], Value::Int(number));
    }

    /// Makes an object written through its status subresource ready: all but metadata and status is the old one's.
    pub fn prepare_status(&self, new: &mut Value, old: &Value) {
        let (Some(map), Some(before)) = (new.as_object_mut(), old.as_object()) else { return };
        let keeps = |key: &str| matches!(key, "metadata" | "status" | "apiVersion" | "kind");
        map.retain(|key, _| keeps(key));
        for (key, value) in before.iter().filter(|(key, _)| !keeps(key)) {
            map.insert(key, value.clone());
        }
        for name in ["generation", "deletionTimestamp", "deletionGracePeriodSeconds", "ownerReferences", "finalizers"] {
            match old.at(&["metadata", name]) {
                Some(value) => new.set(&["metadata", name], value.clone()),
                None => drop(new.remove(&["metadata", name])),
            }
        }
        self.hooks.prepare_status(new, old);
    }

    /// What is wrong with a new object.
    #[must_use]
    pub fn validate(&self, object: &Value) -> Vec<Cause> {
        let mut causes = if self.is_create_only() { Vec::new() } else { validate_metadata(self, object) };
        causes.extend(self.hooks.validate(object));
        causes
    }

    /// What is wrong with an updated object and with its change.
    #[must_use]
    pub fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = validate_metadata_update(self, new, old);
        causes.extend(self.hooks.validate(new));
        causes.extend(self.hooks.validate_update(new, old));
        // What a kind checks both in the object and in the change is said once.
        let mut seen: Vec<Cause> = Vec::with_capacity(causes.len());
        causes.retain(|cause| {
            let new = !seen.contains(cause);
            if new {
                seen.push(cause.clone());
            }
            new
        });
        causes
    }

    /// What is wrong with a write through the status subresource.
    #[must_use]
    pub fn validate_status(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = validate_metadata_update(self, new, old);
        causes.extend(self.hooks.validate_status(new, old));
        causes
    }

    /// What is wrong with a write through another subresource.
    #[must_use]
    pub fn validate_part(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = validate_metadata_update(self, new, old);
        causes.extend(self.hooks.validate(new));
        causes
    }

    /// An object of one of this row's versions turned into the hub's.
    pub fn to_hub(&self, version: &crate::Version, object: &mut Value) {
        if let Some(convert) = version.convert_to_hub {
            convert(object);
        }
    }

    /// A hub object turned into one of this row's versions.
    pub fn from_hub(&self, version: &crate::Version, object: &mut Value) {
        if let Some(convert) = version.convert_from_hub {
            convert(object);
        }
    }
}

/// Makes the member `name` of `new` what `old` has.
fn copy(new: &mut Value, old: &Value, name: &str) {
    if !matches!(new, Value::Object(_)) {
        *new = Value::Object(Map::new());
    }
    match old.get(name) {
        Some(value) => new.set(&[name], value.clone()),
        None => drop(new.remove(&[name])),
    }
}
