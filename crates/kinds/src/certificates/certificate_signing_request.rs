//! CertificateSigningRequest: a wish for a certificate.

use crate::Hooks;
use crate::cells;
use crate::edit::items;
use crate::row::{Resource, Role};
use crate::validation::{has_text, immutable, required};
use object::table::Column;
use object::{Cause, Value};

/// The row of CertificateSigningRequest.
pub(super) fn row() -> Resource {
    Resource::new("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests")
        .cluster()
        .short(&["csr"])
        .status()
        .own_subresource("approval", Role::Approval)
        .selectable("spec.signerName")
        .with_columns(columns())
        .with_hooks(CertificateSigningRequest)
}

fn columns() -> Vec<Column> {
    vec![
        Column::name(),
        Column::age(),
        Column::new("SignerName", |request, _| cells::text_or(request, &["spec", "signerName"], "<none>")),
        Column::new("Requestor", |request, _| cells::text(request, &["spec", "username"])),
        Column::new("RequestedDuration", |request, _| match request.i64_at(&["spec", "expirationSeconds"]) {
            Some(seconds) => object::time::duration_short(jiff::SignedDuration::from_secs(seconds)).into(),
            None => "<none>".into(),
        }),
        Column::new("Condition", |request, _| condition(request).into()),
    ]
}

fn condition(request: &Value) -> String {
    let has =
        |kind: &str| items(request, &["status", "conditions"]).iter().any(|one| one.str_at(&["type"]) == Some(kind));
    let mut text = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }
    .to_owned();
    if has("Failed") {
        text.push_str(",Failed");
    }
    if has_text(request, &["status", "certificate"]) {
        text.push_str(",Issued");
    }
    text
}

struct CertificateSigningRequest;

impl Hooks for CertificateSigningRequest {
    fn prepare_update(&self, new: &mut Value, old: &Value) {
        // The request says what its sender asked for; nobody changes it later.
        if let Some(spec) = old.get("spec") {
            new.set(&["spec"], spec.clone());
        }
    }

    fn validate(&self, request: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        if !has_text(request, &["spec", "request"]) {
            causes.push(required("spec.request", ""));
        }
        if !has_text(request, &["spec", "signerName"]) {
            causes.push(required("spec.signerName", ""));
        }
        if items(request, &["spec", "usages"]).is_empty() {
            causes.push(required("spec.usages", ""));
        }
        if let Some(seconds) = request.i64_at(&["spec", "expirationSeconds"]).filter(|seconds| *seconds < 600) {
            let detail = "may not specify a duration less than 600 seconds (10 minutes)";
            causes.push(crate::validation::invalid("spec.expirationSeconds", &Value::Int(seconds), detail));
        }
        causes
    }

    fn validate_status(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        if has_text(old, &["status", "certificate"]) {
            immutable(&mut causes, new, old, &["status", "certificate"]);
        }
        causes
    }
}
