//! Subresources that are no part of the object: scale, binding, tokens; and the door to eviction.

use super::patch::{self, PatchBody};
use super::prepare::{self, Body, Source};
use super::update::{Part, update_with};
use super::{eviction, metadata};
use crate::admission::{self, Operation, Review};
use crate::auth::TokenRequest;
use crate::core::{Answered, Call, Outcome, StoredObjects, decoded};
use crate::random;
use client::PatchKind;
use jiff::Timestamp;
use kinds::{Role, ScalePaths};
use object::schema::{self, TypeId};
use object::selector::labels;
use object::{GroupVersionKind, Map, Status, Str, Value, meta, patch as patches, time};
use std::sync::Arc;

fn role<'a>(call: &'a Call<'_>) -> Option<&'a Role> {
    Some(&call.scope.row.subresource(call.scope.subresource)?.role)
}

/// Whether the call is about an object's scale.
pub(crate) fn is_scale(call: &Call<'_>) -> bool {
    matches!(role(call), Some(Role::Scale(_)))
}

/// POST to a subresource.
pub(crate) async fn connect(call: &Call<'_>, body: Body) -> Result<Outcome, Status> {
    match role(call) {
        Some(Role::Binding) => bind(call, call.scope.name, body).await,
        Some(Role::Eviction) => eviction::evict(call, body).await,
        Some(Role::Token) => token(call, body).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// Assigns a pod to a node.
pub(crate) async fn bind(call: &Call<'_>, name: &str, body: Body) -> Result<Outcome, Status> {
    let binding = body.value;
    let node = binding.str_at(&["target", "name"]).unwrap_or_default().to_owned();
    let kind = object::GroupVersionKind::parse("v1", "Binding");
    if node.is_empty() {
        let causes = vec![metadata::cause("FieldValueRequired", "target.name", "Required value")];
        return Err(Status::invalid(&kind, name, causes));
    }
    let target_kind = binding.str_at(&["target", "kind"]).unwrap_or_default();
    if !matches!(target_kind, "" | "Node") {
        let message = format!("Unsupported value: \"{target_kind}\": supported values: \"Node\", \"<empty>\"");
        return Err(Status::invalid(
            &kind,
            name,
            vec![metadata::cause("FieldValueNotSupported", "target.kind", message)],
        ));
    }
    let scope = crate::core::Scope { name, ..call.scope.clone() };
    let one = call.about(scope);
    let gvr = object::GroupVersionResource::new("", "v1", "pods/binding");
    let wanted_uid = meta::uid(&binding).to_owned();
    let now = time::format_rfc3339(call.now);
    let bound = update_with(&one, Part::Bind, "Update", &mut |current| {
        let refuse = |why: String| Err(Status::conflict(&gvr, name, &why));
        if !wanted_uid.is_empty() && wanted_uid != meta::uid(current) {
            let uid = meta::uid(current);
            return refuse(format!(
                "Precondition failed: UID in precondition: {wanted_uid}, UID in object meta: {uid}"
            ));
        }
        if meta::is_deleting(current) {
            return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
        }
        if let Some(other) = current.str_at(&["spec", "nodeName"]).filter(|other| !other.is_empty()) {
            return refuse(format!("pod {name} is already assigned to node \"{other}\""));
        }
        let gates = current.at(&["spec", "schedulingGates"]).and_then(Value::as_array).unwrap_or_default();
        if !gates.is_empty() {
            return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
        }
        let mut pod = current.clone();
        metadata::of_mut(&mut pod).remove("resourceVersion");
        pod.set(&["spec", "nodeName"], node.as_str().into());
        for member in ["annotations", "labels"] {
            for (key, value) in
                binding.at(&["metadata", member]).and_then(Value::as_object).into_iter().flat_map(Map::iter)
            {
                pod.set(&["metadata", member, key], value.clone());
            }
        }
        let mut condition: Map =
            [("type", "PodScheduled"), ("status", "True"), ("lastTransitionTime", now.as_str())].into_iter().collect();
        if let Some(generation) = current.i64_at(&["metadata", "generation"]) {
            condition.insert("observedGeneration", generation);
        }
        let mut conditions = pod.at(&["status", "conditions"]).and_then(Value::as_array).unwrap_or_default().to_vec();
        conditions.retain(|one| one.str_at(&["type"]) != Some("PodScheduled"));
        conditions.push(condition.into());
        pod.set(&["status", "conditions"], conditions.into());
        Ok(pod)
    })
    .await?;
    let mut outcome = Outcome::success(201, &call.scope, "", "");
    if let Answered::Entry(entry) = bound.object {
        outcome.last = Some(entry);
    }
    Ok(outcome)
}

/// Issues a ServiceAccount's token.
async fn token(call: &Call<'_>, body: Body) -> Result<Outcome, Status> {
    let entry = call.core.store.get(&call.scope.key(call.scope.name));
    let entry = entry.ok_or_else(|| Status::not_found(&call.scope.gvr(), call.scope.name))?;
    let mut request = body.value;
    let review = Review::new(call, Operation::Create, call.scope.name.to_owned(), None);
    admission::validate(&review, &request).await?;
    let account = decoded(&entry);
    let objects = StoredObjects(Arc::clone(&call.core.store));
    let wanted = TokenRequest::from_value(&request);
    let seconds = call.now.as_second();
    let (token, expires) = call.core.tokens.issue(&account, &wanted, &objects, seconds, random::uid().to_string())?;
    request.set(&["apiVersion"], "authentication.k8s.io/v1".into());
    request.set(&["kind"], "TokenRequest".into());
    request.set(&["metadata", "name"], call.scope.name.into());
    request.set(&["metadata", "namespace"], call.scope.namespace.into());
    request.set(&["metadata", "creationTimestamp"], time::format_rfc3339(call.now).into());
    if wanted.audiences.is_empty() {
        request.set(&["spec", "audiences"], vec![Value::from(call.core.tokens.audience())].into());
    }
    if wanted.expiration_seconds.is_none() {
        request.set(&["spec", "expirationSeconds"], (expires - seconds).into());
    }
    request.set(&["status", "token"], token.into());
    let expires = Timestamp::from_second(expires).map_err(Status::internal)?;
    request.set(&["status", "expirationTimestamp"], time::format_rfc3339(expires).into());
    Ok(Outcome::created(Answered::Plain(request)))
}

fn paths<'a>(call: &'a Call<'_>) -> Result<&'a ScalePaths, Status> {
    match role(call) {
        Some(Role::Scale(paths)) => Ok(paths),
        _ => Err(Status::method_not_allowed()),
    }
}

fn at<'a>(object: &'a Value, path: &[Str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |node, member| node.get(member))
}

/// The selector as one string.
fn selector_text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.to_string(),
        Some(Value::Object(map)) => {
            let is_selector = map.contains_key("matchLabels") || map.contains_key("matchExpressions");
            let parsed = if is_selector {
                labels::Selector::from_label_selector(&Value::Object(map.clone()))
            } else {
                labels::Selector::from_map(map)
            };
            parsed.map(|selector| selector.to_string()).unwrap_or_default()
        }
        _ => String::new(),
    }
}

