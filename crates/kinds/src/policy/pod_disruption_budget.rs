//! PodDisruptionBudget: how many pods may be disturbed at once.

use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::validation::{in_range, invalid};
use object::table::Column;
use object::{Cause, Value};

/// The row of PodDisruptionBudget.
pub(super) fn row() -> Resource {
    Resource::new("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
        .short(&["pdb"])
        .generation(&["spec"])
        .status()
        .with_columns(vec![
            Column::name(),
            Column::new("Min Available", |budget, _| amount(budget, "minAvailable")),
            Column::new("Max Unavailable", |budget, _| amount(budget, "maxUnavailable")),
            Column::new("Allowed Disruptions", |budget, _| cells::number(budget, &["status", "disruptionsAllowed"]))
                .of("integer"),
            Column::age(),
        ])
        .with_hooks(PodDisruptionBudget)
}

fn amount(budget: &Value, name: &str) -> Value {
    match budget.at(&["spec", name]) {
        Some(Value::Int(number)) => number.to_string().into(),
        Some(Value::String(text)) => text.clone().into(),
        _ => "N/A".into(),
    }
}

struct PodDisruptionBudget;

impl Hooks for PodDisruptionBudget {
    fn prepare_create(&self, budget: &mut Value) {
        // Required members of the status, which upstream always writes.
        for name in ["currentHealthy", "desiredHealthy", "disruptionsAllowed", "expectedPods"] {
            budget.set(&["status", name], Value::Int(0));
        }
    }

    fn validate(&self, budget: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        let has = |name: &str| budget.at(&["spec", name]).is_some_and(|value| !value.is_null());
        if has("minAvailable") && has("maxUnavailable") {
            let spec = budget.get("spec").unwrap_or(&Value::Null);
            causes.push(invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set"));
        }
        for name in ["minAvailable", "maxUnavailable"] {
            in_range(&mut causes, budget, &["spec", name], &format!("spec.{name}"), 0, i64::MAX);
        }
        causes
    }
}
