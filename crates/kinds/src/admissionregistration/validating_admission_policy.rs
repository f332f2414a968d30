//! ValidatingAdmissionPolicy: accepts or refuses objects by expressions.

use crate::Resource;

/// The row of ValidatingAdmissionPolicy.
pub(super) fn row() -> Resource {
    Resource::new("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies")
        .cluster()
        .in_api_extensions()
        .generation(&["spec"])
        .status()
}
