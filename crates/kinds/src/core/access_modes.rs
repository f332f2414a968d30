//! What PersistentVolumes and their claims share.

use crate::edit::items;
use crate::validation::{not_supported, required};
use object::{Cause, Value};

const MODES: [(&str, &str); 4] =
    [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];

/// The access modes at `path` in their short form, in upstream's order.
pub(super) fn short(object: &Value, path: &[&str]) -> String {
    let has = |mode: &str| items(object, path).iter().any(|one| one.as_str() == Some(mode));
    let short: Vec<&str> = MODES.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect();
    short.join(",")
}

/// status.phase, or Terminating.
pub(super) fn phase(object: &Value) -> Value {
    if object.str_at(&["metadata", "deletionTimestamp"]).is_some() {
        return "Terminating".into();
    }
    crate::cells::text(object, &["status", "phase"])
}

/// What is wrong with spec.accessModes.
pub(super) fn validate(object: &Value, causes: &mut Vec<Cause>) {
    let modes = items(object, &["spec", "accessModes"]);
    if modes.is_empty() {
        causes.push(required("spec.accessModes", "at least 1 access mode is required"));
    }
    for (at, mode) in modes.iter().enumerate() {
        if !MODES.iter().any(|(known, _)| mode.as_str() == Some(known)) {
            let known: Vec<&str> = MODES.iter().map(|(mode, _)| *mode).collect();
            causes.push(not_supported(&format!("spec.accessModes[{at}]"), mode, &known));
        }
    }
}
