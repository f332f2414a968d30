//! A row of the resource table: everything the rooms need to know of a kind, owned, so that it can also be made at run time.

use crate::Hooks;
use object::schema::{Schemas, TypeId};
use object::table::Column;
use object::{GroupVersionKind, GroupVersionResource, Str, Value};
use std::sync::{Arc, OnceLock};

/// The verbs of a proxy subresource in discovery.
pub(crate) const PROXY_VERBS: [&str; 5] = ["create", "delete", "get", "patch", "update"];

/// One kind: its names, versions, verbs, subresources, columns, selectable fields and code.
#[derive(Clone)]
pub struct Resource {
    /// API group; empty for core.
    pub group: Str,
    /// Kind, such as `Pod`.
    pub kind: Str,
    /// The list's kind, such as `PodList`.
    pub list_kind: Str,
    /// Plural lower-case name, the one in paths.
    pub plural: Str,
    /// Singular lower-case name.
    pub singular: Str,
    /// Short names for the command line.
    pub short_names: Vec<Str>,
    /// Categories such as `all`.
    pub categories: Vec<Str>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Served versions, the preferred one first.
    pub versions: Vec<Version>,
    /// The version that is stored: the hub that the others convert to and from.
    pub storage_version: Str,
    /// The stored kind; differs from this row's group only where two groups serve the same objects (events).
    pub hub: GroupVersionKind,
    /// The store's bucket, such as `pods` or `deployments.apps`.
    pub bucket: Str,
    /// Subresources, sorted by name.
    pub subresources: Vec<Subresource>,
    /// Verbs of the resource itself, sorted.
    pub verbs: Vec<Str>,
    /// What `kubectl get` shows.
    pub columns: Vec<Column>,
    /// What field selectors may name beside metadata.name and metadata.namespace.
    pub selectable_fields: Vec<SelectableField>,
    /// Members whose change raises metadata.generation; empty where the kind has no generation.
    pub generation_of: Vec<Str>,
    /// Whether a client may set status when it creates the object, as kubelets do for nodes.
    pub keeps_status_on_create: bool,
    /// What names of this kind look like.
    pub name_rule: NameRule,
    /// Whether PUT and apply may create an object that does not exist.
    pub create_on_update: bool,
    /// Whether an update without resourceVersion overwrites whatever is there.
    pub unconditional_update: bool,
    /// The kind's code.
    pub hooks: Arc<dyn Hooks>,
}

/// A served version.
#[derive(Clone)]
pub struct Version {
    /// Name, such as `v1`.
    pub name: Str,
    /// Upstream's definition name, such as `io.k8s.api.core.v1.Pod`.
    pub definition: Str,
    /// Turns an object of this version into the hub's; None where this version is the hub.
    pub convert_to_hub: Option<fn(&mut Value)>,
    /// Turns a hub object into this version's.
    pub convert_from_hub: Option<fn(&mut Value)>,
    own_schemas: Option<Arc<Schemas>>,
    type_id: OnceLock<Option<TypeId>>,
}

impl Version {
    /// A version of a built-in kind.
    #[must_use]
    pub fn new(name: &str, definition: &str) -> Self {
        Version {
            name: name.into(),
            definition: definition.into(),
            convert_to_hub: None,
            convert_from_hub: None,
            own_schemas: None,
            type_id: OnceLock::new(),
        }
    }

    /// A version with schemas of its own, as a custom resource has.
    #[must_use]
    pub fn with_schemas(name: &str, definition: &str, schemas: Arc<Schemas>) -> Self {
        let mut version = Version::new(name, definition);
        version.own_schemas = Some(schemas);
        version
    }

    /// The schemas that hold this version's type.
    #[must_use]
    pub fn schemas(&self) -> &Schemas {
        self.own_schemas.as_deref().unwrap_or_else(|| crate::schemas())
    }

    /// The type, where the schemas know it: for built-in kinds always (a test checks every row).
    #[must_use]
    pub fn try_type_id(&self) -> Option<TypeId> {
        *self.type_id.get_or_init(|| self.schemas().find(&self.definition))
    }

    /// The type of this version's objects in [`Self::schemas`].
    #[must_use]
    #[expect(clippy::expect_used, reason = "the schema data is committed with the rows, and a test resolves every row")]
    pub fn type_id(&self) -> TypeId {
        self.try_type_id().expect("the row's type is in its schemas")
    }
}

/// What a name must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NameRule {
    /// Labels of a DNS name joined by dots, up to 253 characters: the rule of most kinds.
    #[default]
    Subdomain,
    /// One label, up to 63 characters.
    Label,
    /// One label that begins with a letter (RFC 1035), as Services had it before they were relaxed.
    Label1035,
    /// Anything that is a segment of a path: RBAC names such as `system:node`.
    PathSegment,
    /// The canonical form of an address.
    IpAddress,
}

/// One subresource.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// Name in the path, such as `status`.
    pub name: Str,
    /// What it does.
    pub role: Role,
    /// The kind of its bodies.
    pub kind: GroupVersionKind,
    /// Verbs, sorted.
    pub verbs: Vec<Str>,
}

