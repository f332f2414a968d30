//! MutatingAdmissionPolicyBinding: where a MutatingAdmissionPolicy applies.

use crate::Resource;

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
}
