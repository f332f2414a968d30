//! CertificateSigningRequest: a wish for a certificate.

use crate::row::{Resource, Role};

/// The row of CertificateSigningRequest.
pub(super) fn row() -> Resource {
    Resource::new("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests")
        .cluster()
        .short(&["csr"])
        .status()
        .own_subresource("approval", Role::Approval)
        .selectable("spec.signerName")
}