/// What a subresource does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads and writes status (and of metadata what the kind allows).
    Status,
    /// Presents the object as an autoscaling/v1 Scale.
    Scale(ScalePaths),
    /// Assigns a pod to a node.
    Binding,
    /// Deletes a pod if its disruption budgets allow it.
    Eviction,
    /// Issues a ServiceAccount's token.
    Token,
    /// A container's log.
    Log,
    /// Runs a command in a container.
    Exec,
    /// Attaches to a container's process.
    Attach,
    /// Forwards ports.
    PortForward,
    /// Forwards HTTP requests.
    Proxy,
    /// Adds ephemeral containers.
    EphemeralContainers,
    /// Changes resources in place.
    Resize,
    /// Removes spec.finalizers of a namespace.
    Finalize,
    /// Approves or denies a CertificateSigningRequest.
    Approval,
}

/// Where Scale finds its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// The wanted number.
    pub spec_replicas: Vec<Str>,
    /// The number there is.
    pub status_replicas: Vec<Str>,
    /// A LabelSelector, a map of labels or a selector's string; empty for none.
    pub selector: Vec<Str>,
}

/// A field that field selectors may name.
#[derive(Clone, Debug)]
pub struct SelectableField {
    /// The name in the selector.
    pub name: Str,
    /// Where the hub object has it.
    pub path: Vec<Str>,
    /// What an object without it counts as: mostly the empty string, `false` or `0` by the field's type.
    pub absent: Str,
}

impl Resource {
    /// A namespaced kind with one version and all the usual verbs.
    #[must_use]
    pub fn new(group: &str, version: &str, kind: &str, plural: &str) -> Self {
        let names = GroupVersionResource::new(group, version, plural);
        Resource {
            group: group.into(),
            kind: kind.into(),
            list_kind: format!("{kind}List").into(),
            plural: plural.into(),
            singular: kind.to_ascii_lowercase().into(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced: true,
            versions: vec![Version::new(version, &definition(group, version, kind))],
            storage_version: version.into(),
            hub: GroupVersionKind { group: group.into(), version: version.into(), kind: kind.into() },
            bucket: names.group_resource().into(),
            subresources: Vec::new(),
            verbs: strings(&["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]),
            columns: Vec::new(),
            selectable_fields: Vec::new(),
            generation_of: Vec::new(),
            keeps_status_on_create: false,
            name_rule: NameRule::Subdomain,
            create_on_update: false,
            unconditional_update: true,
            hooks: Arc::new(crate::hooks::Plain),
        }
    }

    /// `pods` or `deployments.apps`, as errors name it.
    #[must_use]
    pub fn group_resource(&self) -> String {
        GroupVersionResource::new(self.group.clone(), "", self.plural.clone()).group_resource()
    }

    /// The served version named `name`.
    #[must_use]
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.name == name)
    }

    /// The subresource named `name`.
    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }

