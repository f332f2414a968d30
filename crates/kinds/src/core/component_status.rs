//! ComponentStatus: the health of control plane parts, kept for old clients.

use crate::Resource;
use crate::cells;
use object::table::Column;

/// The row of ComponentStatus.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "ComponentStatus", "componentstatuses")
        .cluster()
        .short(&["cs"])
        .with_verbs(&["get", "list"])
        .with_columns(vec![
            Column::name(),
            Column::new("Status", |component, _| {
                let healthy = |one: &&object::Value| one.str_at(&["type"]) == Some("Healthy");
                match crate::edit::items(component, &["conditions"])
                    .iter()
                    .find(healthy)
                    .and_then(|one| one.str_at(&["status"]))
                {
                    Some("True") => "Healthy".into(),
                    Some(_) => "Unhealthy".into(),
                    None => "Unknown".into(),
                }
            }),
            Column::new("Message", |component, _| match crate::edit::items(component, &["conditions"]).first() {
                Some(first) => cells::text(first, &["message"]),
                None => "".into(),
            }),
            Column::new("Error", |component, _| match crate::edit::items(component, &["conditions"]).first() {
                Some(first) => cells::text(first, &["error"]),
                None => "".into(),
            }),
        ])
}
