//! Requests about resources: the verb and the subresource choose the room that answers.

use super::body::{self, Answer};
use super::dispatch::Context;
use super::options;
use super::path::RequestInfo;
use super::query::Parameters;
use super::respond;
use crate::core::{Answered, Call, Options, Outcome, Scope};
use crate::negotiate::{self, Accepted, Codec, Frames, Offers, Payload, Shape};
use crate::proxy;
use crate::read::{self, Page, Selection};
use crate::watch::{Feed, WatchRequest};
use crate::write::{self, Body, DeleteRequest};
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use hyper::body::Incoming;
use jiff::Timestamp;
use kinds::Role;
use object::table::IncludeObject;
use object::{GroupVersionResource, Status};
use std::sync::Arc;

/// Answers a request about a resource. The body is taken by whoever reads it; what is left in `body` nobody has read.
pub(crate) async fn handle(
    context: Context,
    request: Request<()>,
    body: &mut Option<Incoming>,
) -> Result<Response<Answer>, Status> {
    let info = context.info.clone();
    let gvr = GroupVersionResource::new(info.group.as_str(), info.version.as_str(), info.resource.as_str());
    let (row, version_at) = context.core.resolve(&gvr)?;
    let is_namespace = row.bucket == "namespaces";
    if !row.namespaced && !info.namespace.is_empty() && !is_namespace {
        return Err(Status::no_such_path());
    }
    let namespace = if is_namespace { "" } else { info.namespace.as_str() };
    let scope = Scope { row, version_at, namespace, name: &info.name, subresource: &info.subresource };
    if !info.subresource.is_empty() {
        let role = scope.row.subresource(&info.subresource).ok_or_else(Status::no_such_path)?.role.clone();
        if is_proxied(&role) {
            if info.verb == "get" && matches!(role, Role::Exec | Role::Attach | Role::PortForward) {
                // A WebSocket opens with GET; as upstream since 1.35, it needs what the same POST would need.
                let wanted = crate::serve::path::RequestInfo { verb: "create".to_owned(), ..info.clone() };
                context.core.authorize(&super::dispatch::attributes(&context.user, &wanted))?;
            }
            return proxy::handle(&context, &scope, &role, request, body).await;
        }
    }
    if !allows(&scope, &info) {
        return Err(Status::method_not_allowed());
    }
    if scope.row.namespaced && namespace.is_empty() && !matches!(info.verb.as_str(), "list" | "watch") {
        return Err(Status::method_not_allowed());
    }
    match info.verb.as_str() {
        "get" | "list" | "watch" => {
            let call = Call::new(&context.core, &context.user, scope, Options::default());
            read_verbs(&context, &call).await
        }
        "create" | "update" | "patch" | "delete" | "deletecollection" => write_verbs(&context, scope, body).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// Whether the path takes the verb: collections and objects take different ones, subresources their own.
fn allows(scope: &Scope<'_>, info: &RequestInfo) -> bool {
    let named = !info.name.is_empty();
    if let Some(part) = scope.row.subresource(scope.subresource) {
        return named && part.verbs.iter().any(|verb| *verb == info.verb);
    }
    let fits = match info.verb.as_str() {
        "create" | "deletecollection" => !named,
        "update" | "patch" | "delete" => named,
        _ => true,
    };
    fits && scope.row.has_verb(&info.verb)
}

fn is_proxied(role: &Role) -> bool {
    matches!(role, Role::Log | Role::Exec | Role::Attach | Role::PortForward | Role::Proxy)
}

fn accepted(context: &Context, offers: Offers) -> Result<Accepted, Status> {
    negotiate::negotiate(context.accept(), offers, context.query.get("pretty"), context.user_agent())
}

fn codec<'a>(context: &Context, scope: &'a Scope<'a>, accepted: Accepted) -> Result<Codec<'a>, Status> {
    let text = context.query.text("includeObject");
    let include = match IncludeObject::parse(text) {
        Some(include) => include,
        None if matches!(accepted.shape, Shape::Table(_)) => {
            return Err(Status::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {text:?}: must be 'Metadata', \
                 'Object', 'None', or empty"
            )));
        }
        None => IncludeObject::None,
    };
    Ok(Codec { scope, accepted, include, now: Timestamp::now() })
}

fn selection(context: &Context, scope: &Scope<'_>) -> Result<Selection, Status> {
    Selection::parse(scope, context.query.text("labelSelector"), context.query.text("fieldSelector"))
}

