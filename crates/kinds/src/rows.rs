//! All built-in rows, in the order in which discovery shows their groups.

use crate::Resource;

/// The rows of all groups.
pub(crate) fn rows() -> Vec<Resource> {
    [
        crate::core::rows(),
        crate::apiregistration::rows(),
        crate::apps::rows(),
        crate::events::rows(),
        crate::authentication::rows(),
        crate::authorization::rows(),
        crate::autoscaling::rows(),
        crate::batch::rows(),
        crate::certificates::rows(),
        crate::networking::rows(),
        crate::policy::rows(),
        crate::rbac::rows(),
        crate::storage::rows(),
        crate::admissionregistration::rows(),
        crate::apiextensions::rows(),
        crate::scheduling::rows(),
        crate::coordination::rows(),
        crate::node::rows(),
        crate::discovery::rows(),
        crate::resource::rows(),
        crate::flowcontrol::rows(),
        crate::storagemigration::rows(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
