//! The in-process ClusterClient: the same doors as over HTTPS, without HTTP and without encoding.

use crate::auth::{Attributes, User};
use crate::core::{Answered, Call, Core, Options, Outcome, Scope, Validation, decoded};
use crate::negotiate::{Accepted, Codec, Payload};
use crate::read::{self, Page as ReadPage, Selection};
use crate::serve;
use crate::watch::{Change, Feed, Item, WatchRequest};
use crate::write::{self, Body, DeleteRequest, PatchBody};
use async_trait::async_trait;
use bytes::Bytes;
use client::{
    ClusterClient, EventKind, Object, Page, Query, Request, Target, Verb, WatchEvent, WatchStream, WriteOptions,
};
use futures_util::stream;
use jiff::Timestamp;
use object::table::IncludeObject;
use object::{Status, Value, meta};
use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use store::Entry;

/// The cluster as one identity in this process sees it.
pub(crate) struct LocalClient {
    core: Arc<Core>,
    user: User,
}

impl LocalClient {
    pub(crate) fn new(core: Arc<Core>, user: User) -> Self {
        LocalClient { core, user }
    }

    fn scope<'a>(&self, target: &'a Target) -> Result<Scope<'a>, Status> {
        let (row, version_at) = self.core.resolve(&target.resource)?;
        let namespace = if row.namespaced { target.namespace.as_str() } else { "" };
        if !target.subresource.is_empty() && row.subresource(&target.subresource).is_none() {
            return Err(Status::no_such_path());
        }
        Ok(Scope { row, version_at, namespace, name: &target.name, subresource: &target.subresource })
    }

    fn authorize(&self, verb: &str, target: &Target, fields: &str) -> Result<(), Status> {
        let named = serve::named_by(fields).filter(|_| target.name.is_empty());
        self.core.authorize(&Attributes {
            user: &self.user,
            verb,
            group: &target.resource.group,
            version: &target.resource.version,
            resource: &target.resource.resource,
            subresource: &target.subresource,
            namespace: &target.namespace,
            name: named.unwrap_or(&target.name),
            fields,
            path: "",
            is_resource: true,
        })
    }

    fn options(&self, options: WriteOptions) -> Options {
        let mut field_manager = options.field_manager;
        if field_manager.is_empty() {
            field_manager = self.user.name.rsplit(':').next().unwrap_or_default().to_owned();
        }
        Options { dry_run: options.dry_run, field_manager, force: options.force, validation: Validation::Ignore }
    }
}

fn codec<'a>(scope: &'a Scope<'a>) -> Codec<'a> {
    Codec { scope, accepted: Accepted::JSON, include: IncludeObject::None, now: Timestamp::now() }
}

fn of_entry(scope: &Scope<'_>, entry: &Arc<Entry>) -> Result<Object, Status> {
    let json = codec(scope).object(&Payload::Entry(entry))?;
    Ok(Object { revision: entry.revision.0, json, shared: Some(Arc::clone(entry) as Arc<dyn Any + Send + Sync>) })
}

fn of_value(json: Bytes, value: &Value) -> Object {
    Object { revision: meta::resource_version(value).parse().unwrap_or(0), json, shared: None }
}

fn of_outcome(scope: &Scope<'_>, outcome: &Outcome) -> Result<Object, Status> {
    match (&outcome.object, &outcome.last) {
        (Answered::Entry(entry), _) | (Answered::Plain(_), Some(entry)) => of_entry(scope, entry),
        (Answered::Hub(value), _) => Ok(of_value(codec(scope).object(&Payload::Hub(value))?, value)),
        (Answered::Plain(value), None) => Ok(of_value(codec(scope).object(&Payload::Plain(value))?, value)),
    }
}

