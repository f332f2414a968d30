//! Event: something that happened to an object, in the form of events.k8s.io; stored as core events.

use crate::Resource;
use object::GroupVersionKind;
use object::Value;

/// The row of Event.
pub(super) fn row() -> Resource {
    Resource::new("events.k8s.io", "v1", "Event", "events")
        .short(&["ev"])
        .with_columns(crate::core::event_columns())
        .with_hooks(crate::core::Event)
        .stored_as("events", GroupVersionKind::parse("v1", "Event"), to_hub, from_hub)
}

/// What core events call the members of events.k8s.io.
const NAMES: [(&str, &str); 7] = [
    ("reportingController", "reportingComponent"),
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn to_hub(object: &mut Value) {
    rename(object, "v1", NAMES.iter().copied());
}

fn from_hub(object: &mut Value) {
    rename(object, "events.k8s.io/v1", NAMES.iter().map(|(new, core)| (*core, *new)));
}

fn rename(object: &mut Value, api_version: &str, names: impl Iterator<Item = (&'static str, &'static str)>) {
    let Some(event) = object.as_object_mut() else {
        return;
    };
    event.insert("apiVersion", api_version);
    for (from, to) in names {
        if let Some(value) = event.remove(from) {
            event.insert(to, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{from_hub, to_hub};
    use object::{Map, Value};

    #[test]
    fn an_event_comes_back_from_the_hub_as_it_was() {
        let event: Map = [
            ("apiVersion", Value::from("events.k8s.io/v1")),
            ("kind", "Event".into()),
            ("note", "pulled".into()),
            ("reason", "Pulled".into()),
            ("regarding", Value::Object([("kind", "Pod")].into_iter().collect())),
            ("deprecatedCount", Value::Int(3)),
        ]
        .into_iter()
        .collect();
        let mut object = Value::Object(event.clone());
        to_hub(&mut object);
        assert_eq!(object.str_at(&["message"]), Some("pulled"));
        assert_eq!(object.str_at(&["involvedObject", "kind"]), Some("Pod"));
        assert_eq!(object.i64_at(&["count"]), Some(3));
        assert_eq!(object.str_at(&["apiVersion"]), Some("v1"));
        from_hub(&mut object);
        assert_eq!(object, Value::Object(event));
    }
}
