//! Has approved requests signed, each by the rules of its signer; what breaks them becomes Failed.

use super::request::{Requested, usages_are};
use super::{
    CLIENT, LEGACY, NODE_CLIENT, NODE_PREFIX, NODE_SERVING, NODES, has_condition, is_approved, is_issued,
    with_condition,
};
use crate::action::{Action, Plan};
use crate::controller::{Change, Controller};
use crate::view::{Key, Typed, View};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

/// Nodes renew theirs at two thirds.
const NODE_LIFETIME_SECONDS: i64 = 30 * 24 * 3600;
const LIFETIME_SECONDS_MAX: i64 = 365 * 24 * 3600;

/// The signer of CertificateSigningRequests.
#[derive(Debug)]
pub struct CertificateSigner;

impl Controller for CertificateSigner {
    const NAME: &'static str = "certificate-controller";
    const COMPONENT: &'static str = "csrsigning";
    type Memory = ();

    fn keys(_view: &View, change: Change<'_>) -> Vec<Key> {
        match change.new {
            Some(Typed::CertificateSigningRequest(request)) => vec![Key::of(&request.metadata)],
            _ => Vec::new(),
        }
    }

    fn plan(view: &View, key: &Key, _memory: &mut (), now: Timestamp) -> Plan {
        let Some(request) = view.certificate_signing_requests.at(key) else { return Plan::nothing() };
        let open = is_approved(request) && !has_condition(request, "Denied") && !has_condition(request, "Failed");
        let known = [NODE_CLIENT, NODE_SERVING, CLIENT, LEGACY].contains(&request.spec.signer_name.as_str());
        if !open || is_issued(request) || !known {
            return Plan::nothing();
        }
        let action = match Requested::read(request).and_then(|requested| permitted(request, &requested)) {
            Ok(()) => Action::Sign { request: Box::new((**request).clone()), lifetime_seconds: lifetime(request) },
            Err(why) => Action::update_status(&with_condition(request, "Failed", "SignerValidationFailure", &why, now)),
        };
        Plan::of(vec![action])
    }
}

/// What the signer demands of a request, in upstream's words.
fn permitted(request: &CertificateSigningRequest, requested: &Requested) -> Result<(), String> {
    let node_subject = || {
        if requested.organizations != [NODES] {
            return Err("subject organization is not system:nodes".to_owned());
        }
        if !requested.common_name.starts_with(NODE_PREFIX) {
            return Err("subject common name does not begin with system:node: ".to_owned());
        }
        Ok(())
    };
    match request.spec.signer_name.as_str() {
        NODE_CLIENT => {
            node_subject()?;
            if !requested.has_no_names() {
                return Err("subjectAltNames are not allowed".into());
            }
            if !usages_are(request, &["digital signature", "client auth"]) {
                return Err("usages did not match [client auth, digital signature, key encipherment]".into());
            }
        }
        NODE_SERVING => {
            node_subject()?;
            if requested.dns_names.is_empty() && requested.addresses.is_empty() {
                return Err("DNS or IP subjectAltName is required".into());
            }
            if requested.other_names > 0 {
                return Err("Email and URI subjectAltNames are not allowed".into());
            }
            if !usages_are(request, &["digital signature", "server auth"]) {
                return Err("usages did not match [digital signature, key encipherment, server auth]".into());
            }
        }
        CLIENT => {
            let usages = request.spec.usages.as_deref().unwrap_or_default();
            let allowed =
                |usage: &String| ["digital signature", "key encipherment", "client auth"].contains(&usage.as_str());
            if !usages.iter().all(allowed) || !usages.iter().any(|usage| usage == "client auth") {
                return Err("usages did not match [client auth, digital signature, key encipherment]".into());
            }
        }
        _ => {}
    }
    Ok(())
}

fn lifetime(request: &CertificateSigningRequest) -> i64 {
    let default =
        if request.spec.signer_name.as_str() == NODE_CLIENT || request.spec.signer_name.as_str() == NODE_SERVING {
            NODE_LIFETIME_SECONDS
        } else {
            LIFETIME_SECONDS_MAX
        };
    let wished = request.spec.expiration_seconds.map_or(default, i64::from);
    wished.clamp(600, LIFETIME_SECONDS_MAX)
}
