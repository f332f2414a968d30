//! Extended resources: what others advertise in a Node's capacity (`example.com/gpu`) is offered to pods as it stands, as upstream's kubelet does.

use k8s_openapi::api::core::v1::Node;
use std::collections::BTreeMap;

/// What the agent finds out itself; whatever else stands in the capacity is others'.
const OWN: [&str; 4] = ["cpu", "memory", "ephemeral-storage", "pods"];
const OWN_PREFIX: &str = "hugepages-";

fn is_foreign(name: &str) -> bool {
    !OWN.contains(&name) && !name.starts_with(OWN_PREFIX)
}

/// What has to be written into `status.allocatable` for others' resources; None takes one away that the capacity has no more.
pub(super) fn offered(node: &Node) -> BTreeMap<String, Option<String>> {
    let status = node.status.as_ref();
    let capacity = status.and_then(|status| status.capacity.as_ref()).into_iter().flatten();
    let allocatable = status.and_then(|status| status.allocatable.as_ref()).into_iter().flatten();
    let stale = allocatable.map(|(name, _)| (name.clone(), None));
    let there = capacity.map(|(name, quantity)| (name.clone(), Some(quantity.0.clone())));
    stale.chain(there).filter(|(name, _)| is_foreign(name)).collect()
}

/// Whether the Node offers what its capacity says, so that nothing is to be written.
pub(super) fn is_offered(node: &Node) -> bool {
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let has = |name: &str| allocatable.and_then(|map| map.get(name)).map(|quantity| quantity.0.as_str());
    offered(node).iter().all(|(name, wanted)| has(name) == wanted.as_deref())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn capacity_of_others_is_offered_and_goes_with_it() {
        let own = json!({"cpu": "2", "memory": "1Gi", "pods": "110", "ephemeral-storage": "1Gi", "hugepages-2Mi": "0"});
        let cases = [
            (json!({}), json!({}), json!({}), true),
            (json!({"example.com/gpu": "4"}), json!({}), json!({"example.com/gpu": "4"}), false),
            (json!({"example.com/gpu": "4"}), json!({"example.com/gpu": "4"}), json!({"example.com/gpu": "4"}), true),
            (json!({"example.com/gpu": "2"}), json!({"example.com/gpu": "4"}), json!({"example.com/gpu": "2"}), false),
            (json!({}), json!({"example.com/gpu": "4"}), json!({"example.com/gpu": null}), false),
        ];
        for (capacity, allocatable, wanted, told) in cases {
            let with = |more: &serde_json::Value| {
                let mut all = own.clone();
                all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                all
            };
            let node =
                json!({"metadata": {}, "status": {"capacity": with(&capacity), "allocatable": with(&allocatable)}});
            let node: Node = serde_json::from_value(node).unwrap();
            assert_eq!(serde_json::to_value(offered(&node)).unwrap(), wanted, "{capacity} {allocatable}");
            assert_eq!(is_offered(&node), told, "{capacity} {allocatable}");
        }
    }
}
