//! Lease: who leads, and until when.

use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::validation::in_range;
use object::table::Column;
use object::{Cause, Value};

/// The row of Lease.
pub(super) fn row() -> Resource {
    Resource::new("coordination.k8s.io", "v1", "Lease", "leases")
        .creatable_by_update()
        .with_columns(vec![
            Column::name(),
            Column::new("Holder", |lease, _| cells::text(lease, &["spec", "holderIdentity"])),
            Column::age(),
        ])
        .with_hooks(Lease)
}

struct Lease;

impl Hooks for Lease {
    fn validate(&self, lease: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        let path = ["spec", "leaseDurationSeconds"];
        if let Some(seconds) = lease.i64_at(&path).filter(|seconds| *seconds <= 0) {
            causes.push(crate::validation::invalid(
                "spec.leaseDurationSeconds",
                &Value::Int(seconds),
                "must be greater than 0",
            ));
        }
        in_range(&mut causes, lease, &["spec", "leaseTransitions"], "spec.leaseTransitions", 0, i64::MAX);
        causes
    }
}
