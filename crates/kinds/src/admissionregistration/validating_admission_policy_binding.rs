//! ValidatingAdmissionPolicyBinding: where a ValidatingAdmissionPolicy applies.

use crate::Resource;

/// The row of ValidatingAdmissionPolicyBinding.
pub(super) fn row() -> Resource {
    Resource::new(
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
    )
    .cluster()
    .in_api_extensions()
    .generation(&["spec"])
}
