//! Writing them: all at once where they do not depend on each other, so that the store groups their commits.

use super::objects;
use crate::auth::User;
use crate::core::{Call, Core, Options, Scope, Validation};
use crate::write::{self, Body};
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
    let own = objects::own(core);
    // The server's own Service takes the first address before any other Service can be given it.
    try_join_all(own.into_iter().map(|object| refresh(core, &user, object))).await?;
    try_join_all(objects::fixed(core).into_iter().map(|object| create(core, &user, object))).await?;
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

/// Creates an object, or brings the one that is there to this form.
async fn refresh(core: &Arc<Core>, user: &User, object: Value) -> Result<(), Status> {
    let described = object.clone();
    let call = call(core, user, &described)?;
    if core.store.get(&call.scope.key(call.scope.name)).is_some() {
        return write::update(&call, Body::trusted(object), false).await.map(|_| ());
    }
    create(core, user, object).await
}
