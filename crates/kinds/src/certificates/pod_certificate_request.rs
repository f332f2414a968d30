//! PodCertificateRequest: a pod's wish for a certificate.

use crate::Resource;

/// The row of PodCertificateRequest.
pub(super) fn row() -> Resource {
    Resource::new("certificates.k8s.io", "v1", "PodCertificateRequest", "podcertificaterequests")
        .status()
        .selectable("spec.signerName")
}
