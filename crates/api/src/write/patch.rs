//! Patch: JSON patch, merge patch, strategic merge patch and server-side apply over the version of the request.

use super::create::Origin;
use super::prepare::{self, Body, Source};
use super::update::{Part, update_with};
use super::{metadata, to_version};
use crate::core::{Call, Outcome};
use client::PatchKind;
use object::patch::{self as patches, PatchError};
use object::schema::{Schemas, TypeId};
use object::{GroupVersionKind, Status, Value, apply, meta};

/// A decoded patch.
#[derive(Clone, Debug)]
pub(crate) struct PatchBody {
    pub(crate) kind: PatchKind,
    pub(crate) value: Value,
    /// Paths of members that were given twice.
    pub(crate) duplicates: Vec<String>,
}

/// Changes an object; apply creates it where it is missing.
pub(crate) async fn patch(call: &Call<'_>, body: PatchBody) -> Result<Outcome, Status> {
    match (body.kind, super::subresources::is_scale(call)) {
        (PatchKind::Apply, false) => return apply_patch(call, body).await,
        (PatchKind::Apply, true) => return super::subresources::apply_scale(call, body.value).await,
        (_, true) => return super::subresources::patch_scale(call, &body).await,
        (_, false) => {}
    }
    let part = Part::of(call).ok_or_else(Status::method_not_allowed)?;
    let source = if body.kind == PatchKind::Strategic { Source::Strategic(&body.value) } else { Source::Patch };
    update_with(call, part, "Update", &mut |current| {
        let mut value = current.clone();
        to_version(&call.scope, &mut value);
        patch_value(call, &body, &mut value)?;
        check_name(call, &value)?;
        forget_revision(current, &mut value);
        prepare::incoming(call, Body { value, duplicates: body.duplicates.clone(), trusted: false }, source)
    })
    .await
}

/// A patch is conditional only where it names a resourceVersion itself: what it merely kept must not make it so.
fn forget_revision(current: &Value, value: &mut Value) {
    if meta::resource_version(current) == meta::resource_version(value) {
        metadata::of_mut(value).remove("resourceVersion");
    }
}

/// Changes `value` as the patch says.
pub(crate) fn patch_value(call: &Call<'_>, body: &PatchBody, value: &mut Value) -> Result<(), Status> {
    match body.kind {
        PatchKind::Json => patches::json(value, &body.value).map_err(refused),
        PatchKind::Merge => {
            patches::merge(value, &body.value);
            Ok(())
        }
        PatchKind::Strategic => {
            let version = call.scope.version();
            patches::strategic(version.schemas(), version.type_id(), value, &body.value).map_err(refused)
        }
        PatchKind::Apply => Err(Status::internal("apply is no in-place patch")),
    }
}

/// A patch that cannot be applied: 422 for most, as upstream, whose sentence ours only adds the reason to.
pub(super) fn refused(error: PatchError) -> Status {
    match error {
        PatchError::Malformed(why) => Status::bad_request(why),
        PatchError::TooLarge(why) => {
            Status::new(413, "RequestEntityTooLarge", format!("Request entity too large: {why}"))
        }
        PatchError::Unprocessable(why) => {
            let message = format!("the server rejected our request due to an error in our request: {why}");
            Status::new(422, "Invalid", message)
        }
    }
}

async fn apply_patch(call: &Call<'_>, body: PatchBody) -> Result<Outcome, Status> {
    let configuration = prepare_configuration(call, body)?;
    let exists = call.core.store.get(&call.scope.key(call.scope.name)).is_some();
    if !exists {
        if !call.scope.subresource.is_empty() {
            return Err(Status::not_found(&call.scope.gvr(), call.scope.name));
        }
        if !meta::uid(&configuration).is_empty() {
            let why = "uid mismatch: the provided object specified uid, and no existing object was found";
            return Err(Status::conflict(&call.scope.gvr(), call.scope.name, why));
        }
        let value = merged(call, None, &configuration)?;
        let managed = value.at(&["metadata", "managedFields"]).cloned();
        let mut object = prepare::incoming(call, Body::trusted(value), Source::Patch)?;
        if let Some(fields) = managed {
            object.set(&["metadata", "managedFields"], fields);
        }
        return super::create_hub(call, object, Origin::Applied).await;
    }
    let part = Part::of(call).ok_or_else(Status::method_not_allowed)?;
    apply_to_existing(call, part, &configuration).await
}