fn scale_of(paths: &ScalePaths, object: &Value) -> Value {
    let mut scale = Value::default();
    scale.set(&["kind"], "Scale".into());
    scale.set(&["apiVersion"], "autoscaling/v1".into());
    for member in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.at(&["metadata", member]) {
            scale.set(&["metadata", member], value.clone());
        }
    }
    let number = |path: &[Str]| at(object, path).and_then(Value::as_i64).unwrap_or(0);
    let wanted = number(&paths.spec_replicas);
    scale.set(&["spec"], if wanted == 0 { Map::new().into() } else { Map::from_iter([("replicas", wanted)]).into() });
    scale.set(&["status", "replicas"], number(&paths.status_replicas).into());
    let selector = selector_text(at(object, &paths.selector));
    if !selector.is_empty() {
        scale.set(&["status", "selector"], selector.into());
    }
    scale
}

/// The Scale of an object.
pub(crate) fn get_scale(call: &Call<'_>) -> Result<Value, Status> {
    let paths = paths(call)?;
    let entry = call.core.store.get(&call.scope.key(call.scope.name));
    let entry = entry.ok_or_else(|| Status::not_found(&call.scope.gvr(), call.scope.name))?;
    Ok(scale_of(paths, &decoded(&entry)))
}

/// PUT of a Scale.
pub(crate) async fn update_scale(call: &Call<'_>, body: Body) -> Result<Outcome, Status> {
    let scale = body.value;
    admit_scale(call, &scale, Source::Object)?;
    write_scale(call, &mut |_| Ok(scale.clone())).await
}

/// The kind of Scale and its schema.
fn scale_type() -> Result<(GroupVersionKind, TypeId), Status> {
    let id = kinds::schemas().find("io.k8s.api.autoscaling.v1.Scale");
    let id = id.ok_or_else(|| Status::internal("the schema has no Scale"))?;
    Ok((GroupVersionKind::parse("autoscaling/v1", "Scale"), id))
}

