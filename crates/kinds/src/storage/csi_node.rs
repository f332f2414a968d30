//! CSINode: the storage drivers of a node.

use crate::Resource;
use crate::cells;
use object::Value;
use object::table::Column;

/// The row of CSINode.
pub(super) fn row() -> Resource {
    Resource::new("storage.k8s.io", "v1", "CSINode", "csinodes").cluster().with_columns(vec![
        Column::name(),
        Column::new("Drivers", |node, _| Value::Int(cells::count(node, &["spec", "drivers"]))).of("integer"),
        Column::age(),
    ])
}
