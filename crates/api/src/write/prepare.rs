//! From a decoded body to the hub version: kind check, unknown fields, types, defaults, conversion.

use crate::core::{Call, Scope, Validation};
use object::{GroupVersionKind, Map, Status, Value, apply, json, meta, schema};

/// How much of an object is shown in the error about a patch.
const SHOWN_MAX_BYTES: usize = 8 * 1024;

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
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Source<'a> {
    /// A whole object.
    Object,
    /// The outcome of a patch, which errors show.
    Patch,
    /// The outcome of this strategic merge patch, which errors show instead.
    Strategic(&'a Value),
}

/// Checks, prunes, defaults and converts `body` to the hub version.
pub(crate) fn incoming(call: &Call<'_>, body: Body, source: Source<'_>) -> Result<Value, Status> {
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
    source: Source<'_>,
) -> Result<(), Status> {
    let version = call.scope.version();
    check_kind(call, value)?;
    // The error of a strict patch shows what the patch made, which pruning changes.
    let shown = (call.options.validation == Validation::Strict && source == Source::Patch).then(|| value.clone());
    let mut unknown = duplicates.into_iter().map(|path| format!("duplicate field \"{path}\"")).collect::<Vec<_>>();
    let pruned = schema::prune(version.schemas(), version.type_id(), value);
    unknown.extend(pruned.into_iter().map(|path| format!("unknown field \"{path}\"")));
    if !unknown.is_empty() {
        match call.options.validation {
            Validation::Ignore => {}
            Validation::Warn => unknown.iter().for_each(|one| call.warn(one.clone())),
            Validation::Strict => {
                let why = format!("strict decoding error: {}", unknown.join(", "));
                return Err(unfit(call, shown.as_ref().unwrap_or(value), source, &why));
            }
        }
    }
    let faults = schema::check_types(version.schemas(), version.type_id(), value);
    match faults.first() {
        Some(first) => Err(unfit(call, value, source, &first.message)),
        None => Ok(()),
    }
}

/// A body, or what a patch made of an object, does not fit its type: 400 or 422.
pub(super) fn unfit(call: &Call<'_>, value: &Value, source: Source<'_>, why: &str) -> Status {
    if source == Source::Object {
        return undecodable(call, why);
    }
    let mut text = match source {
        Source::Strategic(patch) => apply::printed(patch),
        _ => String::from_utf8_lossy(&json::encode(value)).into_owned(),
    };
    if text.len() > SHOWN_MAX_BYTES {
        text.truncate(text.floor_char_boundary(SHOWN_MAX_BYTES));
        text.push_str(" ...");
    }
    let cause = super::metadata::cause("FieldValueInvalid", "patch", format!("Invalid value: {text:?}: {why}"));
    let nothing = GroupVersionKind { group: "".into(), version: "".into(), kind: "".into() };
    Status::invalid(&nothing, "", vec![cause])
}

/// 400 for a body that does not fit its type.
pub(crate) fn undecodable(call: &Call<'_>, why: &str) -> Status {
    let kind = &call.scope.row.kind;
    let message = format!("{kind} in version \"{}\" cannot be handled as a {kind}: {why}", call.scope.version().name);
    Status::bad_request(message)
}

/// apiVersion and kind must be those of the path; where they are missing they are filled in.
fn check_kind(call: &Call<'_>, value: &mut Value) -> Result<(), Status> {
    let expected = call.scope.gvk();
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(map) = value else {
        let found = schema::json_kind(value);
        let why = format!("json: cannot unmarshal {found} into Go value of type {}", go_name(&expected));
        return Err(undecodable(call, &why));
    };
    let given = |map: &Map, name: &str| map.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (given_version, given_kind) = (given(map, "apiVersion"), given(map, "kind"));
    let api_version = expected.api_version();
    let differs = |given: &str, expected: &str| !given.is_empty() && given != expected;
    if differs(&given_kind, &expected.kind) || differs(&given_version, &api_version) {
        let text = |given: &str, expected: &str| if given.is_empty() { expected.to_owned() } else { given.to_owned() };
        let given = GroupVersionKind::parse(&text(&given_version, &api_version), &text(&given_kind, &expected.kind));
        return Err(wrong_kind(call, &given, &expected));
    }
    map.insert("apiVersion", api_version);
    map.insert("kind", expected.kind);
    if map.get("metadata").is_none_or(Value::is_null) {
        map.insert("metadata", Map::new());
    }
    Ok(())
}

/// 400 for an object of another kind or version than the path's.
fn wrong_kind(call: &Call<'_>, given: &GroupVersionKind, expected: &GroupVersionKind) -> Status {
    let (kind, version) = (&given.kind, &given.version);
    let head = format!("{kind} in version {:?} cannot be handled as a {}", version.as_str(), expected.kind);
    let api_version = given.api_version();
    if call.core.table().by_kind(given).is_none() {
        let scheme = "pkg/api/legacyscheme/scheme.go:30";
        let why = format!("no kind {:?} is registered for version {api_version:?} in scheme {scheme:?}", kind.as_str());
        return Status::bad_request(format!("{head}: {why}"));
    }
    if *kind != expected.kind {
        let internal = match expected.group.split('.').next() {
            None | Some("") => "core",
            Some(group) => group,
        };
        let wanted = format!("{internal}.{}", expected.kind);
        return Status::bad_request(format!(
            "{head}: converting ({}) to ({wanted}): unknown conversion",
            go_name(given)
        ));
    }
    let wanted = expected.api_version();
    Status::bad_request(format!(
        "the API version in the data ({api_version}) does not match the expected API version ({wanted})"
    ))
}

/// `v1.ConfigMap`
fn go_name(kind: &GroupVersionKind) -> String {
    format!("{}.{}", kind.version, kind.kind)
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
