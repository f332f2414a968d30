//! The kinds of admissionregistration.k8s.io.

mod mutating_admission_policy;
mod mutating_admission_policy_binding;
mod mutating_webhook_configuration;
mod validating_admission_policy;
mod validating_admission_policy_binding;
mod validating_webhook_configuration;
mod webhooks;

use crate::Resource;

/// The rows, in the order of discovery.
pub(crate) fn rows() -> Vec<Resource> {
    vec![
        mutating_admission_policy::row(),
        mutating_admission_policy_binding::row(),
        mutating_webhook_configuration::row(),
        validating_admission_policy::row(),
        validating_admission_policy_binding::row(),
        validating_webhook_configuration::row(),
    ]
}
