//! Event: something that happened to an object.

use crate::Resource;

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
}