    /// Whether the resource itself knows `verb`.
    #[must_use]
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|one| one == verb)
    }

    /// True for kinds that are only posted and never stored, such as TokenReview.
    #[must_use]
    pub fn is_create_only(&self) -> bool {
        self.verbs == ["create"]
    }

    /// The selectable field's value in a hub object; None where the kind does not offer the field.
    #[must_use]
    pub fn field(&self, object: &Value, name: &str) -> Option<Str> {
        match name {
            "metadata.name" => Some(object.str_at(&["metadata", "name"]).unwrap_or_default().into()),
            "metadata.namespace" if self.namespaced => {
                Some(object.str_at(&["metadata", "namespace"]).unwrap_or_default().into())
            }
            _ => {
                let field = self.selectable_fields.iter().find(|field| field.name == name)?;
                let path: Vec<&str> = field.path.iter().map(Str::as_str).collect();
                Some(match object.at(&path) {
                    Some(Value::String(text)) => text.clone(),
                    Some(Value::Bool(flag)) => (if *flag { "true" } else { "false" }).into(),
                    Some(Value::Int(number)) => number.to_string().into(),
                    _ => field.absent.clone(),
                })
            }
        }
    }

    /// Whether a field selector may name `field`.
    #[must_use]
    pub fn is_selectable(&self, field: &str) -> bool {
        field == "metadata.name"
            || (field == "metadata.namespace" && self.namespaced)
            || self.selectable_fields.iter().any(|one| one.name == field)
    }

    // What follows are the words that a kind's file says its row with.

    /// Objects live outside namespaces.
    #[must_use]
    pub fn cluster(mut self) -> Self {
        self.namespaced = false;
        self
    }

    /// Only POST is served, and nothing is stored.
    #[must_use]
    pub fn create_only(mut self) -> Self {
        self.verbs = strings(&["create"]);
        self
    }

    /// The resource's verbs, sorted.
    #[must_use]
    pub fn with_verbs(mut self, verbs: &[&str]) -> Self {
        self.verbs = strings(verbs);
        self
    }

    /// Short names.
    #[must_use]
    pub fn short(mut self, names: &[&str]) -> Self {
        self.short_names = strings(names);
        self
    }

    /// Shown by `kubectl get all`.
    #[must_use]
    pub fn in_all(mut self) -> Self {
        self.categories.push("all".into());
        self
    }

    /// In `kubectl get api-extensions`.
    #[must_use]
    pub fn in_api_extensions(mut self) -> Self {
        self.categories.push("api-extensions".into());
        self
    }

    /// A subresource with bodies of `kind`.
    #[must_use]
    pub fn with_subresource(mut self, name: &str, role: Role, kind: GroupVersionKind, verbs: &[&str]) -> Self {
        self.subresources.push(Subresource { name: name.into(), role, kind, verbs: strings(verbs) });
        self.subresources.sort_by(|a, b| a.name.cmp(&b.name));
        self
    }

    /// A subresource whose bodies are of the kind itself, with get, patch and update.
    #[must_use]
    pub fn own_subresource(self, name: &str, role: Role) -> Self {
        let kind = self.hub.clone();
        self.with_subresource(name, role, kind, &["get", "patch", "update"])
    }

    /// The status subresource.
    #[must_use]
    pub fn status(self) -> Self {
        self.own_subresource("status", Role::Status)
    }

    /// The scale subresource over spec.replicas, status.replicas and the selector at `selector`.
    #[must_use]
    pub fn scale(self, selector: &[&str]) -> Self {
        let paths = ScalePaths {
            spec_replicas: strings(&["spec", "replicas"]),
            status_replicas: strings(&["status", "replicas"]),
            selector: strings(selector),
        };
        let kind = GroupVersionKind::parse("autoscaling/v1", "Scale");
        self.with_subresource("scale", Role::Scale(paths), kind, &["get", "patch", "update"])
    }

    /// metadata.generation rises when one of `members` changes.
    #[must_use]
    pub fn generation(mut self, members: &[&str]) -> Self {
        self.generation_of = strings(members);
        self
    }

    /// A client may set status when it creates the object.
    #[must_use]
    pub fn status_on_create(mut self) -> Self {
        self.keeps_status_on_create = true;
        self
    }

    /// The rule for names.
    #[must_use]
    pub fn names(mut self, rule: NameRule) -> Self {
        self.name_rule = rule;
        self
    }

    /// PUT may create.
    #[must_use]
    pub fn creatable_by_update(mut self) -> Self {
        self.create_on_update = true;
        self
    }

    /// Updates must carry a resourceVersion.
    #[must_use]
    pub fn conditional_update(mut self) -> Self {
        self.unconditional_update = false;
        self
    }

    /// A selectable string field whose name is its path.
    #[must_use]
    pub fn selectable(self, name: &str) -> Self {
        self.selectable_as(name, name, "")
    }

    /// A selectable field at another path, with what its absence counts as.
    #[must_use]
    pub fn selectable_as(mut self, name: &str, path: &str, absent: &str) -> Self {
        let path = path.split('.').map(Str::from).collect();
        self.selectable_fields.push(SelectableField { name: name.into(), path, absent: absent.into() });
        self
    }

    /// What `kubectl get` shows.
    #[must_use]
    pub fn with_columns(mut self, columns: Vec<Column>) -> Self {
        self.columns = columns;
        self
    }

    /// The kind's code.
    #[must_use]
    pub fn with_hooks(mut self, hooks: impl Hooks) -> Self {
        self.hooks = Arc::new(hooks);
        self
    }

    /// Another served version, converted to and from the hub by two functions.
    #[must_use]
    pub fn also(mut self, version: &str, to_hub: fn(&mut Value), from_hub: fn(&mut Value)) -> Self {
        let mut version = Version::new(version, &definition(&self.group, version, &self.kind));
        version.convert_to_hub = Some(to_hub);
        version.convert_from_hub = Some(from_hub);
        self.versions.push(version);
        self
    }

    /// Stored as objects of another group, as events.k8s.io is stored as core events.
    #[must_use]
    pub fn stored_as(
        mut self,
        bucket: &str,
        hub: GroupVersionKind,
        to_hub: fn(&mut Value),
        from_hub: fn(&mut Value),
    ) -> Self {
        self.bucket = bucket.into();
        self.hub = hub;
        for version in &mut self.versions {
            version.convert_to_hub = Some(to_hub);
            version.convert_from_hub = Some(from_hub);
        }
        self
    }
}

fn strings(texts: &[&str]) -> Vec<Str> {
    texts.iter().map(|text| Str::from(*text)).collect()
}

/// Upstream's definition name of a built-in kind.
fn definition(group: &str, version: &str, kind: &str) -> String {
    match group {
        "" => format!("io.k8s.api.core.{version}.{kind}"),
        "apiextensions.k8s.io" => {
            format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}")
        }
        "apiregistration.k8s.io" => {
            format!("io.k8s.kube-aggregator.pkg.apis.apiregistration.{version}.{kind}")
        }
        _ => format!("io.k8s.api.{}.{version}.{kind}", group.split('.').next().unwrap_or(group)),
    }
}
