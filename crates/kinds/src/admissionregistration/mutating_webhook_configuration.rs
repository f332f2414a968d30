//! MutatingWebhookConfiguration: webhooks that change objects.

use crate::Resource;

/// The row of MutatingWebhookConfiguration.
pub(super) fn row() -> Resource {
    Resource::new("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations")
        .cluster()
        .in_api_extensions()
        .generation(&["webhooks"])
}
