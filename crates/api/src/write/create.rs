//! Create: admission, stamps, validation, ownership, commit; generated names are tried anew on collision.

use super::prepare::{Body, Source};
use super::services::Claims;
use super::{commit, metadata, prepare};
use crate::admission::{self, Operation as Action, Review};
use crate::auth;
use crate::core::{Answered, Call, Outcome};
use crate::random;
use object::{Status, Value};
use store::{Change, CommitError, Expect, Operation};

/// How often a create is tried when a name, an address or the namespace changed under it.
const ATTEMPTS_MAX: u32 = 8;

/// Creates an object from a body in the request's version.
pub(crate) async fn create(call: &Call<'_>, body: Body) -> Result<Outcome, Status> {
    let object = prepare::incoming(call, body, Source::Object)?;
    create_hub(call, object, Origin::Posted).await
}

/// Where a new object comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A client or one of our rooms posted it.
    Posted,
    /// An apply made it, and its managedFields with it.
    Applied,
}

/// Creates an object in the hub version whose defaults are set.
pub(super) async fn create_hub(call: &Call<'_>, mut object: Value, origin: Origin) -> Result<Outcome, Status> {
    let row = &call.scope.row;
    let applied = object.at(&["metadata", "managedFields"]).filter(|_| origin == Origin::Applied).cloned();
    let name = metadata::text(&object, "name").to_owned();
    if !call.scope.name.is_empty() && !name.is_empty() && name != call.scope.name {
        let message =
            format!("the name of the object ({name}) does not match the name on the URL ({})", call.scope.name);
        return Err(Status::bad_request(message));
    }
    metadata::stamp_create(&call.scope, &mut object, call.now)?;
    let review = Review::new(call, Action::Create, metadata::text(&object, "name").to_owned(), None);
    admission::mutate(&review, &mut object).await?;
    let has_status = row.subresource("status").is_some();
    if has_status
        && !row.keeps_status_on_create
        && let Some(map) = object.as_object_mut()
    {
        map.remove("status");
    }
    row.hooks.prepare_create(&mut object);
    if row.bucket == "certificatesigningrequests.certificates.k8s.io" {
        auth::stamp_requester(call.user, &mut object);
    }
    for warning in row.hooks.warnings(&object, None) {
        call.warn(warning);
    }
    let causes = row.validate(&object);
    if !causes.is_empty() {
        return Err(Status::invalid(&call.scope.gvk(), metadata::text(&object, "name"), causes));
    }
    admission::validate(&review, &object).await?;
    own(call, applied, &mut object);
    let generated = name.is_empty();
    let unallocated = (row.bucket == "services").then(|| object.clone());
    for attempt in 1..=ATTEMPTS_MAX {
        let last = attempt == ATTEMPTS_MAX;
        if attempt > 1
            && let Some(unallocated) = &unallocated
        {
            object.set(&["spec"], unallocated.get("spec").cloned().unwrap_or_default());
        }
        let mut claims = Claims::new(call.core);
        claims.create(call, &mut object)?;
        let object_name = metadata::text(&object, "name").to_owned();
        let key = call.scope.key(&object_name);
        if call.options.dry_run {
            if call.core.store.get(&key).is_some() {
                return Err(Status::already_exists(&call.scope.gvr(), &object_name));
            }
            return Ok(Outcome::created(Answered::Hub(object)));
        }
        let mut operations = vec![commit::put(key, Expect::Absent, &object)];
        if let Some(namespace) = admission::namespace_of(call, &object_name)? {
            // The namespace must still be what admission saw: nothing slips into one that is being emptied.
            let expect = Expect::Revision(namespace.revision);
            operations.push(Operation { key: namespace.key.clone(), expect, change: Change::Keep });
        }
        operations.extend(claims.into_operations());
        match commit::commit(call, operations).await {
            Ok(committed) => {
                call.core.changed(&row.bucket);
                let entry =
                    commit::share(&committed, object).ok_or_else(|| Status::internal("a create left no entry"))?;
                return Ok(Outcome::created(Answered::Entry(entry)));
            }
            Err(CommitError::Conflict { operation: 0, .. }) if generated && !last => {
                let base = metadata::text(&object, "generateName").to_owned();
                metadata::of_mut(&mut object).insert("name", random::name(&base));
            }
            Err(CommitError::Conflict { operation: 0, .. }) => {
                return Err(Status::already_exists(&call.scope.gvr(), &object_name));
            }
            Err(CommitError::Conflict { .. }) if !last => {}
            Err(CommitError::Conflict { .. }) => {
                let why = "the namespace or an address that it needs changed at the same time; please try again";
                return Err(Status::conflict(&call.scope.gvr(), &object_name, why));
            }
            Err(error) => return Err(commit::failure(&error)),
        }
    }
    Err(Status::internal("a create ran out of attempts"))
}

/// Writes metadata.managedFields; an applied object brings its own.
fn own(call: &Call<'_>, applied: Option<Value>, object: &mut Value) {
    match applied {
        Some(fields) => {
            metadata::of_mut(object).insert("managedFields", fields);
        }
        None => super::update::track(call, None, object),
    }
}
