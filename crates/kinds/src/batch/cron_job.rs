//! CronJob: Jobs by the clock.

use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::edit::default_to;
use crate::template;
use crate::validation::{has_text, in_range, invalid_text, one_of, required};
use object::table::Column;
use object::{Cause, Value};

/// The row of CronJob.
pub(super) fn row() -> Resource {
    Resource::new("batch", "v1", "CronJob", "cronjobs")
        .short(&["cj"])
        .in_all()
        .generation(&["spec"])
        .status()
        .with_columns(columns())
        .with_hooks(CronJob)
}

fn columns() -> Vec<Column> {
    const CONTAINERS: [&str; 6] = ["spec", "jobTemplate", "spec", "template", "spec", "containers"];
    vec![
        Column::name(),
        Column::new("Schedule", |job, _| cells::text(job, &["spec", "schedule"])),
        Column::new("Timezone", |job, _| cells::text_or(job, &["spec", "timeZone"], "<none>")),
        Column::new("Suspend", |job, _| match job.at(&["spec", "suspend"]).and_then(Value::as_bool) {
            Some(true) => "True".into(),
            Some(false) => "False".into(),
            None => "<unset>".into(),
        })
        .of("boolean"),
        Column::new("Active", |job, _| Value::Int(cells::count(job, &["status", "active"]))).of("integer"),
        Column::new("Last Schedule", |job, now| cells::since(job, &["status", "lastScheduleTime"], now, "<none>")),
        Column::age(),
        Column::new("Containers", |job, _| cells::containers_at(job, &CONTAINERS, "name")).wide(),
        Column::new("Images", |job, _| cells::containers_at(job, &CONTAINERS, "image")).wide(),
        Column::new("Selector", |job, _| cells::selector_at(job, &["spec", "jobTemplate", "spec", "selector"])).wide(),
    ]
}

struct CronJob;

impl Hooks for CronJob {
    fn default(&self, job: &mut Value) {
        default_to(job, &["spec", "concurrencyPolicy"], "Allow");
        default_to(job, &["spec", "suspend"], false);
        default_to(job, &["spec", "successfulJobsHistoryLimit"], 3_i64);
        default_to(job, &["spec", "failedJobsHistoryLimit"], 1_i64);
        template::default_template(job, &["spec", "jobTemplate", "spec", "template"]);
    }

    fn validate(&self, job: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        if !has_text(job, &["spec", "schedule"]) {
            causes.push(required("spec.schedule", ""));
        }
        let policies = ["Allow", "Forbid", "Replace"];
        one_of(&mut causes, job, &["spec", "concurrencyPolicy"], "spec.concurrencyPolicy", &policies);
        for name in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
            in_range(&mut causes, job, &["spec", name], &format!("spec.{name}"), 0, i64::MAX);
        }
        // The controller appends eleven characters to the name.
        let name = job.str_at(&["metadata", "name"]).unwrap_or_default();
        if name.len() > 52 {
            causes.push(invalid_text("metadata.name", name, "must be no more than 52 characters"));
        }
        let path = ["spec", "jobTemplate", "spec", "template"];
        causes.extend(template::validate_template_at(job, &path, &["Never", "OnFailure"]));
        causes
    }
}
