//! MutatingAdmissionPolicy: changes objects by expressions.

use crate::Resource;

/// The row of MutatingAdmissionPolicy.
pub(super) fn row() -> Resource {
    Resource::new("admissionregistration.k8s.io", "v1", "MutatingAdmissionPolicy", "mutatingadmissionpolicies")
        .cluster()
        .in_api_extensions()
        .generation(&["spec"])
}
