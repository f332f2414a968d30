//! DaemonSet: a pod on every node.

use crate::Hooks;
use crate::Resource;
use crate::cells::{self, number};
use crate::edit::default_to;
use crate::template;
use crate::validation::{immutable, one_of};
use object::table::Column;
use object::{Cause, Value};

/// The row of DaemonSet.
pub(super) fn row() -> Resource {
    Resource::new("apps", "v1", "DaemonSet", "daemonsets")
        .short(&["ds"])
        .in_all()
        .generation(&["spec"])
        .status()
        .with_columns(columns())
        .with_hooks(DaemonSet)
}

fn columns() -> Vec<Column> {
    let mut columns = vec![
        Column::name(),
        Column::new("Desired", |set, _| number(set, &["status", "desiredNumberScheduled"])).of("integer"),
        Column::new("Current", |set, _| number(set, &["status", "currentNumberScheduled"])).of("integer"),
        Column::new("Ready", |set, _| number(set, &["status", "numberReady"])).of("integer"),
        Column::new("Up-to-date", |set, _| number(set, &["status", "updatedNumberScheduled"])).of("integer"),
        Column::new("Available", |set, _| number(set, &["status", "numberAvailable"])).of("integer"),
        Column::new("Node Selector", |set, _| cells::labels_at(set, &["spec", "template", "spec", "nodeSelector"])),
        Column::age(),
    ];
    columns.extend(cells::template_columns());
    columns.push(cells::selector_column());
    columns
}

struct DaemonSet;

impl Hooks for DaemonSet {
    fn default(&self, set: &mut Value) {
        default_to(set, &["spec", "updateStrategy", "type"], "RollingUpdate");
        if set.str_at(&["spec", "updateStrategy", "type"]) == Some("RollingUpdate") {
            default_to(set, &["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"], 1_i64);
            default_to(set, &["spec", "updateStrategy", "rollingUpdate", "maxSurge"], 0_i64);
        }
        default_to(set, &["spec", "revisionHistoryLimit"], 10_i64);
        template::default_template(set, &["spec", "template"]);
    }

    fn prepare_create(&self, set: &mut Value) {
        // Required members of the status, which upstream always writes.
        for name in ["currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady"] {
            set.set(&["status", name], Value::Int(0));
        }
    }

    fn validate(&self, set: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        template::validate_replicas(set, &mut causes);
        template::validate_selector(set, &mut causes);
        template::validate_template(set, &["Always"], &mut causes);
        let kinds = ["OnDelete", "RollingUpdate"];
        one_of(&mut causes, set, &["spec", "updateStrategy", "type"], "spec.updateStrategy.type", &kinds);
        if let Some(rolling) = set.at(&["spec", "updateStrategy", "rollingUpdate"]).filter(|rolling| !rolling.is_null())
        {
            template::validate_rolling(rolling, "spec.updateStrategy.rollingUpdate", &mut causes);
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        immutable(&mut causes, new, old, &["spec", "selector"]);
        causes
    }
}