/// Applies a configuration in the version of the path to an object that is there.
pub(super) async fn apply_to_existing(call: &Call<'_>, part: Part, configuration: &Value) -> Result<Outcome, Status> {
    update_with(call, part, "Apply", &mut |current| {
        let mut live = current.clone();
        to_version(&call.scope, &mut live);
        let mut value = merged(call, Some(&live), configuration)?;
        forget_revision(current, &mut value);
        prepare::incoming(call, Body::trusted(value), Source::Patch)
    })
    .await
}

/// Checks what apply asks of a configuration: the version of the path, and that it fits its schema.
fn prepare_configuration(call: &Call<'_>, body: PatchBody) -> Result<Value, Status> {
    let mut value = body.value;
    if value.at(&["metadata", "managedFields"]).is_some_and(|fields| !fields.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let version = call.scope.version();
    check_configuration(&value, &call.scope.gvk(), version.schemas(), version.type_id())?;
    prepare::admit_fields(call, &mut value, body.duplicates, Source::Patch)?;
    check_name(call, &value)?;
    metadata::of_mut(&mut value).insert("name", call.scope.name);
    if call.scope.row.namespaced {
        metadata::of_mut(&mut value).insert("namespace", call.scope.namespace);
    }
    Ok(value)
}

/// A configuration must be of the kind and version of the path, and fit the kind's schema.
pub(super) fn check_configuration(
    value: &Value,
    expected: &GroupVersionKind,
    schemas: &Schemas,
    type_id: TypeId,
) -> Result<(), Status> {
    let (version, wanted) = (value.str_at(&["apiVersion"]).unwrap_or_default(), expected.api_version());
    if version != wanted {
        return Err(Status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {wanted}"
        )));
    }
    if value.str_at(&["kind"]) != Some(expected.kind.as_str()) {
        return Err(untyped(value, &format!("no corresponding type for {}", kind_of(value))));
    }
    apply::fit(schemas, type_id, value).map_err(|error| untyped(value, &error.to_string()))
}

/// A kind as Go prints it: `apps/v1, Kind=Deployment`, `/v1, Kind=Pod`.
fn kind_of(value: &Value) -> String {
    let api_version = value.str_at(&["apiVersion"]).unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    format!("{group}/{version}, Kind={}", value.str_at(&["kind"]).unwrap_or_default())
}

/// Upstream answers 500 for a configuration that does not fit, though it is the client's fault; clients print the text.
fn untyped(value: &Value, why: &str) -> Status {
    let (namespace, name) = (metadata::text(value, "namespace"), metadata::text(value, "name"));
    let kind = kind_of(value);
    Status::new(500, "", format!("failed to create typed patch object ({namespace}/{name}; {kind}): {why}"))
}

/// 400 where an object names itself otherwise than the path does.
pub(super) fn check_name(call: &Call<'_>, value: &Value) -> Result<(), Status> {
    let name = metadata::text(value, "name");
    if !name.is_empty() && name != call.scope.name {
        let message =
            format!("the name of the object ({name}) does not match the name on the URL ({})", call.scope.name);
        return Err(Status::bad_request(message));
    }
    let namespace = metadata::text(value, "namespace");
    if call.scope.row.namespaced && !namespace.is_empty() && namespace != call.scope.namespace {
        let wanted = call.scope.namespace;
        let message =
            format!("the namespace of the object ({namespace}) does not match the namespace on the request ({wanted})");
        return Err(Status::bad_request(message));
    }
    Ok(())
}

fn merged(call: &Call<'_>, live: Option<&Value>, configuration: &Value) -> Result<Value, Status> {
    let version = call.scope.version();
    let request = apply::Apply {
        schemas: version.schemas(),
        type_id: version.type_id(),
        live,
        configuration,
        manager: &call.options.field_manager,
        api_version: &call.scope.api_version(),
        subresource: call.scope.subresource,
        force: call.options.force,
        now: call.now,
    };
    apply::apply(request).map_err(|error| conflicts(call, error))
}

fn conflicts(call: &Call<'_>, error: apply::Error) -> Status {
    match error {
        apply::Error::Conflicts { causes, message } => {
            let mut status = Status::new(409, "Conflict", message);
            status.causes = causes;
            status
        }
        apply::Error::Unfit(why) | apply::Error::Invalid(why) => prepare::undecodable(call, &why),
    }
}
