//! What controllers look at: typed, indexed mirrors of the cluster's objects.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::Metadata;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolumeClaim, Pod, ReplicationController, Secret, Service,
    ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::action::Resource;
use crate::certificates;
use crate::meta;
use crate::node_ranges::PodRange;
use crate::presence::Picture;

/// Names an object within its kind; the namespace is empty for cluster scope.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Empty for cluster scope.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl Key {
    /// A key from its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    pub fn of(metadata: &ObjectMeta) -> Self {
        Self::new(meta::namespace(metadata), meta::name(metadata))
    }
}

/// A further index that a kind wants besides namespace, name and controller.
pub trait Indexed {
    /// The value under which the object is found.
    fn index(&self) -> Option<String> {
        None
    }

    /// Without what no controller looks at, so that it is not held.
    fn trimmed(self) -> Self
    where
        Self: Sized,
    {
        self
    }
}

impl Indexed for Pod {
    fn index(&self) -> Option<String> {
        self.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty())
    }
}

impl Indexed for EndpointSlice {
    fn index(&self) -> Option<String> {
        let service = meta::label(&self.metadata, "kubernetes.io/service-name")?;
        Some(format!("{}/{service}", meta::namespace(&self.metadata)))
    }
}

/// By the node that a machine with a join token wants to become.
impl Indexed for CertificateSigningRequest {
    fn index(&self) -> Option<String> {
        certificates::joining_node(self)
    }
}

impl Indexed for Secret {
    fn trimmed(mut self) -> Self {
        if self.type_.as_deref() != Some("bootstrap.kubernetes.io/token") {
            self.data = None;
        }
        self
    }
}

/// The label of records of nodes that were taken out of the cluster (docs/decisions/0011-joining.md).
pub(crate) const REMOVED_NODE_LABEL: &str = "klynge.io/removed-node";

impl Indexed for ConfigMap {
    fn trimmed(mut self) -> Self {
        let is_read = matches!(meta::name(&self.metadata), "kube-root-ca.crt" | "klynge-load-balancer")
            || meta::label(&self.metadata, REMOVED_NODE_LABEL).is_some();
        if !is_read {
            self.data = None;
            self.binary_data = None;
        }
        self
    }
}

macro_rules! no_index {
    ($($kind:ty),* $(,)?) => { $(impl Indexed for $kind {})* };
}
no_index!(
    Node,
    Namespace,
    Service,
    Endpoints,
    ReplicaSet,
    Deployment,
    ReplicationController,
    DaemonSet,
    StatefulSet,
    ControllerRevision,
    Job,
    CronJob,
    ServiceAccount,
    Lease,
    PodDisruptionBudget,
    PersistentVolumeClaim,
    ServiceCIDR,
);

/// All objects of one kind, found by namespace and name, by controlling owner, and by the kind's own index.
#[derive(Clone, Debug)]
pub struct Mirror<K> {
    objects: HashMap<String, BTreeMap<String, Arc<K>>>,
    by_controller: HashMap<String, BTreeMap<Key, Arc<K>>>,
    orphans: HashMap<String, BTreeMap<String, Arc<K>>>,
    by_index: HashMap<String, BTreeMap<Key, Arc<K>>>,
    count: usize,
}

impl<K> Default for Mirror<K> {
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
            by_controller: HashMap::new(),
            orphans: HashMap::new(),
            by_index: HashMap::new(),
            count: 0,
        }
    }
}

impl<K: Metadata<Ty = ObjectMeta> + Indexed> Mirror<K> {
    /// Adds or replaces an object and gives the one before.
    pub fn set(&mut self, object: Arc<K>) -> Option<Arc<K>> {
        let key = Key::of(object.metadata());
        let old = self.remove(&key);
        if let Some(owner) = meta::controller_of(object.metadata()) {
            self.by_controller.entry(owner.uid.clone()).or_default().insert(key.clone(), object.clone());
        } else {
            self.orphans.entry(key.namespace.clone()).or_default().insert(key.name.clone(), object.clone());
        }
        if let Some(value) = object.index() {
            self.by_index.entry(value).or_default().insert(key.clone(), object.clone());
        }
        self.objects.entry(key.namespace).or_default().insert(key.name, object);
        self.count += 1;
        old
    }

    /// Removes an object and gives it.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<K>> {
        let object = remove_nested(&mut self.objects, &key.namespace, &key.name)?;
        self.count -= 1;
        if let Some(owner) = meta::controller_of(object.metadata()) {
            remove_nested(&mut self.by_controller, &owner.uid, key);
        } else {
            remove_nested(&mut self.orphans, &key.namespace, &key.name);
        }
        if let Some(value) = object.index() {
            remove_nested(&mut self.by_index, &value, key);
        }
        Some(object)
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<K>> {
        self.objects.get(namespace)?.get(name)
    }

    /// One object by key.
    pub fn at(&self, key: &Key) -> Option<&Arc<K>> {
        self.get(&key.namespace, &key.name)
    }

