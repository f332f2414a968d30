//! Writing them: all at once where they do not depend on each other, so that the store groups their commits.

use super::{api_services, flow_control, objects};
use crate::auth::{self, Reconciled, User};
use crate::core::{Call, Core, Options, Scope, Validation, decoded};
use crate::write::{self, Body, DeleteRequest};
use futures_util::future::try_join_all;
use object::{Status, Value, meta};
use std::sync::Arc;

/// Upstream's identity for what the server does itself.
const USER: &str = "system:apiserver";
const MASTERS: &str = "system:masters";

/// Writes what is missing.
pub(crate) async fn run(core: &Arc<Core>) -> Result<(), Status> {
    let user = User::named(USER, &[MASTERS]);
    try_join_all(objects::namespaces().into_iter().map(|object| create(core, &user, object))).await?;
    // The server's own Service takes the first address before any other Service can be given it.
    keep_own(core).await?;
    let fixed = try_join_all(objects::fixed(core).into_iter().map(|object| create(core, &user, object)));
    let policy = try_join_all(auth::default_objects().into_iter().map(|object| policy(core, &user, object)));
    let services = api_services::all(&core.table());
    let services = try_join_all(services.into_iter().map(|object| managed(core, &user, object)));
    let levels = try_join_all(flow_control::levels().into_iter().map(|object| managed(core, &user, object)));
    let schemas = try_join_all(flow_control::schemas().into_iter().map(|object| flow_schema(core, &user, object)));
    tokio::try_join!(fixed, policy, services, levels, schemas)?;
    Ok(())
}

/// Writes the server's own Service and endpoints where they are missing or others; also while it runs, as upstream.
pub(crate) async fn keep_own(core: &Arc<Core>) -> Result<(), Status> {
    let user = User::named(USER, &[MASTERS]);
    try_join_all(objects::own(core).into_iter().map(|object| refresh(core, &user, object))).await?;
    Ok(())
}

fn call<'a>(core: &'a Arc<Core>, user: &'a User, object: &'a Value) -> Result<Call<'a>, Status> {
    let kind = meta::group_version_kind(object);
    let table = core.table();
    let unknown = || Status::internal(format!("the resource table has no kind {kind}"));
    let (row, version) = table.kind_version(&kind).ok_or_else(unknown)?;
    let version_at = row.versions.iter().position(|one| one.name == version.name).unwrap_or_default();
    let scope = Scope {
        row: Arc::clone(row),
        version_at,
        namespace: meta::namespace(object),
        name: meta::name(object),
        subresource: "",
    };
    let options = Options { field_manager: "klynge".to_owned(), validation: Validation::Ignore, ..Options::default() };
    Ok(Call::new(core, user, scope, options))
}

/// Creates an object that is not there; what is there stays as people have made it.
async fn create(core: &Arc<Core>, user: &User, object: Value) -> Result<(), Status> {
    let described = object.clone();
    let call = call(core, user, &described)?;
    if core.store.get(&call.scope.key(call.scope.name)).is_some() {
        return Ok(());
    }
    match write::create(&call, Body::trusted(object)).await {
        Err(status) if status.is_already_exists() => Ok(()),
        other => other.map(|_| ()),
    }
}

/// The stored object that `call` names.
fn existing(call: &Call<'_>) -> Option<Arc<Value>> {
    call.core.store.get(&call.scope.key(call.scope.name)).map(|entry| decoded(&entry))
}

/// A default role or binding: created, or what it lacks is added.
async fn policy(core: &Arc<Core>, user: &User, object: Value) -> Result<(), Status> {
    let described = object.clone();
    let call = call(core, user, &described)?;
    let Some(held) = existing(&call) else { return create(core, user, object).await };
    match auth::reconcile(&held, &object) {
        Reconciled::Same => Ok(()),
        Reconciled::Update(new) => write::update(&call, Body::trusted(new), false).await.map(|_| ()),
        Reconciled::Replace => {
            write::delete(&call, &DeleteRequest::default()).await?;
            create(core, user, object).await
        }
    }
}

/// An object whose spec the server keeps, as long as it carries the server's mark.
async fn managed(core: &Arc<Core>, user: &User, object: Value) -> Result<(), Status> {
    let described = object.clone();
    let call = call(core, user, &described)?;
    let Some(held) = existing(&call) else { return create(core, user, object).await };
    let marks = [("labels", api_services::AUTOMANAGED), ("annotations", flow_control::AUTOUPDATE)];
    let marked = marks.iter().any(|(member, key)| {
        let mark = |object: &Value| object.at(&["metadata", member, key]).cloned();
        mark(&object).is_some() && mark(&object) == mark(&held)
    });
    if !marked || held.get("spec") == object.get("spec") {
        return Ok(());
    }
    let mut new = held.as_ref().clone();
    new.set(&["spec"], object.get("spec").cloned().unwrap_or_default());
    write::update(&call, Body::trusted(new), false).await.map(|_| ())
}

/// A FlowSchema, whose status says from the start that its level is there.
async fn flow_schema(core: &Arc<Core>, user: &User, object: Value) -> Result<(), Status> {
    managed(core, user, object.clone()).await?;
    let call = call(core, user, &object)?;
    let Some(held) = existing(&call).filter(|held| held.at(&["status", "conditions"]).is_none()) else {
        return Ok(());
    };
    let mut new = held.as_ref().clone();
    new.set(&["status"], flow_control::found(&held, &object::time::format_rfc3339(call.now)));
    let part = call.about(Scope { subresource: "status", ..call.scope.clone() });
    write::update(&part, Body::trusted(new), false).await.map(|_| ())
}

/// Creates an object, or brings the one that is there to this form.
async fn refresh(core: &Arc<Core>, user: &User, object: Value) -> Result<(), Status> {
    let described = object.clone();
    let call = call(core, user, &described)?;
    if core.store.get(&call.scope.key(call.scope.name)).is_some() {
        return write::update(&call, Body::trusted(object), false).await.map(|_| ());
    }
    create(core, user, object).await
}
