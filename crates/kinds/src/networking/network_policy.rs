//! NetworkPolicy: who may talk to a pod.

use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::edit::{default_to, items, items_mut};
use object::table::Column;
use object::{Cause, Value};

/// The row of NetworkPolicy.
pub(super) fn row() -> Resource {
    Resource::new("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
        .short(&["netpol"])
        .generation(&["spec"])
        .with_columns(vec![
            Column::name(),
            Column::new("Pod-Selector", |policy, _| cells::selector_at(policy, &["spec", "podSelector"])),
            Column::age(),
        ])
        .with_hooks(NetworkPolicy)
}

struct NetworkPolicy;

impl Hooks for NetworkPolicy {
    fn default(&self, policy: &mut Value) {
        if items(policy, &["spec", "policyTypes"]).is_empty() {
            let mut kinds = vec![Value::from("Ingress")];
            if !items(policy, &["spec", "egress"]).is_empty() {
                kinds.push("Egress".into());
            }
            policy.set(&["spec", "policyTypes"], Value::Array(kinds));
        }
        for direction in ["ingress", "egress"] {
            for rule in items_mut(policy, &["spec", direction]) {
                for port in items_mut(rule, &["ports"]) {
                    default_to(port, &["protocol"], "TCP");
                }
            }
        }
    }

    fn validate(&self, policy: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        for (at, kind) in items(policy, &["spec", "policyTypes"]).iter().enumerate() {
            if !matches!(kind.as_str(), Some("Ingress" | "Egress")) {
                let field = format!("spec.policyTypes[{at}]");
                causes.push(crate::validation::not_supported(&field, kind, &["Egress", "Ingress"]));
            }
        }
        causes
    }
}