/// 400 where a number among ListOptions is none, whether the verb needs it or not.
fn check_numbers(query: &Parameters) -> Result<(), Status> {
    query.number("limit")?;
    query.number("timeoutSeconds")?;
    Ok(())
}

async fn read_verbs(context: &Context, call: &Call<'_>) -> Result<Response<Answer>, Status> {
    let scope = &call.scope;
    let query = &context.query;
    if write::is_scale(call) {
        let codec = codec(context, scope, accepted(context, Offers::Resources)?)?;
        let bytes = codec.object(&Payload::Plain(&write::get_scale(call)?))?;
        return Ok(respond::answer(200, codec.media_type(), Answer::bytes(bytes)));
    }
    let codec = codec(context, scope, accepted(context, Offers::Resources)?)?;
    if context.info.verb != "get" {
        check_numbers(query)?;
        options::check_list(query, context.info.verb == "watch")?;
    }
    match context.info.verb.as_str() {
        "get" => {
            let entry = read::get(&context.core, scope, query.text("resourceVersion")).await?;
            let bytes = codec.object(&Payload::Entry(&entry))?;
            Ok(respond::answer(200, codec.media_type(), Answer::bytes(bytes)))
        }
        "list" => {
            let page = Page {
                limit: query.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0),
                continuation: query.text("continue").to_owned(),
                resource_version: query.text("resourceVersion").to_owned(),
                resource_version_match: query.text("resourceVersionMatch").to_owned(),
            };
            let collection = Scope { name: "", ..scope.clone() };
            let listed = read::list(&context.core, &collection, &selection(context, scope)?, &page).await?;
            Ok(respond::answer(200, codec.media_type(), codec.list(&listed)?))
        }
        _ => watch(context, scope, codec.accepted, codec.include).await,
    }
}

async fn watch(
    context: &Context,
    scope: &Scope<'_>,
    accepted: Accepted,
    include: IncludeObject,
) -> Result<Response<Answer>, Status> {
    let query = &context.query;
    let mut selection = selection(context, scope)?;
    if !context.info.name.is_empty() && selection.name.is_none() {
        // The deprecated /watch/.../NAME form watches one object.
        selection = Selection::parse(scope, "", &format!("metadata.name={}", context.info.name))?;
    }
    let request = WatchRequest {
        resource_version: query.text("resourceVersion").to_owned(),
        bookmarks: query.flag("allowWatchBookmarks"),
        send_initial_events: query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents")),
        timeout_seconds: query.number("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok()),
        after: None,
    };
    let collection = Scope { name: "", ..scope.clone() };
    let feed = Feed::start(&context.core, &collection, selection, &request).await?;
    let owned = Arc::new(OwnedScope::of(scope));
    let media_type = {
        let scope = owned.scope();
        Frames::new(Codec { scope: &scope, accepted, include, now: Timestamp::now() }).media_type()
    };
    // Each pull takes what is there, so that a burst of events is one write to the socket.
    let pieces = stream::unfold((feed, owned, true), move |(mut feed, owned, first)| async move {
        let items = feed.next().await?;
        let mut out = Vec::with_capacity(1024);
        let first = {
            let scope = owned.scope();
            let codec = Codec { scope: &scope, accepted, include, now: Timestamp::now() };
            let mut frames = Frames::resume(codec, first);
            items.iter().for_each(|item| frames.append(item, &mut out));
            frames.is_first()
        };
        Some((Ok(Bytes::from(out)), (feed, owned, first)))
    });
    Ok(respond::answer(200, media_type, Answer::Stream(Box::pin(pieces))))
}

/// A scope that outlives its request.
struct OwnedScope {
    row: crate::core::Row,
    version_at: usize,
    namespace: String,
}

impl OwnedScope {
    fn of(scope: &Scope<'_>) -> Self {
        OwnedScope { row: scope.row.clone(), version_at: scope.version_at, namespace: scope.namespace.to_owned() }
    }

    fn scope(&self) -> Scope<'_> {
        Scope {
            row: self.row.clone(),
            version_at: self.version_at,
            namespace: &self.namespace,
            name: "",
            subresource: "",
        }
    }
}

