//! Job: pods that run to completion.

use crate::Resource;

/// The row of Job.
pub(super) fn row() -> Resource {
    Resource::new("batch", "v1", "Job", "jobs")
        .in_all()
        .generation(&["spec"])
        .status()
        .selectable_as("status.successful", "status.succeeded", "0")
}
