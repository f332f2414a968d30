//! What the documents need to know of a row.

use object::{GroupVersionKind, Str};

/// One resource in one served version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Served {
    /// API group; empty for core.
    pub group: Str,
    /// Version, such as `v1`.
    pub version: Str,
    /// Kind, such as `Pod`.
    pub kind: Str,
    /// The list's kind; its definition stands beside the kind's.
    pub list_kind: Str,
    /// Upstream's definition name, such as `io.k8s.api.core.v1.Pod`.
    pub definition: Str,
    /// Plural lower-case name.
    pub plural: Str,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Verbs of the resource itself.
    pub verbs: Vec<Str>,
    /// Its subresources.
    pub subresources: Vec<ServedSubresource>,
}

/// One subresource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServedSubresource {
    /// Name in the path, such as `status`.
    pub name: Str,
    /// The kind of its bodies.
    pub kind: GroupVersionKind,
    /// Verbs.
    pub verbs: Vec<Str>,
}

impl Served {
    /// `api/v1` or `apis/apps/v1`.
    #[must_use]
    pub fn prefix(&self) -> String {
        if self.group.is_empty() {
            format!("api/{}", self.version)
        } else {
            format!("apis/{}/{}", self.group, self.version)
        }
    }

    pub(super) fn list_definition(&self) -> String {
        let package = self.definition.rsplit_once('.').map_or("", |parts| parts.0);
        format!("{package}.{}", self.list_kind)
    }

    pub(super) fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|one| one == verb)
    }

    pub(super) fn group_version_kind(&self) -> GroupVersionKind {
        GroupVersionKind { group: self.group.clone(), version: self.version.clone(), kind: self.kind.clone() }
    }
}
