//! Request bodies: JSON, YAML and protobuf into value trees, under limits.

use crate::write::{Body, PatchBody};
use client::PatchKind;
use object::schema::{Schemas, TypeId};
use object::{Limits, Status, Value, json, proto, yaml};

const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const ACCEPTED_PATCHES: &str = "application/json-patch+json, application/merge-patch+json, \
    application/apply-patch+yaml, application/strategic-merge-patch+json, application/apply-patch+cbor";

fn unsupported(accepted: &str) -> Status {
    let message =
        format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
    Status::new(415, "UnsupportedMediaType", message)
}

fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// How much of a body that is no object is shown in the error.
const SUMMARY_MAX_BYTES: usize = 30;
/// Go's way of printing the type that holds apiVersion and kind.
const KIND_FINDER: &str =
    r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;

/// 400 for bytes of which no kind can be read; `wanted` is the kind that belongs there.
fn unrecognised(wanted: &str, bytes: &[u8], why: &str) -> Status {
    let shown = &bytes[..bytes.len().min(SUMMARY_MAX_BYTES)];
    let mut summary = match bytes.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(shown).into_owned(),
        Some(_) => shown.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    if bytes.len() > SUMMARY_MAX_BYTES {
        summary.push_str(" ...");
    }
    Status::bad_request(format!("the object provided is unrecognized (must be of type {wanted}): {why} ({summary})"))
}

fn malformed(wanted: &str, bytes: &[u8], error: &object::DecodeError, what: &str) -> Status {
    if error.too_large {
        return Status::new(413, "RequestEntityTooLarge", format!("Request entity too large: {error}"));
    }
    unrecognised(wanted, bytes, &format!("{what}: {error}"))
}

/// Refuses what is no object, or whose apiVersion or kind is no text.
fn check_interpretable(wanted: &str, bytes: &[u8], value: &Value) -> Result<(), Status> {
    let refuse = |why: &str| {
        Err(unrecognised(
            wanted,
            bytes,
            &format!("couldn't get version/kind; json parse error: json: cannot unmarshal {why}"),
        ))
    };
    let Value::Object(map) = value else {
        return match value {
            Value::Null => Ok(()),
            other => refuse(&format!("{} into Go value of type {KIND_FINDER}", object::schema::json_kind(other))),
        };
    };
    for member in ["apiVersion", "kind"] {
        match map.get(member) {
            None | Some(Value::Null | Value::String(_)) => {}
            Some(other) => {
                let kind = object::schema::json_kind(other);
                return refuse(&format!("{kind} into Go struct field .{member} of type string"));
            }
        }
    }
    Ok(())
}

/// The definition of a kind by apiVersion and kind, for bodies that are not of the path's own kind.
pub(crate) fn definition(api_version: &str, kind: &str) -> Option<(&'static Schemas, TypeId)> {
    let schemas = kinds::schemas();
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let short = group.split('.').next().unwrap_or_default();
    let names = [
        format!("io.k8s.api.{}.{version}.{kind}", if short.is_empty() { "core" } else { short }),
        format!("io.k8s.apimachinery.pkg.apis.meta.{version}.{kind}"),
        format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"),
        format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}"),
        format!("io.k8s.kube-aggregator.pkg.apis.apiregistration.{version}.{kind}"),
    ];
    names.iter().find_map(|name| schemas.find(name)).map(|id| (schemas, id))
}

/// Decodes a body that is to hold a `wanted`, for errors. An empty content type means JSON.
pub(crate) fn decode_body(wanted: &str, content_type: &str, bytes: &[u8]) -> Result<Body, Status> {
    match media_type(content_type) {
        "" | "application/json" => {
            let what = "couldn't get version/kind; json parse error";
            let decoded =
                json::decode(bytes, &Limits::REQUEST).map_err(|error| malformed(wanted, bytes, &error, what))?;
            check_interpretable(wanted, bytes, &decoded.value)?;
            Ok(Body { value: decoded.value, duplicates: decoded.duplicates, trusted: false })
        }
        "application/yaml" | "application/x-yaml" => {
            let what = "error converting YAML to JSON: yaml";
            let decoded =
                yaml::decode(bytes, &Limits::REQUEST).map_err(|error| malformed(wanted, bytes, &error, what))?;
            check_interpretable(wanted, bytes, &decoded.value)?;
            Ok(Body { value: decoded.value, duplicates: decoded.duplicates, trusted: false })
        }
        "application/vnd.kubernetes.protobuf" => decode_protobuf(wanted, bytes),
        _ => Err(unsupported(ACCEPTED)),
    }
}

fn decode_protobuf(wanted: &str, bytes: &[u8]) -> Result<Body, Status> {
    let refuse = |why: &str| unrecognised(wanted, bytes, why);
    let envelope = proto::envelope::unwrap(bytes).map_err(|error| refuse(&error.to_string()))?;
    let (api_version, kind) = (&envelope.api_version, &envelope.kind);
    if envelope.content_type == "application/json" {
        // Clients put kinds that they know no message for into the envelope as JSON.
        return decode_body(wanted, "application/json", envelope.raw);
    }
    let (schemas, type_id) = definition(api_version, kind)
        .ok_or_else(|| refuse(&format!("no kind \"{kind}\" is registered for version \"{api_version}\"")))?;
    let mut value = proto::decode(schemas, type_id, envelope.raw, &Limits::REQUEST)
        .map_err(|error| malformed(wanted, bytes, &error, "protobuf"))?;
    value.set(&["apiVersion"], api_version.as_str().into());
    value.set(&["kind"], kind.as_str().into());
    Ok(Body { value, duplicates: Vec::new(), trusted: false })
}

fn undecodable_patch(error: &object::DecodeError, what: &str) -> Status {
    if error.too_large {
        return Status::new(413, "RequestEntityTooLarge", format!("Request entity too large: {error}"));
    }
    Status::bad_request(format!("{what}: {error}"))
}

/// Decodes a patch by its media type.
pub(crate) fn decode_patch(content_type: &str, bytes: &[u8]) -> Result<PatchBody, Status> {
    let kind = match media_type(content_type) {
        "application/json-patch+json" => PatchKind::Json,
        "application/merge-patch+json" => PatchKind::Merge,
        "application/strategic-merge-patch+json" => PatchKind::Strategic,
        "application/apply-patch+yaml" => PatchKind::Apply,
        _ => return Err(unsupported(ACCEPTED_PATCHES)),
    };
    let decoded = if kind == PatchKind::Apply {
        // JSON is YAML; its own decoder is the faster one and reports errors better.
        if bytes.first() == Some(&b'{') {
            json::decode(bytes, &Limits::REQUEST).map_err(|error| undecodable_patch(&error, "error decoding YAML"))?
        } else {
            yaml::decode(bytes, &Limits::REQUEST).map_err(|error| undecodable_patch(&error, "error decoding YAML"))?
        }
    } else {
        json::decode(bytes, &Limits::REQUEST).map_err(|error| undecodable_patch(&error, "error decoding patch"))?
    };
    if kind != PatchKind::Json && decoded.value.as_object().is_none() {
        let found = object::schema::json_kind(&decoded.value);
        let why = format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}");
        return Err(Status::bad_request(format!("error decoding patch: {why}")));
    }
    if kind == PatchKind::Json && !matches!(decoded.value, Value::Array(_)) {
        let found = object::schema::json_kind(&decoded.value);
        let why = format!("json: cannot unmarshal {found} into Go value of type jsonpatch.Patch");
        return Err(Status::bad_request(format!("error decoding patch: {why}")));
    }
    Ok(PatchBody { kind, value: decoded.value, duplicates: decoded.duplicates })
}
