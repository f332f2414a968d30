//! Node: a machine.

use crate::Hooks;
use crate::cells;
use crate::cells::text_or;
use crate::edit::items;
use crate::row::{PROXY_VERBS, Resource, Role};
use crate::validation::immutable;
use object::GroupVersionKind;
use object::table::Column;
use object::{Cause, Value};

/// The row of Node.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "Node", "nodes")
        .status_on_create()
        .cluster()
        .short(&["no"])
        .status()
        .with_subresource("proxy", Role::Proxy, GroupVersionKind::parse("v1", "NodeProxyOptions"), &PROXY_VERBS)
        .selectable_as("spec.unschedulable", "spec.unschedulable", "false")
        .with_columns(columns())
        .with_hooks(Node)
}

fn columns() -> Vec<Column> {
    vec![
        Column::name(),
        Column::new("Status", |node, _| status(node).into()),
        Column::new("Roles", |node, _| roles(node).into()),
        Column::age(),
        Column::new("Version", |node, _| cells::text(node, &["status", "nodeInfo", "kubeletVersion"])),
        Column::new("Internal-IP", |node, _| address(node, "InternalIP")).wide(),
        Column::new("External-IP", |node, _| address(node, "ExternalIP")).wide(),
        Column::new("OS-Image", |node, _| text_or(node, &["status", "nodeInfo", "osImage"], "<unknown>")).wide(),
        Column::new("Kernel-Version", |node, _| text_or(node, &["status", "nodeInfo", "kernelVersion"], "<unknown>"))
            .wide(),
        Column::new("Container-Runtime", |node, _| {
            text_or(node, &["status", "nodeInfo", "containerRuntimeVersion"], "<unknown>")
        })
        .wide(),
    ]
}

fn status(node: &Value) -> String {
    let ready = items(node, &["status", "conditions"]).iter().find(|one| one.str_at(&["type"]) == Some("Ready"));
    let word = match ready.map(|one| one.str_at(&["status"])) {
        Some(Some("True")) => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if cells::flag(node, &["spec", "unschedulable"]) { format!("{word},SchedulingDisabled") } else { word.to_owned() }
}

fn roles(node: &Value) -> String {
    let labels = node.at(&["metadata", "labels"]).and_then(Value::as_object);
    let role = |(key, value): (&str, &Value)| match key.strip_prefix(object::meta::labels::NODE_ROLE_PREFIX) {
        Some(role) if !role.is_empty() => Some(role.to_owned()),
        _ if key == "kubernetes.io/role" => value.as_str().filter(|role| !role.is_empty()).map(str::to_owned),
        _ => None,
    };
    let mut roles: Vec<String> = labels.into_iter().flat_map(object::Map::iter).filter_map(role).collect();
    roles.sort();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn address(node: &Value, kind: &str) -> Value {
    let one = items(node, &["status", "addresses"]).iter().find(|one| one.str_at(&["type"]) == Some(kind));
    one.and_then(|one| one.str_at(&["address"])).unwrap_or("<none>").into()
}

struct Node;

impl Hooks for Node {
    fn default(&self, node: &mut Value) {
        if node.at(&["status", "allocatable"]).is_none()
            && let Some(capacity) = node.at(&["status", "capacity"]).cloned()
        {
            node.set(&["status", "allocatable"], capacity);
        }
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        for name in ["podCIDR", "podCIDRs", "providerID"] {
            // May be set once.
            let is_set = old.at(&["spec", name]).is_some_and(|value| !value.is_null() && value.as_str() != Some(""));
            if is_set {
                immutable(&mut causes, new, old, &["spec", name]);
            }
        }
        causes
    }
}