#[async_trait]
impl ClusterClient for LocalClient {
    async fn call(&self, request: Request) -> Result<Object, Status> {
        let Request { target, verb } = request;
        let scope = self.scope(&target)?;
        let word = match &verb {
            Verb::Get => "get",
            Verb::Create(..) => "create",
            Verb::Update(..) => "update",
            Verb::Patch(..) => "patch",
            Verb::Delete(_) => "delete",
        };
        self.authorize(word, &target, "")?;
        if scope.row.namespaced && scope.namespace.is_empty() {
            return Err(Status::bad_request("an empty namespace may not be set when a resource name is provided"));
        }
        let call = |options| Call::new(&self.core, &self.user, scope.clone(), options);
        let outcome = match verb {
            Verb::Get => {
                if write::is_scale(&call(Options::default())) {
                    let scale = write::get_scale(&call(Options::default()))?;
                    return Ok(of_value(codec(&scope).object(&Payload::Plain(&scale))?, &scale));
                }
                let entry = read::get(&self.core, &scope, "").await?;
                return of_entry(&scope, &entry);
            }
            Verb::Create(value, options) => serve::create(&call(self.options(options)), Body::trusted(value)).await?,
            Verb::Update(value, options) => {
                let call = call(self.options(options));
                if write::is_scale(&call) {
                    write::update_scale(&call, Body::trusted(value)).await?
                } else {
                    write::update(&call, Body::trusted(value), false).await?
                }
            }
            Verb::Patch(kind, value, options) => {
                let body = PatchBody { kind, value, duplicates: Vec::new() };
                write::patch(&call(self.options(options)), body).await?
            }
            Verb::Delete(options) => {
                write::delete(&call(self.options(WriteOptions::default())), &DeleteRequest { options }).await?
            }
        };
        of_outcome(&scope, &outcome)
    }

    async fn list(&self, target: Target, query: Query) -> Result<Page, Status> {
        let scope = self.scope(&target)?;
        self.authorize("list", &target, &query.fields)?;
        let selection = Selection::parse(&scope, &query.labels, &query.fields)?;
        let page = ReadPage { limit: query.limit as usize, continuation: query.continuation, ..ReadPage::default() };
        let listed = read::list(&self.core, &scope, &selection, &page).await?;
        let objects = listed.entries.iter().map(|entry| of_entry(&scope, entry)).collect::<Result<_, _>>()?;
        Ok(Page { objects, revision: listed.revision.0, continuation: listed.continuation })
    }

    async fn watch(&self, target: Target, query: Query, revision: u64) -> Result<WatchStream, Status> {
        let scope = self.scope(&target)?;
        self.authorize("watch", &target, &query.fields)?;
        let selection = Selection::parse(&scope, &query.labels, &query.fields)?;
        let request = WatchRequest {
            bookmarks: true,
            after: Some(revision),
            timeout_seconds: Some(u64::MAX), // in process nobody has to come back
            ..WatchRequest::default()
        };
        let feed = Feed::start(&self.core, &scope, selection, &request).await?;
        let state = Reader { feed, target: target.clone(), core: Arc::clone(&self.core), ready: VecDeque::new() };
        Ok(Box::pin(stream::unfold(state, |mut state| async move { Some((state.next().await?, state)) })))
    }

    fn acting_as(&self, user: &str, groups: &[&str]) -> Option<Arc<dyn ClusterClient>> {
        Some(Arc::new(LocalClient { core: Arc::clone(&self.core), user: User::named(user, groups) }))
    }
}

/// Turns a feed's runs of items into single events.
struct Reader {
    feed: Feed,
    target: Target,
    core: Arc<Core>,
    ready: VecDeque<Result<WatchEvent, Status>>,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<WatchEvent, Status>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let items = self.feed.next().await?;
            let (row, version_at) = match self.core.resolve(&self.target.resource) {
                Ok(found) => found,
                Err(status) => return Some(Err(status)),
            };
            let scope = Scope { row, version_at, namespace: &self.target.namespace, name: "", subresource: "" };
            self.ready.extend(items.into_iter().map(|item| event(&scope, item)));
        }
    }
}

fn event(scope: &Scope<'_>, item: Item) -> Result<WatchEvent, Status> {
    match item {
        Item::Change(change, entry) => {
            let kind = match change {
                Change::Added => EventKind::Added,
                Change::Modified => EventKind::Modified,
                Change::Deleted => EventKind::Deleted,
            };
            // The mirror decodes once; what is decoded already is shared.
            Ok(WatchEvent { kind, object: of_entry(scope, &entry)? })
        }
        Item::Left(value) => {
            let json = codec(scope).object(&Payload::Hub(&value))?;
            Ok(WatchEvent { kind: EventKind::Deleted, object: of_value(json, &value) })
        }
        Item::Bookmark { revision, .. } => {
            let object = Object { revision: revision.0, json: Bytes::new(), shared: None };
            Ok(WatchEvent { kind: EventKind::Bookmark, object })
        }
        Item::Error(status) => Err(status),
    }
}

/// The decoded tree of an object that came through an in-process client; decoded anew where it came from elsewhere.
pub fn tree(object: &Object) -> Option<Arc<Value>> {
    let shared = object.shared.clone()?;
    let entry = shared.downcast::<Entry>().ok()?;
    Some(decoded(&entry))
}
