//! What every room of the server shares: store, table, identity, configuration; and one resolved request.

use crate::auth::{Attributes, Authenticator, Authorizer, Reviewer, Tokens, User};
use crate::heartbeat::Heartbeats;
use crate::pki::Pki;
use crate::proxy::{NodeConnector, Tunnels};
use crate::serve::metrics::Metrics;
use crate::serve::openapi::Documents;
use crate::write::address_range::AddressRange;
use jiff::Timestamp;
use kinds::{Resource, Table, Version};
use object::{GroupVersionKind, GroupVersionResource, Status, Value, json};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use store::{Entry, Key, Store};

const SERVICE_CIDRS: &str = "servicecidrs.networking.k8s.io";

/// A row of the resource table, shared.
pub(crate) type Row = Arc<Resource>;

/// The server's shared state.
pub(crate) struct Core {
    pub(crate) store: Arc<dyn Store>,
    /// Exchanged as a whole when custom resources come and go.
    pub(crate) table: RwLock<Arc<Table>>,
    pub(crate) authenticator: Authenticator,
    pub(crate) authorizer: Arc<Authorizer>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) pki: Arc<Pki>,
    pub(crate) reviewer: Reviewer,
    pub(crate) connector: Arc<dyn NodeConnector>,
    /// Connections that other machines' agents opened.
    pub(crate) tunnels: Tunnels,
    /// Signs of life of other machines' agents.
    pub(crate) heartbeats: Heartbeats,
    /// Where Services' addresses come from, and those of the other family.
    pub(crate) service_range: AddressRange,
    pub(crate) second_service_range: Option<AddressRange>,
    pub(crate) advertise: IpAddr,
    pub(crate) port: u16,
    pub(crate) metrics: Metrics,
    pub(crate) documents: Documents,
    /// Whether scheduler and controllers run; empty until they were started.
    pub(crate) control_plane: OnceLock<Box<dyn Fn() -> bool + Send + Sync>>,
    /// Set once the bootstrap objects are there; readiness.
    pub(crate) ready: AtomicBool,
    /// Counts changes of the records of removed nodes.
    pub(crate) removals: tokio::sync::watch::Sender<u64>,
    /// Set when the server stops; watches end then.
    pub(crate) stopping: tokio::sync::watch::Sender<bool>,
}

/// An object decoded once per revision and shared.
pub(crate) fn decoded(entry: &Entry) -> Arc<Value> {
    entry.cache_with(|| {
        let limits = json::Limits { bytes: usize::MAX, depth: 1024, nodes: usize::MAX };
        // What the store holds was encoded by us; were it damaged, the object shows as empty instead of stopping the server.
        Arc::new(json::decode(&entry.value, &limits).map(|decoded| decoded.value).unwrap_or_default())
    })
}

/// A resource path resolved against the table.
#[derive(Clone)]
pub(crate) struct Scope<'a> {
    pub(crate) row: Row,
    /// Which of the row's versions the caller speaks.
    pub(crate) version_at: usize,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) subresource: &'a str,
}

impl Scope<'_> {
    /// The version that the caller speaks.
    pub(crate) fn version(&self) -> &Version {
        &self.row.versions[self.version_at]
    }

    /// The resource for error messages.
    pub(crate) fn gvr(&self) -> GroupVersionResource {
        GroupVersionResource::new(self.row.group.clone(), self.version().name.clone(), self.row.plural.clone())
    }

    /// The kind for error messages.
    pub(crate) fn gvk(&self) -> GroupVersionKind {
        let version = self.version().name.clone();
        GroupVersionKind { group: self.row.group.clone(), version, kind: self.row.kind.clone() }
    }

    /// `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        self.gvk().api_version()
    }

    /// Whether the caller speaks the stored version.
    pub(crate) fn is_hub(&self) -> bool {
        self.row.group == self.row.hub.group && self.version().name == self.row.hub.version
    }

    /// The key of an object of this resource.
    pub(crate) fn key(&self, name: &str) -> Key {
        if self.row.namespaced {
            Key::new(&self.row.bucket, &format!("{}/{name}", self.namespace))
        } else {
            Key::new(&self.row.bucket, name)
        }
    }

    /// The prefix of the collection's keys.
    pub(crate) fn prefix(&self) -> String {
        if self.row.namespaced && !self.namespace.is_empty() { format!("{}/", self.namespace) } else { String::new() }
    }
}

