//! CustomResourceDefinition: a kind added at run time.

use crate::Resource;

/// The row of CustomResourceDefinition.
pub(super) fn row() -> Resource {
    Resource::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions")
        .cluster()
        .short(&["crd", "crds"])
        .in_api_extensions()
        .generation(&["spec"])
        .status()
}
