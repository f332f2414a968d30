//! FlowSchema: which requests share a flow.

use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::edit::default_number;
use object::Value;
use object::table::Column;

/// The row of FlowSchema.
pub(super) fn row() -> Resource {
    Resource::new("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas")
        .cluster()
        .generation(&["spec"])
        .status()
        .with_columns(vec![
            Column::name(),
            Column::new("PriorityLevel", |schema, _| {
                cells::text(schema, &["spec", "priorityLevelConfiguration", "name"])
            }),
            Column::new("MatchingPrecedence", |schema, _| cells::number(schema, &["spec", "matchingPrecedence"]))
                .of("integer"),
            Column::new("DistinguisherMethod", |schema, _| {
                cells::text_or(schema, &["spec", "distinguisherMethod", "type"], "<none>")
            }),
            Column::age(),
            Column::new("MissingPL", |schema, _| {
                let dangling = |one: &&Value| one.str_at(&["type"]) == Some("Dangling");
                let one = crate::edit::items(schema, &["status", "conditions"]).iter().find(dangling);
                one.and_then(|one| one.str_at(&["status"])).unwrap_or("?").into()
            }),
        ])
        .with_hooks(FlowSchema)
}

struct FlowSchema;

impl Hooks for FlowSchema {
    fn default(&self, schema: &mut Value) {
        default_number(schema, &["spec", "matchingPrecedence"], 1_000);
    }
}
