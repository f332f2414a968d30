//! MutatingAdmissionPolicyBinding: where a MutatingAdmissionPolicy applies.

use super::webhooks;
use crate::Resource;
use crate::cells;
use object::table::Column;

/// The row of MutatingAdmissionPolicyBinding.
pub(super) fn row() -> Resource {
    Resource::new(
        "admissionregistration.k8s.io",
        "v1",
        "MutatingAdmissionPolicyBinding",
        "mutatingadmissionpolicybindings",
    )
    .cluster()
    .in_api_extensions()
    .generation(&["spec"])
    .with_columns(vec![
        Column::name(),
        Column::new("PolicyName", |binding, _| cells::text(binding, &["spec", "policyName"])),
        Column::new("ParamRef", |binding, _| webhooks::param_reference(binding)),
        Column::age(),
    ])
}
