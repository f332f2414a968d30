//! PriorityClass: a named priority of pods.

use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::edit::default_to;
use crate::validation::{forbidden, immutable, one_of};
use object::table::Column;
use object::{Cause, Value};

/// The row of PriorityClass.
pub(super) fn row() -> Resource {
    Resource::new("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses")
        .cluster()
        .short(&["pc"])
        .with_columns(vec![
            Column::name(),
            Column::new("Value", |class, _| cells::number(class, &["value"])).of("integer"),
            Column::new("Global-Default", |class, _| Value::Bool(cells::flag(class, &["globalDefault"]))).of("boolean"),
            Column::age(),
            Column::new("PreemptionPolicy", |class, _| cells::text(class, &["preemptionPolicy"])),
        ])
        .with_hooks(PriorityClass)
}

/// The highest priority that users may define; those above belong to the system.
const USER_PRIORITY_MAX: i64 = 1_000_000_000;

struct PriorityClass;

impl Hooks for PriorityClass {
    fn default(&self, class: &mut Value) {
        default_to(class, &["preemptionPolicy"], "PreemptLowerPriority");
    }

    fn validate(&self, class: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        let (name, value) = (object::meta::name(class), class.i64_at(&["value"]).unwrap_or_default());
        let system = matches!(
            (name, value),
            ("system-node-critical", 2_000_001_000) | ("system-cluster-critical", 2_000_000_000)
        );
        if name.starts_with("system-") && !system {
            let detail = "priority class names with 'system-' prefix are reserved for system use only";
            causes.push(forbidden("metadata.name", detail));
        } else if value > USER_PRIORITY_MAX && !system {
            let detail = format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
            causes.push(forbidden("value", &detail));
        }
        one_of(&mut causes, class, &["preemptionPolicy"], "preemptionPolicy", &["Never", "PreemptLowerPriority"]);
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        if new.i64_at(&["value"]) != old.i64_at(&["value"]) {
            causes.push(forbidden("value", "may not be changed in an update."));
        }
        immutable(&mut causes, new, old, &["preemptionPolicy"]);
        causes
    }
}
