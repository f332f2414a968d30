//! ResourceQuota: what a namespace may use.

use crate::Resource;
use object::table::Column;
use object::{Map, Value};

/// The row of ResourceQuota.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "ResourceQuota", "resourcequotas")
        .short(&["quota"])
        .status()
        .creatable_by_update()
        .with_columns(vec![
            Column::name(),
            Column::new("Request", |quota, _| used(quota, false).into()),
            Column::new("Limit", |quota, _| used(quota, true).into()),
            Column::age(),
        ])
}

/// `name: used/hard` of all resources that are limits, or that are not.
fn used(quota: &Value, limits: bool) -> String {
    let hard = quota.at(&["status", "hard"]).and_then(Value::as_object);
    let one = |(name, hard): (&str, &Value)| {
        let used = quota.str_at(&["status", "used", name]).unwrap_or("0").to_owned();
        (name.starts_with("limits") == limits).then(|| format!("{name}: {used}/{}", hard.as_str().unwrap_or("0")))
    };
    hard.into_iter().flat_map(Map::iter).filter_map(one).collect::<Vec<_>>().join(", ")
}
