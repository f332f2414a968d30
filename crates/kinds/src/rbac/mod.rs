//! The kinds of rbac.authorization.k8s.io.

mod bindings;
mod cluster_role;
mod cluster_role_binding;
mod role;
mod role_binding;

use crate::Resource;

/// The rows, in the order of discovery.
pub(crate) fn rows() -> Vec<Resource> {
    vec![cluster_role_binding::row(), cluster_role::row(), role_binding::row(), role::row()]
}
