//! Renders objects into a meta.k8s.io/v1 Table.

use super::Column;
use crate::{Map, Value};
use jiff::Timestamp;

/// The `includeObject` of a request for a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Each row carries its object's metadata as a PartialObjectMetadata.
    #[default]
    Metadata,
    /// Rows carry no object.
    None,
    /// Each row carries the whole object.
    Object,
}

impl IncludeObject {
    /// Reads the query parameter; None where the value is none of upstream's.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// Name and Created At: what a kind without columns of its own shows.
#[must_use]
pub fn default_columns() -> Vec<Column> {
    let mut created = Column::new("Created At", |object, _| {
        object.str_at(&["metadata", "creationTimestamp"]).unwrap_or_default().into()
    });
    created.kind = "date".into();
    created.description = "CreationTimestamp is the time at which the server created the object.".into();
    vec![Column::name(), created]
}

/// The age of a timestamp as kubectl shows it: `5d3h`, or `<unknown>` where there is none.
#[must_use]
pub fn age(timestamp: Option<&str>, now: Timestamp) -> String {
    match timestamp.and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(then) => crate::time::duration_short(now.duration_since(then)),
        None => "<unknown>".into(),
    }
}

/// The Table of `items`; `metadata` is the list's (resourceVersion, continue, remainingItemCount), or empty.
#[must_use]
pub fn render<'a>(
    columns: &[Column],
    metadata: Map,
    items: impl IntoIterator<Item = &'a Value>,
    include: IncludeObject,
    now: Timestamp,
) -> Value {
    let definitions: Vec<Value> = columns.iter().map(definition).collect();
    let rows: Vec<Value> = items.into_iter().map(|item| row(columns, item, include, now)).collect();
    let mut table = Map::new();
    table.insert("kind", "Table");
    table.insert("apiVersion", "meta.k8s.io/v1");
    table.insert("metadata", metadata);
    table.insert("columnDefinitions", definitions);
    table.insert("rows", rows);
    Value::Object(table)
}

fn definition(column: &Column) -> Value {
    let mut definition = Map::new();
    definition.insert("name", column.name.clone());
    definition.insert("type", column.kind.clone());
    definition.insert("format", column.format.clone());
    definition.insert("description", column.description.clone());
    definition.insert("priority", i64::from(column.priority));
    Value::Object(definition)
}

fn row(columns: &[Column], item: &Value, include: IncludeObject, now: Timestamp) -> Value {
    let cells: Vec<Value> = columns.iter().map(|column| column.cell.value(item, now)).collect();
    let mut row = Map::new();
    row.insert("cells", cells);
    match include {
        IncludeObject::None => {}
        IncludeObject::Object => {
            row.insert("object", item.clone());
        }
        IncludeObject::Metadata => {
            let mut partial = Map::new();
            partial.insert("kind", "PartialObjectMetadata");
            partial.insert("apiVersion", "meta.k8s.io/v1");
            partial.insert("metadata", item.get("metadata").cloned().unwrap_or(Value::Object(Map::new())));
            row.insert("object", partial);
        }
    }
    Value::Object(row)
}
