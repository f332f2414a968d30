//! MutatingAdmissionPolicy: changes objects by expressions.

use super::webhooks;
use crate::Resource;
use crate::cells;
use object::Value;
use object::table::Column;

/// The row of MutatingAdmissionPolicy.
pub(super) fn row() -> Resource {
    Resource::new("admissionregistration.k8s.io", "v1", "MutatingAdmissionPolicy", "mutatingadmissionpolicies")
        .cluster()
        .in_api_extensions()
        .generation(&["spec"])
        .with_columns(vec![
            Column::name(),
            Column::new("Mutations", |policy, _| Value::Int(cells::count(policy, &["spec", "mutations"])))
                .of("integer"),
            Column::new("ParamKind", |policy, _| webhooks::param_kind(policy)),
            Column::age(),
        ])
}