impl Core {
    /// The table of the moment.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Finds the row and version of a request; 404 as for any path that leads nowhere.
    pub(crate) fn resolve(&self, gvr: &GroupVersionResource) -> Result<(Row, usize), Status> {
        let table = self.table();
        let (row, version) = table.resource_version(gvr).ok_or_else(Status::no_such_path)?;
        let at = row.versions.iter().position(|one| one.name == version.name).unwrap_or_default();
        Ok((Arc::clone(row), at))
    }

    /// A scope of a well-known resource; an internal error where the table lacks it.
    pub(crate) fn scope<'a>(
        &self,
        gvr: (&str, &str, &str),
        namespace: &'a str,
        name: &'a str,
    ) -> Result<Scope<'a>, Status> {
        let (group, version, resource) = gvr;
        let (row, version_at) = self
            .resolve(&GroupVersionResource::new(group, version, resource))
            .map_err(|_| Status::internal(format!("the resource table has no {resource} in {group}/{version}")))?;
        Ok(Scope { row, version_at, namespace, name, subresource: "" })
    }

    /// The entry of an object of a core resource.
    pub(crate) fn lookup(&self, bucket: &str, rest: &str) -> Option<Arc<Entry>> {
        self.store.get(&Key::new(bucket, rest))
    }

    /// The ranges that the server was started with, the preferred family first.
    pub(crate) fn own_service_ranges(&self) -> Vec<AddressRange> {
        [self.service_range].into_iter().chain(self.second_service_range).collect()
    }

    /// All ranges that Services' addresses may come from: those of the start, and those of ServiceCIDRs that are there to stay.
    pub(crate) fn service_ranges(&self) -> Vec<AddressRange> {
        let mut ranges = self.own_service_ranges();
        for object in crate::auth::Objects::list(&StoredObjects(Arc::clone(&self.store)), SERVICE_CIDRS) {
            if object.at(&["metadata", "deletionTimestamp"]).is_some() {
                continue;
            }
            let cidrs = object.at(&["spec", "cidrs"]).and_then(Value::as_array).unwrap_or_default();
            for range in cidrs.iter().filter_map(Value::as_str).filter_map(|text| AddressRange::parse(text).ok()) {
                if !ranges.contains(&range) {
                    ranges.push(range);
                }
            }
        }
        ranges
    }

    /// Called after a write to a bucket: policy is compiled anew when roles or bindings changed.
    pub(crate) fn changed(self: &Arc<Self>, bucket: &str) {
        // While the bootstrap objects are written, the policy is compiled once at the end.
        if crate::auth::BUCKETS.contains(&bucket) && self.ready.load(Ordering::Acquire) {
            self.authorizer.refresh(&StoredObjects(Arc::clone(&self.store)));
        }
    }

    /// Decides whether `user` may do this; the refusal in upstream's words.
    pub(crate) fn authorize(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        let decision = self.authorizer.authorize(attributes);
        if decision.allowed {
            return Ok(());
        }
        let mut why = attributes.refusal();
        if !decision.reason.is_empty() {
            why = format!("{why}: {}", decision.reason);
        }
        if !attributes.is_resource {
            return Err(Status::new(403, "Forbidden", format!("forbidden: {why}")));
        }
        let gvr = GroupVersionResource::new(attributes.group, attributes.version, attributes.resource);
        Err(Status::forbidden(&gvr, attributes.name, &why))
    }
}

/// The store's objects as authentication and authorisation look at them.
pub(crate) struct StoredObjects(pub(crate) Arc<dyn Store>);

