//! The kinds of certificates.k8s.io.

mod certificate_signing_request;
mod cluster_trust_bundle;
mod pod_certificate_request;

use crate::Resource;

/// The rows, in the order of discovery.
pub(crate) fn rows() -> Vec<Resource> {
    vec![certificate_signing_request::row(), cluster_trust_bundle::row(), pod_certificate_request::row()]
}