/// Refuses a Scale of another name, or whose members are of other types than they should be.
fn admit_scale(call: &Call<'_>, scale: &Value, source: Source<'_>) -> Result<(), Status> {
    let (_, id) = scale_type()?;
    if let Some(first) = schema::check_types(kinds::schemas(), id, scale).first() {
        return Err(match source {
            Source::Patch | Source::Strategic(_) => prepare::unfit(call, scale, source, &first.message),
            Source::Object => {
                let why = &first.message;
                Status::bad_request(format!("Scale in version \"v1\" cannot be handled as a Scale: {why}"))
            }
        });
    }
    patch::check_name(call, scale)
}

/// Server-side apply of a Scale: of its one field, which the object itself holds and its managers own there.
pub(crate) async fn apply_scale(call: &Call<'_>, scale: Value) -> Result<Outcome, Status> {
    let (kind, id) = scale_type()?;
    patch::check_configuration(&scale, &kind, kinds::schemas(), id)?;
    patch::check_name(call, &scale)?;
    let paths = paths(call)?.clone();
    let mut configuration = Value::default();
    configuration.set(&["apiVersion"], call.scope.api_version().into());
    configuration.set(&["kind"], call.scope.row.kind.clone().into());
    configuration.set(&["metadata", "name"], call.scope.name.into());
    for member in ["resourceVersion", "uid"] {
        if let Some(value) = scale.at(&["metadata", member]) {
            configuration.set(&["metadata", member], value.clone());
        }
    }
    if let Some(replicas) = scale.at(&["spec", "replicas"]) {
        check_replicas(call, replicas.as_i64().unwrap_or(0))?;
        let path: Vec<&str> = paths.spec_replicas.iter().map(Str::as_str).collect();
        configuration.set(&path, replicas.clone());
    }
    as_scale(&paths, patch::apply_to_existing(call, Part::Main, &configuration).await?)
}

fn check_replicas(call: &Call<'_>, replicas: i64) -> Result<(), Status> {
    if replicas >= 0 {
        return Ok(());
    }
    let kind = GroupVersionKind::parse("autoscaling/v1", "Scale");
    let message = format!("Invalid value: {replicas}: must be greater than or equal to 0");
    let causes = vec![metadata::cause("FieldValueInvalid", "spec.replicas", message)];
    Err(Status::invalid(&kind, call.scope.name, causes))
}

/// The answer to a write of a Scale.
fn as_scale(paths: &ScalePaths, outcome: Outcome) -> Result<Outcome, Status> {
    let object = match &outcome.object {
        Answered::Entry(entry) => decoded(entry),
        Answered::Hub(value) | Answered::Plain(value) => Arc::new(value.clone()),
    };
    Ok(Outcome { code: outcome.code, object: Answered::Plain(scale_of(paths, &object)), last: None })
}

/// PATCH of a Scale.
pub(crate) async fn patch_scale(call: &Call<'_>, body: &PatchBody) -> Result<Outcome, Status> {
    write_scale(call, &mut |mut scale| {
        let before = scale.clone();
        match body.kind {
            PatchKind::Json => patches::json(&mut scale, &body.value).map_err(super::patch::refused)?,
            // A Scale has no lists: strategic merge and merge patch are the same.
            PatchKind::Merge | PatchKind::Strategic | PatchKind::Apply => patches::merge(&mut scale, &body.value),
        }
        if meta::resource_version(&before) == meta::resource_version(&scale) {
            metadata::of_mut(&mut scale).remove("resourceVersion");
        }
        admit_scale(call, &scale, Source::Patch)?;
        Ok(scale)
    })
    .await
}

async fn write_scale(
    call: &Call<'_>,
    change: &mut (dyn FnMut(Value) -> Result<Value, Status> + Send),
) -> Result<Outcome, Status> {
    let paths = paths(call)?.clone();
    let outcome = update_with(call, Part::Main, "Update", &mut |current| {
        let scale = change(scale_of(&paths, current))?;
        let replicas = scale.i64_at(&["spec", "replicas"]).unwrap_or(0);
        check_replicas(call, replicas)?;
        let mut object = current.clone();
        let path: Vec<&str> = paths.spec_replicas.iter().map(Str::as_str).collect();
        object.set(&path, replicas.into());
        metadata::of_mut(&mut object).insert("resourceVersion", meta::resource_version(&scale));
        Ok(object)
    })
    .await?;
    as_scale(&paths, outcome)
}