impl crate::auth::Objects for StoredObjects {
    fn get(&self, bucket: &str, rest: &str) -> Option<Arc<Value>> {
        Some(decoded(self.0.get(&Key::new(bucket, rest))?.as_ref()))
    }

    fn list(&self, bucket: &str) -> Vec<Arc<Value>> {
        let listed = self.0.list(bucket, "", None, None, None);
        listed.map(|list| list.entries.iter().map(|entry| decoded(entry)).collect()).unwrap_or_default()
    }
}

/// One caller's request on its way through the pipeline.
pub(crate) struct Call<'a> {
    pub(crate) core: &'a Arc<Core>,
    pub(crate) user: &'a User,
    pub(crate) scope: Scope<'a>,
    pub(crate) options: Options,
    pub(crate) now: Timestamp,
    warnings: Mutex<Vec<String>>,
}

/// Options of a write, whichever door they came through.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) dry_run: bool,
    pub(crate) field_manager: String,
    pub(crate) force: bool,
    pub(crate) validation: Validation,
}

/// The fieldValidation parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Validation {
    /// Unknown fields are dropped silently.
    Ignore,
    /// They are dropped and answered with a warning.
    #[default]
    Warn,
    /// They fail the request.
    Strict,
}

/// Warnings beyond this many are dropped, as headers have a limit.
const WARNINGS_MAX: usize = 32;

impl<'a> Call<'a> {
    pub(crate) fn new(core: &'a Arc<Core>, user: &'a User, scope: Scope<'a>, options: Options) -> Self {
        Call { core, user, scope, options, now: Timestamp::now(), warnings: Mutex::default() }
    }

    /// The same caller about something else.
    pub(crate) fn about(&self, scope: Scope<'a>) -> Call<'a> {
        Call::new(self.core, self.user, scope, self.options.clone())
    }

    /// Tells the caller something with the answer.
    pub(crate) fn warn(&self, warning: impl Into<String>) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        let warning = warning.into();
        if warnings.len() < WARNINGS_MAX && !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// The warnings so far.
    pub(crate) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a request ends with.
pub(crate) struct Outcome {
    /// 200, 201 or 202.
    pub(crate) code: u16,
    /// The object.
    pub(crate) object: Answered,
    /// The last state of an object that is gone, where the answer is a Status.
    pub(crate) last: Option<Arc<Entry>>,
}

/// The object of an answer.
pub(crate) enum Answered {
    /// A stored object in the hub version; sent without decoding where it can be.
    Entry(Arc<Entry>),
    /// An object of the row in the hub version that is not stored (a dry run, a deleted object).
    Hub(Value),
    /// An object that is sent as it is (Status, Scale, reviews).
    Plain(Value),
}

impl Outcome {
    pub(crate) fn ok(object: Answered) -> Self {
        Outcome { code: 200, object, last: None }
    }

    pub(crate) fn created(object: Answered) -> Self {
        Outcome { code: 201, object, last: None }
    }

    /// A Status of success with upstream's details about the object.
    pub(crate) fn success(code: u16, scope: &Scope<'_>, name: &str, uid: &str) -> Self {
        let mut status = Value::default();
        status.set(&["kind"], "Status".into());
        status.set(&["apiVersion"], "v1".into());
        status.set(&["metadata"], Value::Object(object::Map::new()));
        status.set(&["status"], "Success".into());
        if code == 201 {
            status.set(&["code"], 201_i64.into());
        }
        if !name.is_empty() {
            status.set(&["details", "name"], name.into());
            if !scope.row.group.is_empty() {
                status.set(&["details", "group"], scope.row.group.clone().into());
            }
            status.set(&["details", "kind"], scope.row.plural.clone().into());
            if !uid.is_empty() {
                status.set(&["details", "uid"], uid.into());
            }
        }
        Outcome { code, object: Answered::Plain(status), last: None }
    }
}
