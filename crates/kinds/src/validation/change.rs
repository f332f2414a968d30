//! Fields that may not change.

use super::invalid;
use object::{Cause, Value};

/// Complains where the node at `path` differs between two objects.
pub(crate) fn immutable(causes: &mut Vec<Cause>, new: &Value, old: &Value, path: &[&str]) {
    let after = new.at(path).unwrap_or(&Value::Null);
    if after != old.at(path).unwrap_or(&Value::Null) {
        causes.push(invalid(&path.join("."), after, "field is immutable"));
    }
}
