//! From a decoded body to the hub version: kind check, unknown fields, types, defaults, conversion.

use crate::core::{Call, Scope, Validation};
use object::{Cause, Map, Status, Value, meta, schema};

/// A decoded body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Body {
    /// The object in the version of the request.
    pub(crate) value: Value,
    /// Paths of members that were given twice.
    pub(crate) duplicates: Vec<String>,
    /// Whether the object came from our own code or from protobuf: nothing unknown can be in it.
    pub(crate) trusted: bool,
}

impl Body {
    /// An object made by our own code.
    pub(crate) fn trusted(value: Value) -> Self {
        Body { value, duplicates: Vec::new(), trusted: true }
    }
}

/// Where strict errors are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A whole object.
    Object,
    /// The outcome of a patch.
    Patch,
}

/// Checks, prunes, defaults and converts `body` to the hub version.
pub(crate) fn incoming(call: &Call<'_>, body: Body, source: Source) -> Result<Value, Status> {
    let Body { mut value, duplicates, trusted } = body;
    let version = call.scope.version();
    if trusted {
        check_kind(call, &mut value)?;
    } else {
        admit_fields(call, &mut value, duplicates, source)?;
    }
    schema::normalise(version.schemas(), version.type_id(), &mut value);
    schema::apply_defaults(version.schemas(), version.type_id(), &mut value);
    to_hub(call, &mut value);
    call.scope.row.hooks.default(&mut value);
    Ok(value)
}

/// Checks kind and types, and drops or refuses what the type does not know.
pub(crate) fn admit_fields(
    call: &Call<'_>,
    value: &mut Value,
    duplicates: Vec<String>,
    source: Source,
) -> Result<(), Status> {
    let version = call.scope.version();
    check_kind(call, value)?;
    let mut unknown = duplicates.into_iter().map(|path| format!("duplicate field \"{path}\"")).collect::<Vec<_>>();
    let pruned = schema::prune(version.schemas(), version.type_id(), value);
    unknown.extend(pruned.into_iter().map(|path| format!("unknown field \"{path}\"")));
    report_unknown(call, &unknown, source)?;
    let faults: Vec<Cause> = schema::check(version.schemas(), version.type_id(), value)
        .into_iter()
        .filter(|cause| cause.reason != "FieldValueRequired") // the kind's own rules word what is required
        .collect();
    match faults.first() {
        Some(first) => Err(undecodable(call, &format!("{}: {}", first.field, first.message))),
        None => Ok(()),
    }
}

/// 400 for a body that does not fit its type.
pub(crate) fn undecodable(call: &Call<'_>, why: &str) -> Status {
    let kind = &call.scope.row.kind;
    let message = format!("{kind} in version \"{}\" cannot be handled as a {kind}: {why}", call.scope.version().name);
    Status::bad_request(message)
}

fn report_unknown(call: &Call<'_>, unknown: &[String], source: Source) -> Result<(), Status> {
    if unknown.is_empty() {
        return Ok(());
    }
    match (call.options.validation, source) {
        (Validation::Ignore, _) => {}
        (Validation::Warn, _) => unknown.iter().for_each(|one| call.warn(one.clone())),
        (Validation::Strict, Source::Object) => {
            return Err(undecodable(call, &format!("strict decoding error: {}", unknown.join(", "))));
        }
        (Validation::Strict, Source::Patch) => {
            let mut status = Status::new(422, "Invalid", String::new());
            let message = format!("Invalid value: strict decoding error: {}", unknown.join(", "));
            status.message = format!(" \"\" is invalid: patch: {message}");
            status.causes = vec![super::metadata::cause("FieldValueInvalid", "patch", message)];
            return Err(status);
        }
    }
    Ok(())
}

/// apiVersion and kind must be those of the path; where they are missing they are filled in.
fn check_kind(call: &Call<'_>, value: &mut Value) -> Result<(), Status> {
    let expected = call.scope.api_version();
    let kind = call.scope.row.kind.clone();
    let Value::Object(map) = value else {
        return Err(undecodable(call, "json: the body is no object"));
    };
    let given = |map: &Map, name: &str| map.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let given_version = given(map, "apiVersion");
    let given_kind = given(map, "kind");
    if !given_kind.is_empty() && given_kind != kind {
        let message = format!(
            "{given_kind} in version \"{}\" cannot be handled as a {kind}: converting ({given_version}.{given_kind}) to \
             ({expected}.{kind}): unknown conversion",
            given_version.rsplit('/').next().unwrap_or_default(),
        );
        return Err(Status::bad_request(message));
    }
    if !given_version.is_empty() && given_version != expected {
        let message = format!(
            "the API version in the data ({given_version}) does not match the expected API version ({expected})"
        );
        return Err(Status::bad_request(message));
    }
    map.insert("apiVersion", expected);
    map.insert("kind", kind);
    if !matches!(map.get("metadata"), Some(Value::Object(_))) {
        map.insert("metadata", Map::new());
    }
    Ok(())
}

/// Converts from the request's version to the hub.
pub(crate) fn to_hub(call: &Call<'_>, value: &mut Value) {
    if !call.scope.is_hub() {
        if let Some(convert) = call.scope.version().convert_to_hub {
            convert(value);
        }
        meta::set_group_version_kind(value, &call.scope.row.hub);
    }
}

/// Converts from the hub to the version of `scope`.
pub(crate) fn to_version(scope: &Scope<'_>, value: &mut Value) {
    if !scope.is_hub() {
        if let Some(convert) = scope.version().convert_from_hub {
            convert(value);
        }
        meta::set_group_version_kind(value, &scope.gvk());
    }
}
