//! ValidatingWebhookConfiguration: webhooks that accept or refuse objects.

use super::webhooks;
use crate::Hooks;
use crate::Resource;
use object::Value;

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
    .with_columns(webhooks::columns())
    .with_hooks(Webhooks)
}

struct Webhooks;

impl Hooks for Webhooks {
    fn default(&self, configuration: &mut Value) {
        webhooks::default_webhooks(configuration, false);
    }
}
