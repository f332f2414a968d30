//! ValidatingAdmissionPolicy: accepts or refuses objects by expressions.

use super::webhooks;
use crate::Resource;
use crate::cells;
use object::Value;
use object::table::Column;

/// The row of ValidatingAdmissionPolicy.
pub(super) fn row() -> Resource {
    Resource::new("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies")
        .cluster()
        .in_api_extensions()
        .generation(&["spec"])
        .status()
        .with_columns(vec![
            Column::name(),
            Column::new("Validations", |policy, _| Value::Int(cells::count(policy, &["spec", "validations"])))
                .of("integer"),
            Column::new("ParamKind", |policy, _| webhooks::param_kind(policy)),
            Column::age(),
        ])
}
