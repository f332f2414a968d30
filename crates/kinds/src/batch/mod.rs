//! The kinds of batch.

mod cron_job;
mod job;
mod job_rules;

use crate::Resource;

/// The rows, in the order of discovery.
pub(crate) fn rows() -> Vec<Resource> {
    vec![cron_job::row(), job::row()]
}
