//! LimitRange: bounds and defaults for resources in a namespace.

use crate::Hooks;
use crate::Resource;
use crate::edit::{default_to, empty, items_mut};
use object::Value;
use object::table::Column;

/// The row of LimitRange.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "LimitRange", "limitranges")
        .short(&["limits"])
        .creatable_by_update()
        .with_columns(vec![
            Column::name(),
            Column::new("Created At", |range, _| crate::cells::text(range, &["metadata", "creationTimestamp"])),
        ])
        .with_hooks(LimitRange)
}

struct LimitRange;

impl Hooks for LimitRange {
    fn default(&self, range: &mut Value) {
        for item in items_mut(range, &["spec", "limits"]) {
            if item.str_at(&["type"]) != Some("Container") {
                continue;
            }
            // Limits default to the maximum, requests to the limit or the minimum.
            for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
                let Some(amounts) = item.get(from).and_then(Value::as_object).cloned() else { continue };
                if item.get(to).is_none() {
                    item.set(&[to], empty());
                }
                for (name, amount) in amounts {
                    default_to(item, &[to, &name], amount);
                }
            }
        }
    }
}
