//! What a request for logs asks for, checked as upstream's PodLogOptions before the pod is looked up.

use crate::serve::Parameters;
use crate::write::{cause, unsupported};
use object::{Cause, GroupVersionKind, Status};

/// Refuses options that are malformed (400) or make no sense (422).
pub(super) fn check(query: &Parameters, pod: &str) -> Result<(), Status> {
    let tail_lines = query.number("tailLines")?;
    let limit_bytes = query.number("limitBytes")?;
    let since_seconds = query.number("sinceSeconds")?;
    let since_time = query.get("sinceTime").filter(|text| !text.is_empty() && *text != "null");
    if let Some(text) = since_time
        && object::time::parse(text).is_none()
    {
        return Err(Status::bad_request(object::time::parse_fault(text)));
    }
    let mut causes: Vec<Cause> = Vec::new();
    let mut at_least = |field: &str, given: Option<i64>, least: i64| {
        if let Some(given) = given.filter(|given| *given < least) {
            let why = if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            causes.push(cause("FieldValueInvalid", field, format!("Invalid value: {given}: {why}")));
        }
    };
    at_least("tailLines", tail_lines, 0);
    at_least("limitBytes", limit_bytes, 1);
    if since_time.is_some() && since_seconds.is_some() {
        let why = "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified";
        causes.push(cause("FieldValueForbidden", "[]", why));
    } else {
        at_least("sinceSeconds", since_seconds, 1);
    }
    if let Some(stream) = query.get("stream") {
        if !matches!(stream, "All" | "Stdout" | "Stderr") {
            causes.push(unsupported("stream", &format!("{stream:?}"), r#""All", "Stderr", "Stdout""#));
        } else if stream != "All" && tail_lines.is_some() {
            let why = "Forbidden: `tailLines` and specific `stream` are mutually exclusive for now";
            causes.push(cause("FieldValueForbidden", "[]", why));
        }
    }
    if causes.is_empty() {
        return Ok(());
    }
    let kind = GroupVersionKind { group: "".into(), version: "v1".into(), kind: "PodLogOptions".into() };
    Err(Status::invalid(&kind, pod, causes))
}
