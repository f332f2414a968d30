//! ServiceAccount: an identity for processes in pods.

use crate::cells;
use crate::row::{Resource, Role};
use object::GroupVersionKind;
use object::Value;
use object::table::Column;

/// The row of ServiceAccount.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "ServiceAccount", "serviceaccounts")
        .short(&["sa"])
        .with_subresource(
            "token",
            Role::Token,
            GroupVersionKind::parse("authentication.k8s.io/v1", "TokenRequest"),
            &["create"],
        )
        .with_columns(vec![
            Column::name(),
            Column::new("Secrets", |account, _| Value::Int(cells::count(account, &["secrets"]))),
            Column::age(),
        ])
}

// Nothing is defaulted; references to Secrets are not checked, as upstream does not.
