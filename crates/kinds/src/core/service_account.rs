//! ServiceAccount: an identity for processes in pods.

use crate::row::{Resource, Role};
use object::GroupVersionKind;

/// The row of ServiceAccount.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "ServiceAccount", "serviceaccounts").short(&["sa"]).with_subresource(
        "token",
        Role::Token,
        GroupVersionKind::parse("authentication.k8s.io/v1", "TokenRequest"),
        &["create"],
    )
}
