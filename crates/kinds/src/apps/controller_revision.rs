//! ControllerRevision: an earlier state of a DaemonSet or StatefulSet.

use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::validation::{immutable, in_range};
use object::table::Column;
use object::{Cause, Value};

/// The row of ControllerRevision.
pub(super) fn row() -> Resource {
    Resource::new("apps", "v1", "ControllerRevision", "controllerrevisions")
        .with_columns(vec![
            Column::name(),
            Column::new("Controller", |revision, _| match object::meta::controller(revision) {
                Some(owner) => {
                    let group =
                        owner.api_version.rsplit_once('/').map(|(group, _)| format!(".{group}")).unwrap_or_default();
                    format!("{}{group}/{}", owner.kind.to_lowercase(), owner.name).into()
                }
                None => "<none>".into(),
            }),
            Column::new("Revision", |revision, _| cells::number(revision, &["revision"])),
            Column::age(),
        ])
        .with_hooks(ControllerRevision)
}

struct ControllerRevision;

impl Hooks for ControllerRevision {
    fn validate(&self, revision: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        in_range(&mut causes, revision, &["revision"], "revision", 0, i64::MAX);
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        immutable(&mut causes, new, old, &["data"]);
        causes
    }
}
