//! IngressClass: who implements an Ingress.

use crate::Resource;

/// The row of IngressClass.
pub(super) fn row() -> Resource {
    Resource::new("networking.k8s.io", "v1", "IngressClass", "ingressclasses").cluster().generation(&["spec"])
}
