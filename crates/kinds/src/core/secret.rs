//! Secret: small confidential data.

use crate::Resource;

/// The row of Secret.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "Secret", "secrets").selectable("type")
}
