//! What `kubectl get events` shows.

use crate::cells::{since, text};
use jiff::Timestamp;
use object::Value;
use object::table::Column;

/// The columns of events.
pub(crate) fn columns() -> Vec<Column> {
    let mut name = Column::name().wide();
    name.priority = 1;
    vec![
        Column::new("Last Seen", last_seen),
        Column::new("Type", |event, _| text(event, &["type"])),
        Column::new("Reason", |event, _| text(event, &["reason"])),
        Column::new("Object", |event, _| {
            let kind = event.str_at(&["involvedObject", "kind"]).unwrap_or_default().to_lowercase();
            match event.str_at(&["involvedObject", "name"]).unwrap_or_default() {
                "" => kind.into(),
                name => format!("{kind}/{name}").into(),
            }
        }),
        Column::new("Subobject", |event, _| text(event, &["involvedObject", "fieldPath"])).wide(),
        Column::new("Source", |event, _| source(event).into()).wide(),
        Column::new("Message", |event, _| event.str_at(&["message"]).unwrap_or_default().trim().into()),
        Column::new("First Seen", first_seen).wide(),
        Column::new("Count", |event, _| {
            let series = event.at(&["series"]).filter(|series| !series.is_null());
            let count = series.map_or(event.i64_at(&["count"]), |series| series.i64_at(&["count"])).unwrap_or_default();
            Value::Int(if series.is_none() && count == 0 { 1 } else { count })
        })
        .wide(),
        name,
    ]
}

fn first_seen(event: &Value, now: Timestamp) -> Value {
    match event.str_at(&["firstTimestamp"]) {
        Some(_) => since(event, &["firstTimestamp"], now, "<unknown>"),
        None => since(event, &["eventTime"], now, "<unknown>"),
    }
}

fn last_seen(event: &Value, now: Timestamp) -> Value {
    if event.at(&["series"]).is_some_and(|series| !series.is_null()) {
        return since(event, &["series", "lastObservedTime"], now, "<unknown>");
    }
    match event.str_at(&["lastTimestamp"]) {
        Some(_) => since(event, &["lastTimestamp"], now, "<unknown>"),
        None => first_seen(event, now),
    }
}

fn source(event: &Value) -> String {
    let at = |path: &[&str]| event.str_at(path).unwrap_or_default().to_owned();
    let component = match at(&["source", "component"]) {
        none if none.is_empty() => at(&["reportingComponent"]),
        component => component,
    };
    let host = match at(&["source", "host"]) {
        none if none.is_empty() => at(&["reportingInstance"]),
        host => host,
    };
    if host.is_empty() { component } else { format!("{component}, {host}") }
}
