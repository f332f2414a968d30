//! Removes old requests: approved or denied ones after an hour, pending ones after a day, expired ones at once.

use super::{has_condition, is_approved, is_issued};
use crate::action::{Action, Plan};
use crate::controller::{Change, Controller};
use crate::view::{Key, Typed, View};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

const DECIDED_LIFE: SignedDuration = SignedDuration::from_hours(1);
const PENDING_LIFE: SignedDuration = SignedDuration::from_hours(24);

/// The cleaner of CertificateSigningRequests.
#[derive(Debug)]
pub struct CertificateCleaner;

impl Controller for CertificateCleaner {
    const NAME: &'static str = "certificate-controller";
    const COMPONENT: &'static str = "csrcleaner";
    type Memory = ();

    fn keys(_view: &View, change: Change<'_>) -> Vec<Key> {
        match change.new {
            Some(Typed::CertificateSigningRequest(request)) => vec![Key::of(&request.metadata)],
            _ => Vec::new(),
        }
    }

    fn plan(view: &View, key: &Key, _memory: &mut (), now: Timestamp) -> Plan {
        let Some(request) = view.certificate_signing_requests.at(key) else { return Plan::nothing() };
        let Some(ends) = ends_at(request) else { return Plan::nothing() };
        if ends <= now {
            return Plan::of(vec![Action::delete(&**request)]);
        }
        Plan { actions: Vec::new(), requeue_at: Some(ends) }
    }
}

fn ends_at(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let conditions = request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let after = |life: SignedDuration, from: Timestamp| from.checked_add(life).unwrap_or(Timestamp::MAX);
    let mut ends: Option<Timestamp> = None;
    let mut sooner = |at: Timestamp| ends = Some(ends.map_or(at, |known: Timestamp| known.min(at)));
    for condition in conditions {
        let since = condition.last_update_time.as_ref().or(condition.last_transition_time.as_ref());
        let ending = match condition.type_.as_str() {
            "Denied" | "Failed" => true,
            "Approved" => is_issued(request),
            _ => false,
        };
        if let Some(since) = since.filter(|_| ending) {
            sooner(after(DECIDED_LIFE, since.0));
        }
    }
    if is_issued(request) {
        let certificate = request.status.as_ref().and_then(|status| status.certificate.as_ref());
        if let Some(expires) = certificate.and_then(|bytes| expiry(&bytes.0)) {
            sooner(expires);
        }
    } else if !(is_approved(request) || has_condition(request, "Denied") || has_condition(request, "Failed"))
        && let Some(created) = &request.metadata.creation_timestamp
    {
        sooner(after(PENDING_LIFE, created.0));
    } else if is_approved(request)
        && let Some(created) = &request.metadata.creation_timestamp
    {
        // Approved and never issued: nobody signs for this signer.
        sooner(after(PENDING_LIFE, created.0));
    }
    ends
}

fn expiry(pem: &[u8]) -> Option<Timestamp> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let certificate = pem.parse_x509().ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}