    /// All objects of a namespace, by name; cluster-scoped objects are in the empty one.
    pub fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = &Arc<K>> {
        self.objects.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    /// All objects.
    pub fn all(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.values().flat_map(BTreeMap::values)
    }

    /// The objects whose controlling owner has this uid, by key.
    pub fn controlled_by(&self, uid: &str) -> impl Iterator<Item = &Arc<K>> {
        self.by_controller.get(uid).into_iter().flat_map(BTreeMap::values)
    }

    /// The objects of a namespace that nothing controls.
    pub fn orphans(&self, namespace: &str) -> impl Iterator<Item = &Arc<K>> {
        self.orphans.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    /// The objects under a value of the kind's own index.
    pub fn indexed(&self, value: &str) -> impl Iterator<Item = &Arc<K>> {
        self.by_index.get(value).into_iter().flat_map(BTreeMap::values)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

fn remove_nested<K: Ord, V>(map: &mut HashMap<String, BTreeMap<K, V>>, outer: &str, inner: &K) -> Option<V> {
    let values = map.get_mut(outer)?;
    let removed = values.remove(inner);
    if values.is_empty() {
        map.remove(outer);
    }
    removed
}

/// What the garbage collector and the namespace controller know of an object of any kind.
#[derive(Clone, Debug, PartialEq)]
pub struct MetadataEntry {
    /// Its resource.
    pub resource: Resource,
    /// Its key.
    pub key: Key,
    /// Its owners.
    pub owners: Vec<OwnerReference>,
    /// Its finalizers.
    pub finalizers: Vec<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Its resourceVersion.
    pub resource_version: String,
}

/// The metadata of objects of all kinds: by uid, by owner, by namespace.
#[derive(Clone, Debug, Default)]
pub struct MetadataIndex {
    entries: HashMap<String, MetadataEntry>,
    dependents: HashMap<String, BTreeSet<String>>,
    by_namespace: HashMap<String, BTreeSet<String>>,
}

impl MetadataIndex {
    /// Adds or replaces an object.
    pub fn set(&mut self, resource: &Resource, metadata: &ObjectMeta) {
        let uid = meta::uid(metadata);
        self.remove(uid);
        let entry = MetadataEntry {
            resource: resource.clone(),
            key: Key::of(metadata),
            owners: metadata.owner_references.clone().unwrap_or_default(),
            finalizers: metadata.finalizers.clone().unwrap_or_default(),
            deleting: meta::is_deleting(metadata),
            resource_version: metadata.resource_version.clone().unwrap_or_default(),
        };
        for owner in &entry.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.to_owned());
        }
        if !entry.key.namespace.is_empty() {
            self.by_namespace.entry(entry.key.namespace.clone()).or_default().insert(uid.to_owned());
        }
        self.entries.insert(uid.to_owned(), entry);
    }

    /// Removes an object; whether it was there.
    pub fn remove(&mut self, uid: &str) -> bool {
        let Some(entry) = self.entries.remove(uid) else { return false };
        for owner in &entry.owners {
            remove_from_set(&mut self.dependents, &owner.uid, uid);
        }
        remove_from_set(&mut self.by_namespace, &entry.key.namespace, uid);
        true
    }

    /// All objects of a resource, with their uids.
    pub fn of_resource(&self, resource: &Resource) -> impl Iterator<Item = (&str, &MetadataEntry)> {
        self.entries
            .iter()
            .filter(move |(_, entry)| entry.resource == *resource)
            .map(|(uid, entry)| (uid.as_str(), entry))
    }

    /// One object by uid.
    pub fn get(&self, uid: &str) -> Option<&MetadataEntry> {
        self.entries.get(uid)
    }

    /// The uids and entries of what has an owner with this uid.
    pub fn dependents(&self, owner_uid: &str) -> impl Iterator<Item = (&str, &MetadataEntry)> {
        let uids = self.dependents.get(owner_uid).into_iter().flatten();
        uids.filter_map(|uid| self.entries.get(uid).map(|entry| (uid.as_str(), entry)))
    }

    /// The uids and entries of what lives in a namespace.
    pub fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = (&str, &MetadataEntry)> {
        let uids = self.by_namespace.get(namespace).into_iter().flatten();
        uids.filter_map(|uid| self.entries.get(uid).map(|entry| (uid.as_str(), entry)))
    }
}

fn remove_from_set(map: &mut HashMap<String, BTreeSet<String>>, key: &str, value: &str) {
    if let Some(values) = map.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            map.remove(key);
        }
    }
}

/// What controllers are told besides objects.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The cluster's certificate authority in PEM, published in every namespace.
    pub root_ca: String,
    /// What nodes' pod ranges are cut from, one per address family; empty where somebody else does that.
    pub pod_ranges: Vec<PodRange>,
    /// Every resource that is mirrored, by group and kind, so that owner references can be judged.
    pub mirrored: BTreeMap<(String, String), Resource>,
    /// Some resource has not been listed yet, so that a namespace which looks empty may not be.
    pub incomplete: bool,
    /// What heartbeats tell of nodes.
    pub seen: Arc<Picture>,
    /// Whether all pods want fast failover that do not say otherwise.
    pub fast_failover: bool,
}

