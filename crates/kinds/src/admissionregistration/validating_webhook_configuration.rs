//! ValidatingWebhookConfiguration: webhooks that accept or refuse objects.

use crate::Resource;

/// The row of ValidatingWebhookConfiguration.
pub(super) fn row() -> Resource {
    Resource::new(
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
    )
    .cluster()
    .in_api_extensions()
    .generation(&["webhooks"])
}