async fn write_verbs(
    context: &Context,
    scope: Scope<'_>,
    body: &mut Option<Incoming>,
) -> Result<Response<Answer>, Status> {
    let accepted = accepted(context, Offers::Resources)?;
    let content_type = context.content_type().to_owned();
    let bytes = match body.take() {
        Some(body) => body::read(body).await?,
        None => Bytes::new(),
    };
    let call = &Call::new(&context.core, &context.user, scope, options::of_write(context)?);
    let scope = &call.scope;
    let codec = codec(context, scope, accepted)?;
    let wanted = match scope.row.subresource(scope.subresource) {
        Some(part) => part.kind.kind.clone(),
        None => scope.row.kind.clone(),
    };
    let outcome = match context.info.verb.as_str() {
        "create" => create(call, negotiate::decode_body(&wanted, &content_type, &bytes)?).await,
        "update" if write::is_scale(call) => {
            write::update_scale(call, negotiate::decode_body(&wanted, &content_type, &bytes)?).await
        }
        "update" => write::update(call, negotiate::decode_body(&wanted, &content_type, &bytes)?, true).await,
        "patch" => write::patch(call, negotiate::decode_patch(&content_type, &bytes)?).await,
        "delete" => {
            if !scope.subresource.is_empty() {
                return Err(Status::method_not_allowed());
            }
            write::delete(call, &delete_request(context, &content_type, &bytes)?).await
        }
        _ => {
            check_numbers(&context.query)?;
            options::check_list(&context.query, false)?;
            let selection = selection(context, scope)?;
            let page = delete_request(context, &content_type, &bytes)?;
            let entries = write::delete_collection(call, &selection, &page).await?;
            let revision = context.core.store.revision();
            let listed = read::Listed { entries, revision, remaining: None, continuation: String::new() };
            let mut response = respond::answer(200, codec.media_type(), codec.list(&listed)?);
            respond::warn(&mut response, &call.take_warnings());
            return Ok(response);
        }
    };
    // Warnings belong to refusals as well.
    let mut response = match outcome {
        Ok(outcome) => encode(&codec, &outcome)?,
        Err(status) => respond::failure(&status),
    };
    respond::warn(&mut response, &call.take_warnings());
    Ok(response)
}

fn encode(codec: &Codec<'_>, outcome: &Outcome) -> Result<Response<Answer>, Status> {
    let payload = match &outcome.object {
        Answered::Entry(entry) => Payload::Entry(entry),
        Answered::Hub(value) => Payload::Hub(value),
        Answered::Plain(value) => Payload::Plain(value),
    };
    Ok(respond::answer(outcome.code, codec.media_type(), Answer::bytes(codec.object(&payload)?)))
}

/// POST: an object, a review, a binding, or a subresource that is created.
pub(crate) async fn create(call: &Call<'_>, body: Body) -> Result<Outcome, Status> {
    if !call.scope.subresource.is_empty() {
        return write::connect(call, body).await;
    }
    if call.scope.row.is_create_only() {
        if call.scope.row.plural == "bindings" {
            let name = object::meta::name(&body.value).to_owned();
            let scope = call.core.scope(("", "v1", "pods"), call.scope.namespace, "")?;
            return write::bind(&call.about(scope), &name, body).await;
        }
        let kind = crate::auth::Reviewed::of(&call.scope.row.plural).ok_or_else(Status::method_not_allowed)?;
        let review = call.core.reviewer.answer(kind, call.user, call.scope.namespace, body.value)?;
        return Ok(Outcome::created(Answered::Plain(review)));
    }
    write::create(call, body).await
}

/// DeleteOptions: of the body, or, where there is none, of the query.
fn delete_request(context: &Context, content_type: &str, bytes: &[u8]) -> Result<DeleteRequest, Status> {
    let query = &context.query;
    let mut options = if bytes.is_empty() {
        let policy = query.get("propagationPolicy");
        let orphan = query.get("orphanDependents").map(|_| query.flag("orphanDependents"));
        let dry_run: Vec<&str> = query.all("dryRun").collect();
        let mut options = write::checked_delete_options(policy, orphan, &dry_run)?;
        options.grace_period_seconds = query.number("gracePeriodSeconds")?;
        options
    } else {
        write::delete_options(&negotiate::decode_body("DeleteOptions", content_type, bytes)?.value)?
    };
    // Whoever asks for a dry run anywhere gets one.
    options.dry_run |= context.query.all("dryRun").any(|one| one == "All");
    if options.grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        options.grace_period_seconds = Some(1); // upstream treats negative periods as the shortest one
    }
    Ok(DeleteRequest { options })
}
