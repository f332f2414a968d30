//! Errors as upstream's `Status` object words them: the one error type that crosses from the API to its clients.

use crate::{GroupVersionKind, GroupVersionResource, Map, Str, Value};
use std::fmt;

/// One entry of `details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Upstream's `FieldValueInvalid` and its like; empty where none fits.
    pub reason: Str,
    /// What is wrong, as upstream words it.
    pub message: String,
    /// The field's path, such as `spec.containers[0].name`.
    pub field: String,
}

/// A failure with upstream's code, reason, message and details (meta/v1 Status).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The HTTP code.
    pub code: u16,
    /// Upstream's reason, such as `NotFound`.
    pub reason: Str,
    /// The sentence that a person reads.
    pub message: String,
    /// details.name
    pub name: Str,
    /// details.group
    pub group: Str,
    /// details.kind: the resource for most errors, the kind for `Invalid`.
    pub kind: Str,
    /// details.uid
    pub uid: Str,
    /// details.causes
    pub causes: Vec<Cause>,
    /// details.retryAfterSeconds; 0 for none.
    pub retry_after_seconds: u32,
}

impl Status {
    /// An error without details.
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Status {
            code,
            reason: reason.into(),
            message: message.into(),
            name: Str::default(),
            group: Str::default(),
            kind: Str::default(),
            uid: Str::default(),
            causes: Vec::new(),
            retry_after_seconds: 0,
        }
    }

    fn about(mut self, resource: &GroupVersionResource, name: &str) -> Self {
        self.name = name.into();
        self.group = resource.group.clone();
        self.kind = resource.resource.clone();
        self
    }

    /// 404 for an object.
    #[must_use]
    pub fn not_found(resource: &GroupVersionResource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", resource.group_resource())).about(resource, name)
    }

    /// 409 for a create.
    #[must_use]
    pub fn already_exists(resource: &GroupVersionResource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", resource.group_resource()))
            .about(resource, name)
    }

    /// 409 for an update; `why` follows the colon.
    #[must_use]
    pub fn conflict(resource: &GroupVersionResource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.group_resource());
        Self::new(409, "Conflict", message).about(resource, name)
    }

    /// The conflict of a stale resourceVersion.
    #[must_use]
    pub fn modified(resource: &GroupVersionResource, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    /// 403; `why` follows the colon.
    #[must_use]
    pub fn forbidden(resource: &GroupVersionResource, name: &str, why: &str) -> Self {
        let what = resource.group_resource();
        let message = if name.is_empty() {
            format!("{what} is forbidden: {why}")
        } else {
            format!("{what} \"{name}\" is forbidden: {why}")
        };
        Self::new(403, "Forbidden", message).about(resource, name)
    }

    /// 401.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 400.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 422: validation found `causes`.
    #[must_use]
    pub fn invalid(kind: &GroupVersionKind, name: &str, causes: Vec<Cause>) -> Self {
        let all: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let list = match all.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let what = if kind.group.is_empty() { kind.kind.to_string() } else { format!("{}.{}", kind.kind, kind.group) };
        let mut status = Self::new(422, "Invalid", format!("{what} \"{name}\" is invalid: {list}"));
        status.name = name.into();
        status.group = kind.group.clone();
        status.kind = kind.kind.clone();
        status.causes = causes;
        status
    }

    /// 410: a revision that is compacted away, or a continue token too old.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 405.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// 404 for a path that leads nowhere.
    #[must_use]
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 429 with a time to wait.
    #[must_use]
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut status = Self::new(429, "TooManyRequests", message);
        status.retry_after_seconds = retry_after_seconds;
        status
    }

    /// 500.
    #[must_use]
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// 503.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// True for 404 with this reason.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.reason == "NotFound"
    }

    /// True for a stale resourceVersion or another write conflict.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.reason == "Conflict"
    }

    /// True where the object exists already.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }

    /// True for a revision that is gone: list again.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.code == 410
    }

    /// The meta/v1 Status object.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut details = Map::new();
        for (key, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)] {
            if !text.is_empty() {
                details.insert(key, text.clone());
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(|cause| {
                let members = [("reason", cause.reason.as_str()), ("message", &cause.message), ("field", &cause.field)];
                Value::Object(members.into_iter().filter(|member| !member.1.is_empty()).collect())
            });
            details.insert("causes", causes.collect::<Vec<_>>());
        }
        if self.retry_after_seconds > 0 {
            details.insert("retryAfterSeconds", i64::from(self.retry_after_seconds));
        }
        let mut status = Map::new();
        status.insert("kind", "Status");
        status.insert("apiVersion", "v1");
        status.insert("metadata", Map::new());
        status.insert("status", "Failure");
        status.insert("message", self.message.clone());
        if !self.reason.is_empty() {
            status.insert("reason", self.reason.clone());
        }
        if !details.is_empty() {
            status.insert("details", details);
        }
        status.insert("code", i64::from(self.code));
        Value::Object(status)
    }

    /// Reads a Status object back; what is missing stays empty.
    #[must_use]
    pub fn from_value(value: &Value) -> Self {
        let text = |path: &[&str]| Str::from(value.str_at(path).unwrap_or_default());
        let number = |path: &[&str]| value.i64_at(path).unwrap_or_default();
        let causes = value.at(&["details", "causes"]).and_then(Value::as_array).unwrap_or_default();
        Status {
            code: u16::try_from(number(&["code"])).unwrap_or(500),
            reason: text(&["reason"]),
            message: text(&["message"]).into(),
            name: text(&["details", "name"]),
            group: text(&["details", "group"]),
            kind: text(&["details", "kind"]),
            uid: text(&["details", "uid"]),
            causes: causes
                .iter()
                .map(|cause| Cause {
                    reason: cause.str_at(&["reason"]).unwrap_or_default().into(),
                    message: cause.str_at(&["message"]).unwrap_or_default().into(),
                    field: cause.str_at(&["field"]).unwrap_or_default().into(),
                })
                .collect(),
            retry_after_seconds: u32::try_from(number(&["details", "retryAfterSeconds"])).unwrap_or_default(),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}
