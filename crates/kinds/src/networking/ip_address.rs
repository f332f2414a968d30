//! IPAddress: one allocated cluster address.

use crate::row::{NameRule, Resource};

/// The row of IPAddress.
pub(super) fn row() -> Resource {
    Resource::new("networking.k8s.io", "v1", "IPAddress", "ipaddresses")
        .cluster()
        .short(&["ip"])
        .names(NameRule::IpAddress)
}
