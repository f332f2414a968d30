//! The node authorizer: what a node agent may do without any role, narrowed to what its own pods lead to.
//!
//! Source: KEP-279 and KEP-4601 (authorization with selectors), with upstream's words. RBAC is asked afterwards, as for everybody.

use super::authorize::{Attributes, Decision};
use super::default_policy;
use super::node_graph::{NodeGraph, Vertex};
use super::rules::Rule;
use object::selector::fields;
use std::sync::LazyLock;

const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Decides for the agent of `node`; not allowed means no opinion, with the reason where there is one.
pub(super) fn authorize(graph: Option<&NodeGraph>, node: &str, request: &Attributes<'_>) -> Decision {
    let why_not = if request.is_resource { refusal(graph, node, request) } else { by_rules(request) };
    match why_not {
        None => Decision { allowed: true, reason: String::new() },
        Some(reason) => Decision { allowed: false, reason },
    }
}

/// Whether the rules of the role `system:node` allow it; the same for all nodes.
fn by_rules(request: &Attributes<'_>) -> Option<String> {
    static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| default_policy::role_rules("system:node"));
    (!RULES.iter().any(|rule| rule.allows(request))).then(String::new)
}

/// None where the node may.
fn refusal(graph: Option<&NodeGraph>, node: &str, request: &Attributes<'_>) -> Option<String> {
    let related = |vertex| {
        if request.name.is_empty() {
            return Some("No Object name found".to_owned());
        }
        let is_related = graph.is_some_and(|graph| graph.related(node, vertex, request.namespace, request.name));
        (!is_related).then(|| format!("no relationship found between node '{node}' and this object"))
    };
    let no = |why: &str| Some(why.to_owned());
    let (verb, part) = (request.verb, request.subresource);
    let get = |vertex| match (verb, part) {
        ("get", "") => related(vertex),
        ("get", _) => no("cannot get subresource"),
        _ => no("can only get individual resources of this type"),
    };
    let read = |vertex| match (verb, part, request.namespace) {
        ("get" | "list" | "watch", "", "") => no("can only read namespaced object of this type"),
        ("get" | "list" | "watch", "", _) => related(vertex),
        ("get" | "list" | "watch", ..) => no("cannot read subresource"),
        _ => no("can only read resources of this type"),
    };
    match (request.group, request.resource) {
        ("", "secrets") => read(Vertex::Secret),
        ("", "configmaps") => read(Vertex::ConfigMap),
        ("", "persistentvolumeclaims") if part == "status" => match verb {
            "update" | "patch" => related(Vertex::Claim),
            _ => no("can only get/update/patch this type"),
        },
        ("", "persistentvolumeclaims") => get(Vertex::Claim),
        ("", "persistentvolumes") => get(Vertex::Volume),
        ("resource.k8s.io", "resourceclaims") => get(Vertex::ResourceClaim),
        ("storage.k8s.io", "volumeattachments") => get(Vertex::Attachment),
        ("", "serviceaccounts") => match (verb, part) {
            ("create", "token") if !request.name.is_empty() => related(Vertex::ServiceAccount),
            ("create", _) if !request.name.is_empty() => no("can only create token subresource of serviceaccount"),
            _ => no("can only create tokens for individual service accounts"),
        },
        ("coordination.k8s.io", "leases") => lease(node, request),
        ("storage.k8s.io", "csinodes") => csi_node(node, request),
        ("resource.k8s.io", "resourceslices") => match (verb, part) {
            (_, part) if !part.is_empty() => no("cannot authorize ResourceSlice subresources"),
            ("create", _) => None,
            ("get" | "update" | "patch" | "delete", _) => related(Vertex::ResourceSlice),
            ("watch" | "list" | "deletecollection", _) if selects(request, "nodeName", node) => None,
            ("watch" | "list" | "deletecollection", _) => {
                no("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => no(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        },
        ("", "nodes") => match (part, verb) {
            ("", "create" | "update" | "patch") | ("status", "update" | "patch") => None,
            ("", "get" | "list" | "watch") => match request.name {
                name if name == node => None,
                "" => Some(format!("node '{node}' cannot read all nodes, only its own Node object")),
                name => Some(format!("node '{node}' cannot read '{name}', only its own Node object")),
            },
            _ => no(""),
        },
        ("", "pods") => match (part, verb) {
            ("", "get") => related(Vertex::Pod),
            ("", "list" | "watch") if selects(request, "spec.nodeName", node) => None,
            ("", "list" | "watch") if !request.name.is_empty() => related(Vertex::Pod),
            ("", "list" | "watch") => no("can only list/watch pods with spec.nodeName field selector"),
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => None,
            _ => no(""),
        },
        _ => by_rules(request),
    }
}

/// Whether the request's field selector demands `field=value`.
fn selects(request: &Attributes<'_>, field: &str, value: &str) -> bool {
    fields::Selector::parse(request.fields).is_ok_and(|selector| selector.exact(field) == Some(value))
}

fn lease(node: &str, request: &Attributes<'_>) -> Option<String> {
    if !matches!(request.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Some("can only get, create, update, patch, or delete a node lease".to_owned());
    }
    if request.namespace != LEASE_NAMESPACE {
        return Some(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
    }
    // The name of what is to be created is known to admission only.
    (request.verb != "create" && request.name != node)
        .then(|| "can only access node lease with the same name as the requesting node".to_owned())
}

fn csi_node(node: &str, request: &Attributes<'_>) -> Option<String> {
    if !matches!(request.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Some("can only get, create, update, patch, or delete a CSINode".to_owned());
    }
    if !request.subresource.is_empty() {
        return Some("cannot authorize CSINode subresources".to_owned());
    }
    (request.verb != "create" && request.name != node)
        .then(|| "can only access CSINode with the same name as the requesting node".to_owned())
}
