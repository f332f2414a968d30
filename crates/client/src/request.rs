//! The seam: requests, answers and the trait. Objects cross it as shared JSON bytes and are decoded once by mirrors.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::Stream;
use object::{GroupVersionResource, Status, Str, Value};
use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The resource, in the version that the caller speaks.
    pub resource: GroupVersionResource,
    /// The namespace; empty for cluster scope and for all namespaces.
    pub namespace: Str,
    /// The object's name; empty for collections and creates.
    pub name: Str,
    /// `status`, `scale`, `binding`, ...; empty for the object itself.
    pub subresource: Str,
}

/// One object at one revision. In process the same allocation is shared by the store, the API and every mirror.
#[derive(Clone)]
pub struct Object {
    /// metadata.resourceVersion as a number.
    pub revision: u64,
    /// Encoded JSON with resourceVersion, in the version that was asked for.
    pub json: Bytes,
    /// Whatever the in-process implementation wants to keep beside it (the store's entry); None over HTTPS.
    pub shared: Option<Arc<dyn Any + Send + Sync>>,
}

/// How to select from a collection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// A label selector in upstream's notation; empty for all.
    pub labels: String,
    /// A field selector in upstream's notation; empty for all.
    pub fields: String,
    /// At most so many objects a page; 0 for all.
    pub limit: u32,
    /// The token of the page before.
    pub continuation: String,
}

/// The answer to a list.
pub struct Page {
    /// The objects, ordered by namespace and name.
    pub objects: Vec<Object>,
    /// The revision at which the list is consistent; watch from here.
    pub revision: u64,
    /// The token for the next page; empty at the end.
    pub continuation: String,
}

/// The four patch media types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Upstream's strategic merge patch.
    Strategic,
    /// Server-side apply.
    Apply,
}

/// Options of a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Validate and answer, commit nothing.
    pub dry_run: bool,
    /// metadata.managedFields' manager.
    pub field_manager: String,
    /// Server-side apply: take over fields of other managers.
    pub force: bool,
}

/// What becomes of dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// Dependents are deleted afterwards by the garbage collector.
    Background,
    /// The object goes when its blocking dependents are gone.
    Foreground,
    /// Dependents lose their owner reference.
    Orphan,
}

/// Options of a delete (meta/v1 DeleteOptions).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds; None for the kind's own.
    pub grace_period_seconds: Option<i64>,
    /// Refuse with 409 unless the object has this uid; empty for no condition.
    pub uid: Str,
    /// Refuse with 409 unless the object has this resourceVersion; empty for no condition.
    pub resource_version: Str,
    /// None for the resource's default.
    pub propagation: Option<Deletion>,
    /// Answer, delete nothing.
    pub dry_run: bool,
}

/// What to do with the target.
#[derive(Clone, Debug)]
pub enum Verb {
    /// Read one.
    Get,
    /// Create one; subresources that are created (binding, eviction, token) too.
    Create(Value, WriteOptions),
    /// Replace one; creates nothing.
    Update(Value, WriteOptions),
    /// Change one; apply creates it where it is missing.
    Patch(PatchKind, Value, WriteOptions),
    /// Delete one.
    Delete(DeleteOptions),
}

/// A request that is about one object.
#[derive(Clone, Debug)]
pub struct Request {
    /// About what.
    pub target: Target,
    /// Doing what.
    pub verb: Verb,
}

/// What a watch tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// New, or newly selected.
    Added,
    /// Changed.
    Modified,
    /// Gone, or no longer selected; the object is its last state with the revision of the deletion.
    Deleted,
    /// Nothing happened up to this revision; `json` is empty.
    Bookmark,
}

/// One event of a watch.
#[derive(Clone)]
pub struct WatchEvent {
    /// What happened.
    pub kind: EventKind,
    /// To which object; `revision` is always set.
    pub object: Object,
}

/// Ends after an `Err`; an expired Status means: list again.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

/// The cluster as one identity sees it. Every call passes the one write door or the read path with authorisation.
#[async_trait]
pub trait ClusterClient: Send + Sync {
    /// Carries out a request about one object; a delete answers with the object as it then is (or was).
    async fn call(&self, request: Request) -> Result<Object, Status>;

    /// Reads a collection.
    async fn list(&self, target: Target, query: Query) -> Result<Page, Status>;

    /// Watches a collection after `revision`, with bookmarks at least once a minute.
    async fn watch(&self, target: Target, query: Query, revision: u64) -> Result<WatchStream, Status>;

    /// The same cluster under another identity, where this client may say so (in process); None where it cannot.
    /// `user` is a name such as `system:serviceaccount:kube-system:deployment-controller` or `system:node:a`.
    fn acting_as(&self, user: &str, groups: &[&str]) -> Option<Arc<dyn ClusterClient>>;
}
