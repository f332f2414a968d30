//! Event: something that happened to an object.

use super::event_columns::columns;
use crate::Hooks;
use crate::Resource;
use crate::validation::invalid_text;
use object::{Cause, Value};

/// The row of Event.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "Event", "events")
        .short(&["ev"])
        .creatable_by_update()
        .selectable("involvedObject.kind")
        .selectable("involvedObject.namespace")
        .selectable("involvedObject.name")
        .selectable("involvedObject.uid")
        .selectable("involvedObject.apiVersion")
        .selectable("involvedObject.resourceVersion")
        .selectable("involvedObject.fieldPath")
        .selectable("reason")
        .selectable("reportingComponent")
        .selectable_as("source", "source.component", "")
        .selectable("type")
        .with_columns(columns())
        .with_hooks(Event)
}

/// The code of events, whichever group they are written through.
pub(crate) struct Event;

impl Hooks for Event {
    fn validate(&self, event: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        let namespace = event.str_at(&["metadata", "namespace"]).unwrap_or_default();
        let involved = event.str_at(&["involvedObject", "namespace"]).unwrap_or_default();
        // Events about cluster-scoped objects live in the default namespace.
        let fits = if involved.is_empty() {
            matches!(namespace, "default" | "" | "kube-system")
        } else {
            involved == namespace
        };
        if !fits {
            causes.push(invalid_text("involvedObject.namespace", involved, "does not match event.namespace"));
        }
        // The newer form of events, which has an event time, limits the note.
        let new_form = event.get("eventTime").is_some_and(|time| !time.is_null());
        if new_form && event.str_at(&["message"]).is_some_and(|message| message.len() > 1024) {
            causes.push(invalid_text("message", "", "can have at most 1024 characters"));
        }
        causes
    }
}
