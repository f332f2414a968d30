//! RuntimeClass: how containers are run.

use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::validation::{has_text, immutable, required};
use object::table::Column;
use object::{Cause, Value};

/// The row of RuntimeClass.
pub(super) fn row() -> Resource {
    Resource::new("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses")
        .cluster()
        .with_columns(vec![
            Column::name(),
            Column::new("Handler", |class, _| cells::text(class, &["handler"])),
            Column::age(),
        ])
        .with_hooks(RuntimeClass)
}

struct RuntimeClass;

impl Hooks for RuntimeClass {
    fn validate(&self, class: &Value) -> Vec<Cause> {
        if has_text(class, &["handler"]) { Vec::new() } else { vec![required("handler", "")] }
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        immutable(&mut causes, new, old, &["handler"]);
        causes
    }
}
