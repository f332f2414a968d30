//! ConfigMap: configuration as text.

use super::data;
use crate::Hooks;
use crate::Resource;
use crate::cells;
use object::table::Column;
use object::{Cause, Value};

/// The row of ConfigMap.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "ConfigMap", "configmaps")
        .short(&["cm"])
        .with_columns(vec![
            Column::name(),
            Column::new("Data", |map, _| Value::Int(cells::count(map, &["data"]) + cells::count(map, &["binaryData"]))),
            Column::age(),
        ])
        .with_hooks(ConfigMap)
}

struct ConfigMap;

impl Hooks for ConfigMap {
    fn validate(&self, map: &Value) -> Vec<Cause> {
        data::validate(map, &["data", "binaryData"])
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        data::validate_immutable(new, old, &["data", "binaryData"])
    }
}
