//! What a controller wants done, as data.

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource as Typed};
use serde::Serialize;
use serde_json::Value;

use crate::meta;

/// A resource in the version that the controllers speak.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Plural name in paths.
    pub plural: String,
    /// Kind.
    pub kind: String,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

impl Resource {
    /// The resource of a typed kind.
    pub fn of<K: Typed>() -> Self {
        let namespaced = std::any::type_name::<K::Scope>().contains("Namespace");
        Self {
            group: K::GROUP.into(),
            version: K::VERSION.into(),
            plural: K::URL_PATH_SEGMENT.into(),
            kind: K::KIND.into(),
            namespaced,
        }
    }

    /// `group/version`, or the version alone in the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// One object of a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The resource.
    pub resource: Resource,
    /// Empty for cluster scope.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl Target {
    /// The target that a typed object is.
    pub fn of<K: Typed + Metadata<Ty = ObjectMeta>>(object: &K) -> Self {
        let metadata = object.metadata();
        Self {
            resource: Resource::of::<K>(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }
}

/// Refuse with a conflict unless the object is still the one (and, where a revision is given, in the state) that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    /// The uid that the plan was made for; empty for none.
    pub uid: String,
    /// The resourceVersion that the plan was made for; empty for any.
    pub resource_version: String,
}

/// What becomes of dependents of a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Deleted afterwards.
    Background,
    /// Deleted first.
    Foreground,
    /// Kept without their owner.
    Orphan,
}

/// The two types of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// Information.
    Normal,
    /// Something to look at.
    Warning,
}

/// An event about an object. In its message `{name}` stands for the name that a create was given, `{error}` for why an action failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What it is about.
    pub regarding: ObjectReference,
    /// Normal or Warning.
    pub event_type: EventType,
    /// A machine-readable word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

impl Event {
    /// An event about a typed object.
    pub fn about<K: Typed + Metadata<Ty = ObjectMeta>>(
        object: &K,
        event_type: EventType,
        reason: &str,
        message: impl Into<String>,
    ) -> Self {
        Self { regarding: meta::object_reference(object), event_type, reason: reason.into(), message: message.into() }
    }

    /// A Normal event.
    pub fn normal<K: Typed + Metadata<Ty = ObjectMeta>>(object: &K, reason: &str, message: impl Into<String>) -> Self {
        Self::about(object, EventType::Normal, reason, message)
    }

    /// A Warning event.
    pub fn warning<K: Typed + Metadata<Ty = ObjectMeta>>(object: &K, reason: &str, message: impl Into<String>) -> Self {
        Self::about(object, EventType::Warning, reason, message)
    }
}

/// An object to be created.
#[derive(Clone, Debug, PartialEq)]
pub struct Create {
    /// Its resource.
    pub resource: Resource,
    /// Empty for cluster scope.
    pub namespace: String,
    /// The object; its name may be left to generateName.
    pub object: Value,
    /// Told when it worked.
    pub on_success: Option<Event>,
    /// Told when it did not.
    pub on_failure: Option<Event>,
    /// That it exists already is as good as having created it.
    pub exists_is_success: bool,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "plans are short and short-lived")]
pub enum Action {
    /// Create an object. Creates of one plan start slowly (1, 2, 4, ...) and stop at the first failure.
    Create(Box<Create>),
    /// Replace an object or its subresource; the object carries uid and resourceVersion.
    Update {
        /// Which object.
        target: Target,
        /// Empty for the object itself.
        subresource: &'static str,
        /// The whole object.
        object: Value,
        /// Told when it worked.
        on_success: Option<Event>,
    },
    /// Change an object by a merge patch (RFC 7386).
    Patch {
        /// Which object.
        target: Target,
        /// Empty for the object itself.
        subresource: &'static str,
        /// What must still hold.
        precondition: Precondition,
        /// The patch.
        patch: Value,
    },
    /// Delete an object.
    Delete {
        /// Which object.
        target: Target,
        /// What must still hold.
        precondition: Precondition,
        /// Seconds; none for the object's own.
        grace_period_seconds: Option<i64>,
        /// None for the resource's default.
        propagation: Option<Propagation>,
        /// Objects with these uids must be found absent first, by asking rather than by looking at the view.
        unless_present: Vec<(Target, String)>,
        /// Told when it worked.
        on_success: Option<Event>,
        /// Told when it did not.
        on_failure: Option<Event>,
    },
    /// Have the cluster's authority sign an approved request as its spec asks, and write the certificate into its status.
    Sign {
        /// The request.
        request: Box<CertificateSigningRequest>,
        /// How long the certificate holds.
        lifetime_seconds: i64,
    },
    /// Tell something.
    Event(Event),
}

