//! CronJob: Jobs by the clock.

use crate::Resource;

/// The row of CronJob.
pub(super) fn row() -> Resource {
    Resource::new("batch", "v1", "CronJob", "cronjobs")
        .short(&["cj"])
        .in_all()
        .generation(&["spec"])
        .status()
}
