//! Deployment: replicas that are rolled from one template to the next.

use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::edit::default_to;
use crate::template;
use crate::validation::{forbidden, immutable, in_range, one_of};
use object::table::Column;
use object::{Cause, Value};

/// The row of Deployment.
pub(super) fn row() -> Resource {
    Resource::new("apps", "v1", "Deployment", "deployments")
        .short(&["deploy"])
        .in_all()
        .generation(&["spec"])
        .status()
        .scale(&["spec", "selector"])
        .with_columns(columns())
        .with_hooks(Deployment)
}

fn columns() -> Vec<Column> {
    let mut columns = vec![
        Column::name(),
        Column::new("Ready", |deployment, _| {
            let ready = deployment.i64_at(&["status", "readyReplicas"]).unwrap_or_default();
            format!("{ready}/{}", deployment.i64_at(&["spec", "replicas"]).unwrap_or_default()).into()
        }),
        Column::new("Up-to-date", |deployment, _| cells::number(deployment, &["status", "updatedReplicas"])),
        Column::new("Available", |deployment, _| cells::number(deployment, &["status", "availableReplicas"])),
        Column::age(),
    ];
    columns.extend(cells::template_columns());
    columns.push(cells::selector_column());
    columns
}

struct Deployment;

impl Hooks for Deployment {
    fn default(&self, deployment: &mut Value) {
        default_to(deployment, &["spec", "replicas"], 1_i64);
        default_to(deployment, &["spec", "strategy", "type"], "RollingUpdate");
        if deployment.str_at(&["spec", "strategy", "type"]) == Some("RollingUpdate") {
            default_to(deployment, &["spec", "strategy", "rollingUpdate", "maxUnavailable"], "25%");
            default_to(deployment, &["spec", "strategy", "rollingUpdate", "maxSurge"], "25%");
        }
        default_to(deployment, &["spec", "revisionHistoryLimit"], 10_i64);
        default_to(deployment, &["spec", "progressDeadlineSeconds"], 600_i64);
        template::default_template(deployment, &["spec", "template"]);
    }

    fn prepare_status(&self, new: &mut Value, old: &Value) {
        match old.at(&["metadata", "labels"]) {
            Some(labels) => new.set(&["metadata", "labels"], labels.clone()),
            None => drop(new.remove(&["metadata", "labels"])),
        }
    }

    fn validate(&self, deployment: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        template::validate_replicas(deployment, &mut causes);
        template::validate_selector(deployment, &mut causes);
        template::validate_template(deployment, &["Always"], &mut causes);
        let strategies = ["Recreate", "RollingUpdate"];
        one_of(&mut causes, deployment, &["spec", "strategy", "type"], "spec.strategy.type", &strategies);
        let rolling = deployment.at(&["spec", "strategy", "rollingUpdate"]).filter(|rolling| !rolling.is_null());
        if let Some(rolling) = rolling {
            if deployment.str_at(&["spec", "strategy", "type"]) == Some("Recreate") {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                causes.push(forbidden("spec.strategy.rollingUpdate", detail));
            } else {
                template::validate_rolling(rolling, "spec.strategy.rollingUpdate", &mut causes);
            }
        }
        let deadline = &["spec", "progressDeadlineSeconds"];
        in_range(&mut causes, deployment, deadline, "spec.progressDeadlineSeconds", 0, i64::MAX);
        let ready = deployment.i64_at(&["spec", "minReadySeconds"]).unwrap_or_default();
        if let Some(seconds) = deployment.i64_at(deadline).filter(|seconds| *seconds <= ready) {
            let detail = "must be greater than minReadySeconds";
            causes.push(crate::validation::invalid("spec.progressDeadlineSeconds", &Value::Int(seconds), detail));
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        immutable(&mut causes, new, old, &["spec", "selector"]);
        causes
    }
}
