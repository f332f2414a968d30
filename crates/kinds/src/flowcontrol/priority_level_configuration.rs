//! PriorityLevelConfiguration: how many requests of a priority run at once.

use crate::Resource;
use crate::cells;
use object::table::Column;

/// The row of PriorityLevelConfiguration.
pub(super) fn row() -> Resource {
    Resource::new("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations")
        .cluster()
        .generation(&["spec"])
        .status()
        .with_columns(vec![
            Column::name(),
            Column::new("Type", |level, _| cells::text(level, &["spec", "type"])),
            Column::new("NominalConcurrencyShares", |level, _| {
                match level.i64_at(&["spec", "limited", "nominalConcurrencyShares"]) {
                    Some(shares) => shares.into(),
                    None => "<none>".into(),
                }
            }),
            Column::new("Queues", |level, _| queuing(level, "queues")),
            Column::new("HandSize", |level, _| queuing(level, "handSize")),
            Column::new("QueueLengthLimit", |level, _| queuing(level, "queueLengthLimit")),
            Column::age(),
        ])
}

fn queuing(level: &object::Value, name: &str) -> object::Value {
    match level.i64_at(&["spec", "limited", "limitResponse", "queuing", name]) {
        Some(number) => number.into(),
        None => "<none>".into(),
    }
}
