//! PodDisruptionBudget: how many pods may be disturbed at once.

use crate::Resource;

/// The row of PodDisruptionBudget.
pub(super) fn row() -> Resource {
    Resource::new("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
        .short(&["pdb"])
        .generation(&["spec"])
        .status()
}
