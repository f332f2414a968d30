//! The cluster's authority as the control loop's signer; it knows which nodes were removed.

use api::Removals;
use api::pki::{Pki, requested_name};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Signs what the control loop has found fit.
pub(super) struct Authority {
    pub(super) pki: Arc<Pki>,
    pub(super) removals: Removals,
}

impl control_loop::Signer for Authority {
    fn sign(&self, request: &CertificateSigningRequest, lifetime_seconds: i64) -> Result<String, String> {
        let pem = std::str::from_utf8(&request.spec.request.0).map_err(|error| error.to_string())?;
        let lifetime = Duration::from_secs(lifetime_seconds.unsigned_abs());
        let now = match requested_name(pem) {
            Some(name) => issue_time(request, &name, |node| self.removals.at(node), Timestamp::now())?,
            None => Timestamp::now(),
        };
        self.pki.sign_request(pem, request.spec.usages.as_deref().unwrap_or_default(), lifetime, SystemTime::from(now))
    }
}

/// When a certificate counts as issued: later than the removal of a node of this name, so that a machine that joins again is let in at
/// once. What the removed node itself asked for before it was removed is not signed any more.
fn issue_time(
    request: &CertificateSigningRequest,
    name: &str,
    removed_at: impl Fn(&str) -> Option<Timestamp>,
    now: Timestamp,
) -> Result<Timestamp, String> {
    let Some(node) = name.strip_prefix("system:node:") else { return Ok(now) };
    let Some(removed) = removed_at(node) else { return Ok(now) };
    let asked = request.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let is_its_own = request.spec.username.as_deref() == Some(name);
    if is_its_own && asked.is_none_or(|asked| asked.as_second() <= removed.as_second()) {
        return Err(format!("node {node} was removed from the cluster at {removed}, after it asked"));
    }
    // Times in certificates are whole seconds.
    let next = Timestamp::from_second(removed.as_second().saturating_add(1)).map_err(|error| error.to_string())?;
    Ok(now.max(next))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn what_is_issued_after_a_removal_is_younger_than_it() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let removed = at("2026-11-28T12:00:00Z");
        let (own, token) = ("system:node:a", "system:bootstrap:abcdef");
        for (username, name, asked, now, expected) in [
            (token, "system:node:a", "2026-11-28T12:00:00Z", "2026-11-28T12:00:00.2Z", Some("2026-11-28T12:00:01Z")),
            (token, "system:node:a", "2026-11-28T11:59:59Z", "2026-11-28T12:00:05.5Z", Some("2026-11-28T12:00:05.5Z")),
            (own, "system:node:a", "2026-11-28T11:59:59Z", "2026-11-28T12:00:05Z", None),
            (own, "system:node:a", "2026-11-28T12:00:00Z", "2026-11-28T12:00:05Z", None),
            (own, "system:node:a", "2026-11-28T12:00:03Z", "2026-11-28T12:00:05Z", Some("2026-11-28T12:00:05Z")),
            (token, "system:node:b", "2026-11-28T11:00:00Z", "2026-11-28T11:00:00Z", Some("2026-11-28T11:00:00Z")),
            ("alice", "alice", "2026-11-28T11:00:00Z", "2026-11-28T11:00:00Z", Some("2026-11-28T11:00:00Z")),
        ] {
            let mut request = CertificateSigningRequest::default();
            request.metadata.creation_timestamp = Some(Time(at(asked)));
            request.spec.username = Some(username.to_owned());
            let found = issue_time(&request, name, |node| (node == "a").then_some(removed), at(now));
            assert_eq!(found.ok(), expected.map(at), "{username} {name} {asked} {now}");
        }
    }
}
