//! CertificateSigningRequests: approval of nodes' own requests, signing of what is approved, removal of old ones.
//!
//! Source: KEP-1513, upstream's certificate controllers; the rules for nodes stand in docs/decisions/0011-joining.md.

mod approve;
mod clean;
mod request;
mod sign;
mod tokens;

pub use approve::NodeCertificateApprover;
pub use clean::CertificateCleaner;
pub use sign::CertificateSigner;
pub use tokens::TokenCleaner;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The signer of nodes' client certificates.
const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// The signer of nodes' serving certificates.
const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
/// The signer of other client certificates.
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// The signer of what came before signers had names.
const LEGACY: &str = "kubernetes.io/legacy-unknown";
const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// The node that a machine with a join token wants to become by this request; none where it is another sort of request.
pub(crate) fn joining_node(request: &CertificateSigningRequest) -> Option<String> {
    if request.spec.signer_name != NODE_CLIENT || tokens::token_of(request.spec.username.as_deref()?).is_none() {
        return None;
    }
    let requested = request::Requested::read(request).ok()?;
    requested.common_name.strip_prefix(NODE_PREFIX).filter(|node| !node.is_empty()).map(str::to_owned)
}

fn has_condition(request: &CertificateSigningRequest, condition_type: &str) -> bool {
    let conditions = request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == condition_type)
}

fn is_approved(request: &CertificateSigningRequest) -> bool {
    has_condition(request, "Approved")
}

fn is_decided(request: &CertificateSigningRequest) -> bool {
    is_approved(request) || has_condition(request, "Denied")
}

fn is_issued(request: &CertificateSigningRequest) -> bool {
    request.status.as_ref().and_then(|status| status.certificate.as_ref()).is_some_and(|bytes| !bytes.0.is_empty())
}

/// The request with one more condition.
fn with_condition(
    request: &CertificateSigningRequest,
    condition_type: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> CertificateSigningRequest {
    let mut changed = request.clone();
    let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.push(CertificateSigningRequestCondition {
        type_: condition_type.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
    changed
}

#[cfg(test)]
mod tests;
