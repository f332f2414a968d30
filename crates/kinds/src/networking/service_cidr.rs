//! ServiceCIDR: a range of cluster addresses.

use crate::Resource;

/// The row of ServiceCIDR.
pub(super) fn row() -> Resource {
    Resource::new("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs").cluster().status()
}
