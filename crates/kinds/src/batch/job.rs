//! Job: pods that run to completion.

use super::job_rules::{columns, default_job, label_pods, validate_job, validate_job_update};
use crate::Hooks;
use crate::Resource;
use object::{Cause, Value};

/// The row of Job.
pub(super) fn row() -> Resource {
    Resource::new("batch", "v1", "Job", "jobs")
        .in_all()
        .generation(&["spec"])
        .status()
        .selectable_as("status.successful", "status.succeeded", "0")
        .with_columns(columns())
        .with_hooks(Job)
}

struct Job;

impl Hooks for Job {
    fn default(&self, job: &mut Value) {
        default_job(job);
    }

    fn prepare_create(&self, job: &mut Value) {
        label_pods(job);
    }

    fn validate(&self, job: &Value) -> Vec<Cause> {
        validate_job(job)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        validate_job_update(new, old)
    }
}