/// An object of a kind that controllers do not look into; its metadata matters to owners and namespaces all the same.
#[derive(Clone, Debug)]
pub struct Other {
    /// Its resource.
    pub resource: Resource,
    /// Its metadata.
    pub metadata: ObjectMeta,
}

macro_rules! kinds {
    ($($field:ident: $kind:ident),* $(,)?) => {
        /// A read-only picture of the cluster.
        #[derive(Clone, Debug, Default)]
        pub struct View {
            $(#[doc = concat!("Every ", stringify!($kind), ".")] pub $field: Mirror<$kind>,)*
            /// Metadata of objects of all kinds.
            pub metadata: MetadataIndex,
            /// What is not an object.
            pub settings: Settings,
        }

        /// An object of one of the kinds that controllers look at.
        #[derive(Clone, Debug)]
        pub enum Typed {
            $(#[doc = concat!("A ", stringify!($kind), ".")] $kind(Arc<$kind>),)*
            /// Any other kind.
            Other(Arc<Other>),
        }

        impl Typed {
            /// The object's metadata.
            pub fn metadata(&self) -> &ObjectMeta {
                match self {
                    $(Self::$kind(object) => &object.metadata,)*
                    Self::Other(object) => &object.metadata,
                }
            }

            /// The object's kind.
            pub fn kind(&self) -> &str {
                match self {
                    $(Self::$kind(_) => stringify!($kind),)*
                    Self::Other(object) => &object.resource.kind,
                }
            }

            /// The object's resource.
            pub fn resource(&self) -> Resource {
                match self {
                    $(Self::$kind(_) => Resource::of::<$kind>(),)*
                    Self::Other(object) => object.resource.clone(),
                }
            }

            /// Decodes the JSON form of an object; `None` if controllers do not look into its resource.
            pub fn decode(resource: &Resource, json: &[u8]) -> Option<Result<Self, serde_json::Error>> {
                match resource.kind.as_str() {
                    $(stringify!($kind) if resource.group == <$kind as k8s_openapi::Resource>::GROUP => {
                        Some(serde_json::from_slice(json).map(|object: $kind| Self::$kind(Arc::new(object.trimmed()))))
                    })*
                    _ => None,
                }
            }

            /// Decodes the JSON form of an object by its kind alone, which is unambiguous among those that controllers look into.
            pub fn decode_kind(kind: &str, json: &[u8]) -> Option<Result<Self, serde_json::Error>> {
                Self::decode(View::resources().iter().find(|resource| resource.kind == kind)?, json)
            }
        }

        impl View {
            /// The resources that controllers look at, each to be mirrored whole.
            pub fn resources() -> Vec<Resource> {
                vec![$(Resource::of::<$kind>(),)*]
            }

            /// Adds or replaces an object and gives the one before.
            pub fn set(&mut self, object: &Typed) -> Option<Typed> {
                let old = match object {
                    $(Typed::$kind(object) => self.$field.set(object.clone()).map(Typed::$kind),)*
                    Typed::Other(_) => None,
                };
                if let Some(old) = &old && old.metadata().uid != object.metadata().uid {
                    self.metadata.remove(meta::uid(old.metadata()));
                }
                self.metadata.set(&object.resource(), object.metadata());
                old
            }

            /// Removes an object, known by any of its states, and gives what was there.
            pub fn remove_object(&mut self, object: &Typed) -> Option<Typed> {
                if let Typed::Other(other) = object {
                    let known = self.metadata.remove(meta::uid(&other.metadata));
                    return known.then(|| object.clone());
                }
                self.remove(object.kind(), &Key::of(object.metadata()))
            }

            /// Removes an object of `kind` and gives it.
            pub fn remove(&mut self, kind: &str, key: &Key) -> Option<Typed> {
                let old = match kind {
                    $(stringify!($kind) => self.$field.remove(key).map(Typed::$kind),)*
                    _ => None,
                }?;
                self.metadata.remove(meta::uid(old.metadata()));
                Some(old)
            }

            /// The keys of all objects of `kind`.
            pub fn keys_of(&self, kind: &str) -> Vec<Key> {
                match kind {
                    $(stringify!($kind) => self.$field.all().map(|object| Key::of(&object.metadata)).collect(),)*
                    _ => Vec::new(),
                }
            }
        }
    };
}

kinds! {
    pods: Pod,
    nodes: Node,
    namespaces: Namespace,
    services: Service,
    endpoints: Endpoints,
    endpoint_slices: EndpointSlice,
    replica_sets: ReplicaSet,
    deployments: Deployment,
    replication_controllers: ReplicationController,
    daemon_sets: DaemonSet,
    stateful_sets: StatefulSet,
    controller_revisions: ControllerRevision,
    jobs: Job,
    cron_jobs: CronJob,
    service_accounts: ServiceAccount,
    config_maps: ConfigMap,
    leases: Lease,
    pod_disruption_budgets: PodDisruptionBudget,
    persistent_volume_claims: PersistentVolumeClaim,
    certificate_signing_requests: CertificateSigningRequest,
    secrets: Secret,
    service_cidrs: ServiceCIDR,
}
