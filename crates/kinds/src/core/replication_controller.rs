//! ReplicationController: the replicas of a pod, in the form before ReplicaSet.

use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::edit::default_to;
use crate::template;
use object::table::Column;
use object::{Cause, Value};

/// The row of ReplicationController.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "ReplicationController", "replicationcontrollers")
        .short(&["rc"])
        .in_all()
        .generation(&["spec"])
        .status()
        .scale(&["spec", "selector"])
        .selectable_as("status.replicas", "status.replicas", "0")
        .with_columns(columns())
        .with_hooks(ReplicationController)
}

fn columns() -> Vec<Column> {
    let mut columns = template::replica_columns();
    columns.extend(cells::template_columns());
    columns.push(Column::new("Selector", |controller, _| cells::labels_at(controller, &["spec", "selector"])).wide());
    columns
}

struct ReplicationController;

impl Hooks for ReplicationController {
    fn default(&self, controller: &mut Value) {
        if let Some(labels) = controller.at(&["spec", "template", "metadata", "labels"]).cloned() {
            for path in [&["spec", "selector"][..], &["metadata", "labels"]] {
                if controller.at(path).and_then(Value::as_object).is_none_or(object::Map::is_empty) {
                    controller.set(path, labels.clone());
                }
            }
        }
        default_to(controller, &["spec", "replicas"], 1_i64);
        template::default_template(controller, &["spec", "template"]);
    }

    fn validate(&self, controller: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        template::validate_replicas(controller, &mut causes);
        template::validate_map_selector(controller, &mut causes);
        template::validate_template(controller, &["Always"], &mut causes);
        causes
    }
}
