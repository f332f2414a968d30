//! Ingress: HTTP routes to Services.

use crate::Resource;

/// The row of Ingress.
pub(super) fn row() -> Resource {
    Resource::new("networking.k8s.io", "v1", "Ingress", "ingresses").short(&["ing"]).generation(&["spec"]).status()
}
