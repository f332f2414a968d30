//! Columns, defaults and validation of Jobs.

use crate::cells::{self, is_condition_true};
use crate::edit::default_to;
use crate::template;
use crate::validation::{immutable, in_range, invalid, one_of, required};
use object::selector::labels::Selector;
use object::table::Column;
use object::{Cause, Map, Value, meta};

pub(super) fn columns() -> Vec<Column> {
    let mut columns = vec![
        Column::name(),
        Column::new("Status", |job, _| status(job).into()),
        Column::new("Completions", |job, _| completions(job).into()),
        Column::new("Duration", |job, now| {
            let time = |name: &str| job.str_at(&["status", name]).and_then(|text| text.parse::<jiff::Timestamp>().ok());
            match time("startTime") {
                None => "".into(),
                Some(start) => {
                    let end = time("completionTime").unwrap_or(now);
                    object::time::duration_short(end.duration_since(start)).into()
                }
            }
        }),
        Column::age(),
    ];
    columns.extend(cells::template_columns());
    columns.push(cells::selector_column());
    columns
}

fn status(job: &Value) -> &'static str {
    if is_condition_true(job, "Complete") {
        "Complete"
    } else if is_condition_true(job, "Failed") {
        "Failed"
    } else if job.str_at(&["metadata", "deletionTimestamp"]).is_some() {
        "Terminating"
    } else if is_condition_true(job, "Suspended") {
        "Suspended"
    } else if is_condition_true(job, "FailureTarget") {
        "FailureTarget"
    } else {
        "Running"
    }
}

fn completions(job: &Value) -> String {
    let succeeded = job.i64_at(&["status", "succeeded"]).unwrap_or_default();
    let parallelism = job.i64_at(&["spec", "parallelism"]).unwrap_or_default();
    match job.i64_at(&["spec", "completions"]) {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    }
}

pub(super) fn default_job(job: &mut Value) {
    let missing = |name: &str, job: &Value| job.at(&["spec", name]).is_none_or(Value::is_null);
    if missing("completions", job) && missing("parallelism", job) {
        job.set(&["spec", "completions"], Value::Int(1));
    }
    default_to(job, &["spec", "parallelism"], 1_i64);
    let per_index = !missing("backoffLimitPerIndex", job);
    default_to(job, &["spec", "backoffLimit"], if per_index { i64::from(i32::MAX) } else { 6 });
    default_to(job, &["spec", "completionMode"], "NonIndexed");
    default_to(job, &["spec", "suspend"], false);
    default_to(job, &["spec", "manualSelector"], false);
    let replacement = if missing("podFailurePolicy", job) { "TerminatingOrFailed" } else { "Failed" };
    default_to(job, &["spec", "podReplacementPolicy"], replacement);
    template::default_template(job, &["spec", "template"]);
    if let Some(labels) = job.at(&["spec", "template", "metadata", "labels"]).cloned()
        && job.at(&["metadata", "labels"]).and_then(Value::as_object).is_none_or(Map::is_empty)
    {
        job.set(&["metadata", "labels"], labels);
    }
}

/// Selector and labels that tell this Job's pods from all others; needs metadata.uid.
pub(super) fn label_pods(job: &mut Value) {
    if cells::flag(job, &["spec", "manualSelector"]) {
        return;
    }
    let (name, uid) = (meta::name(job).to_owned(), meta::uid(job).to_owned());
    for (key, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        job.set(&["spec", "template", "metadata", "labels", key], value.as_str().into());
    }
    job.set(&["spec", "selector", "matchLabels", "batch.kubernetes.io/controller-uid"], uid.into());
}

pub(super) fn validate_job(job: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for name in ["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"] {
        in_range(&mut causes, job, &["spec", name], &format!("spec.{name}"), 0, i64::MAX);
    }
    one_of(&mut causes, job, &["spec", "completionMode"], "spec.completionMode", &["Indexed", "NonIndexed"]);
    if job.str_at(&["spec", "completionMode"]) == Some("Indexed") && job.i64_at(&["spec", "completions"]).is_none() {
        causes.push(required("spec.completions", "when completion mode is Indexed"));
    }
    let selector = job.at(&["spec", "selector"]).unwrap_or(&Value::Null);
    match Selector::from_label_selector(selector) {
        _ if selector.is_null() => causes.push(required("spec.selector", "")),
        Err(error) => causes.push(invalid("spec.selector", selector, &error.to_string())),
        Ok(parsed) => {
            let none = Value::Object(Map::new());
            let labels = job.at(&["spec", "template", "metadata", "labels"]).unwrap_or(&none);
            if !parsed.matches_labels(labels.as_object()) {
                let detail = "`selector` does not match template `labels`";
                causes.push(invalid("spec.template.metadata.labels", labels, detail));
            }
        }
    }
    let policy = job.at(&["spec", "template", "spec", "restartPolicy"]);
    if policy.and_then(Value::as_str) == Some("Always") {
        // Always is the default of pods, so upstream says this as a missing value.
        let detail = "valid values: \"OnFailure\", \"Never\"";
        causes.push(required("spec.template.spec.restartPolicy", detail));
    }
    template::validate_template(job, &["Always", "Never", "OnFailure"], &mut causes);
    causes
}

pub(super) fn validate_job_update(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    immutable(&mut causes, new, old, &["spec", "selector"]);
    immutable(&mut causes, new, old, &["spec", "completionMode"]);
    immutable(&mut causes, new, old, &["spec", "podFailurePolicy"]);
    immutable(&mut causes, new, old, &["spec", "backoffLimitPerIndex"]);
    immutable(&mut causes, new, old, &["spec", "managedBy"]);
    // An indexed Job may be resized if completions and parallelism change together.
    let indexed = new.str_at(&["spec", "completionMode"]) == Some("Indexed");
    let together = new.i64_at(&["spec", "completions"]) == new.i64_at(&["spec", "parallelism"]);
    if !(indexed && together) {
        immutable(&mut causes, new, old, &["spec", "completions"]);
    }
    // Where pods may run may change while a suspended Job has not begun.
    let mut after = new.at(&["spec", "template"]).cloned().unwrap_or_default();
    let idle = cells::flag(old, &["spec", "suspend"]) && old.str_at(&["status", "startTime"]).is_none();
    if idle {
        for name in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
            match old.at(&["spec", "template", "spec", name]) {
                Some(value) => after.set(&["spec", name], value.clone()),
                None => drop(after.remove(&["spec", name])),
            }
        }
    }
    if Some(&after) != old.at(&["spec", "template"]) {
        let template = new.at(&["spec", "template"]).unwrap_or(&Value::Null);
        causes.push(invalid("spec.template", template, "field is immutable"));
    }
    causes
}
