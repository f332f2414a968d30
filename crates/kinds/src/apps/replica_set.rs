//! ReplicaSet: a number of equal pods.

use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::edit::default_to;
use crate::template;
use crate::validation::immutable;
use object::table::Column;
use object::{Cause, Value};

/// The row of ReplicaSet.
pub(super) fn row() -> Resource {
    Resource::new("apps", "v1", "ReplicaSet", "replicasets")
        .short(&["rs"])
        .in_all()
        .generation(&["spec"])
        .status()
        .scale(&["spec", "selector"])
        .selectable_as("status.replicas", "status.replicas", "0")
        .with_columns(columns())
        .with_hooks(ReplicaSet)
}

fn columns() -> Vec<Column> {
    let mut columns = template::replica_columns();
    columns.extend(cells::template_columns());
    columns.push(cells::selector_column());
    columns
}

struct ReplicaSet;

impl Hooks for ReplicaSet {
    fn default(&self, set: &mut Value) {
        default_to(set, &["spec", "replicas"], 1_i64);
        template::default_template(set, &["spec", "template"]);
    }

    fn validate(&self, set: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        template::validate_replicas(set, &mut causes);
        template::validate_selector(set, &mut causes);
        template::validate_template(set, &["Always"], &mut causes);
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        immutable(&mut causes, new, old, &["spec", "selector"]);
        causes
    }
}