impl Action {
    /// Creates a typed object.
    pub fn create<K: Typed + Metadata<Ty = ObjectMeta> + Serialize>(object: &K) -> Create {
        Create {
            resource: Resource::of::<K>(),
            namespace: object.metadata().namespace.clone().unwrap_or_default(),
            object: meta::to_json(object),
            on_success: None,
            on_failure: None,
            exists_is_success: false,
        }
    }

    /// Replaces a typed object, which carries the resourceVersion that was looked at.
    pub fn update<K: Typed + Metadata<Ty = ObjectMeta> + Serialize>(object: &K) -> Self {
        Self::Update { target: Target::of(object), subresource: "", object: meta::to_json(object), on_success: None }
    }

    /// Replaces the status of a typed object, which carries the resourceVersion that was looked at.
    pub fn update_status<K: Typed + Metadata<Ty = ObjectMeta> + Serialize>(object: &K) -> Self {
        Self::Update {
            target: Target::of(object),
            subresource: "status",
            object: meta::to_json(object),
            on_success: None,
        }
    }

    /// Patches a typed object on the condition that it is still the same object.
    pub fn patch<K: Typed + Metadata<Ty = ObjectMeta>>(object: &K, subresource: &'static str, patch: Value) -> Self {
        let precondition = Precondition { uid: meta::uid(object.metadata()).into(), resource_version: String::new() };
        Self::Patch { target: Target::of(object), subresource, precondition, patch }
    }

    /// As [`Action::patch`], and the object must not have changed either.
    pub fn patch_unchanged<K: Typed + Metadata<Ty = ObjectMeta>>(
        object: &K,
        subresource: &'static str,
        patch: Value,
    ) -> Self {
        let precondition = Precondition {
            uid: meta::uid(object.metadata()).into(),
            resource_version: object.metadata().resource_version.clone().unwrap_or_default(),
        };
        Self::Patch { target: Target::of(object), subresource, precondition, patch }
    }

    /// Deletes a typed object on the condition that it is still the same object.
    pub fn delete<K: Typed + Metadata<Ty = ObjectMeta>>(object: &K) -> Self {
        Self::delete_with_events(object, None, None)
    }

    /// Deletes a typed object at once, without grace.
    pub fn delete_now<K: Typed + Metadata<Ty = ObjectMeta>>(object: &K) -> Self {
        let mut action = Self::delete(object);
        if let Self::Delete { grace_period_seconds, .. } = &mut action {
            *grace_period_seconds = Some(0);
        }
        action
    }

    /// As [`Action::delete`], with events.
    pub fn delete_with_events<K: Typed + Metadata<Ty = ObjectMeta>>(
        object: &K,
        on_success: Option<Event>,
        on_failure: Option<Event>,
    ) -> Self {
        Self::Delete {
            target: Target::of(object),
            precondition: Precondition { uid: meta::uid(object.metadata()).into(), resource_version: String::new() },
            grace_period_seconds: None,
            propagation: Some(Propagation::Background),
            unless_present: Vec::new(),
            on_success,
            on_failure,
        }
    }
}

impl Create {
    /// With events for both outcomes.
    pub fn with_events(mut self, on_success: Option<Event>, on_failure: Option<Event>) -> Self {
        self.on_success = on_success;
        self.on_failure = on_failure;
        self
    }

    /// Found existing counts as done.
    pub fn exists_is_success(mut self) -> Self {
        self.exists_is_success = true;
        self
    }

    /// As an action.
    pub fn action(self) -> Action {
        Action::Create(Box::new(self))
    }
}

/// What a controller decided.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In this order; those of equal kind may run beside each other.
    pub actions: Vec<Action>,
    /// Look again at this time even if nothing changes.
    pub requeue_at: Option<Timestamp>,
}

impl Plan {
    /// Nothing to do.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Just these actions.
    pub fn of(actions: Vec<Action>) -> Self {
        Self { actions, requeue_at: None }
    }

    /// Look again no later than this.
    pub fn requeue_at(&mut self, at: Timestamp) {
        self.requeue_at = Some(self.requeue_at.map_or(at, |known| known.min(at)));
    }
}

/// An action that did not work.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The resource it was about.
    pub resource: Resource,
    /// Whether it was a create.
    pub create: bool,
    /// The status reason: `Forbidden`, `AlreadyExists`, ...
    pub reason: String,
    /// The message.
    pub message: String,
}
