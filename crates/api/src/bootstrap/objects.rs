//! The objects themselves.

use crate::address::is_of_host;
use crate::core::Core;
use object::{Limits, Value, json};

fn parse(text: &str) -> Value {
    // The texts below are constants with values put in; what does not parse is refused by the write door.
    json::decode(text.as_bytes(), &Limits::REQUEST).map(|decoded| decoded.value).unwrap_or_default()
}

/// Namespaces: first of all, as the others live in them.
pub(super) fn namespaces() -> Vec<Value> {
    let names = ["default", "kube-system", "kube-public", "kube-node-lease"];
    names
        .iter()
        .map(|name| parse(&format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{name}"}}}}"#)))
        .collect()
}

/// Everything that is written once and then belongs to the cluster's people.
pub(super) fn fixed(core: &Core) -> Vec<Value> {
    let dns = core.service_range.nth(10);
    let cidrs: Vec<String> = core.own_service_ranges().iter().map(|range| format!("\"{range}\"")).collect();
    let cidrs = cidrs.join(",");
    vec![
        parse(
            r#"{"apiVersion":"scheduling.k8s.io/v1","kind":"PriorityClass","metadata":{"name":"system-cluster-critical"},
            "value":2000000000,"description":"Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."}"#,
        ),
        parse(
            r#"{"apiVersion":"scheduling.k8s.io/v1","kind":"PriorityClass","metadata":{"name":"system-node-critical"},
            "value":2000001000,"description":"Used for system critical pods that must not be moved from their current node."}"#,
        ),
        parse(&format!(
            r#"{{"apiVersion":"networking.k8s.io/v1","kind":"ServiceCIDR","metadata":{{"name":"kubernetes"}},"spec":{{"cidrs":[{cidrs}]}}}}"#
        )),
        parse(&format!(
            r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"kube-dns","namespace":"kube-system","labels":{{
            "k8s-app":"kube-dns","kubernetes.io/cluster-service":"true","kubernetes.io/name":"CoreDNS"}}}},
            "spec":{{"clusterIP":"{dns}","ports":[{{"name":"dns","port":53,"protocol":"UDP","targetPort":53}},
            {{"name":"dns-tcp","port":53,"protocol":"TCP","targetPort":53}}]}}}}"#
        )),
    ]
}

/// The server's own Service, and its endpoints where others can reach it: written again when the advertised address or the port has changed.
pub(super) fn own(core: &Core) -> Vec<Value> {
    let (first, address, port) = (core.service_range.nth(1), core.advertise, core.port);
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let mut all = vec![parse(&format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"kubernetes","namespace":"default",
            "labels":{{"component":"apiserver","provider":"kubernetes"}}}},
            "spec":{{"type":"ClusterIP","clusterIP":"{first}","sessionAffinity":"None",
            "ports":[{{"name":"https","port":443,"protocol":"TCP","targetPort":{port}}}]}}}}"#
    ))];
    // A host that has no other address (a laptop without a network): pods cannot reach the API there, and no endpoint may say so.
    if !is_of_host(address) {
        all.extend([
        parse(&format!(
            r#"{{"apiVersion":"v1","kind":"Endpoints","metadata":{{"name":"kubernetes","namespace":"default",
            "labels":{{"endpointslice.kubernetes.io/skip-mirror":"true"}}}},
            "subsets":[{{"addresses":[{{"ip":"{address}"}}],"ports":[{{"name":"https","port":{port},"protocol":"TCP"}}]}}]}}"#
        )),
        parse(&format!(
            r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"kubernetes","namespace":"default",
            "labels":{{"kubernetes.io/service-name":"kubernetes"}}}},"addressType":"{family}",
            "endpoints":[{{"addresses":["{address}"],"conditions":{{"ready":true}}}}],
            "ports":[{{"name":"https","port":{port},"protocol":"TCP"}}]}}"#
        )),
        ]);
    }
    all
}
