//! Defaults and validation of Services. Addresses and node ports are allocated by the API server.

use crate::edit::{default_to, items, items_mut};
use crate::validation::{
    duplicate, each, endpoint_address, forbidden, has_text, in_range, invalid, invalid_text, one_of, required,
};
use object::{Cause, Value, names};
use std::collections::HashSet;

fn kind(service: &Value) -> &str {
    service.str_at(&["spec", "type"]).unwrap_or_default()
}

/// Whether the Service has an address of the cluster: all but ExternalName and headless ones.
pub(super) fn is_headless(service: &Value) -> bool {
    service.str_at(&["spec", "clusterIP"]) == Some("None")
}

pub(super) fn default_service(service: &mut Value) {
    default_to(service, &["spec", "sessionAffinity"], "None");
    match service.str_at(&["spec", "sessionAffinity"]) {
        Some("ClientIP") => {
            default_to(service, &["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"], 10_800_i64);
        }
        Some("None") => drop(service.remove(&["spec", "sessionAffinityConfig"])),
        _ => {}
    }
    default_to(service, &["spec", "type"], "ClusterIP");
    for port in items_mut(service, &["spec", "ports"]) {
        default_to(port, &["protocol"], "TCP");
        let unset = match port.get("targetPort") {
            None | Some(Value::Null) => true,
            Some(target) => target.as_str() == Some("") || target.as_i64() == Some(0),
        };
        if let Some(number) = port.get("port").filter(|_| unset).cloned() {
            port.set(&["targetPort"], number);
        }
    }
    let external = matches!(kind(service), "NodePort" | "LoadBalancer")
        || (kind(service) == "ClusterIP" && !items(service, &["spec", "externalIPs"]).is_empty());
    if external {
        default_to(service, &["spec", "externalTrafficPolicy"], "Cluster");
    }
    if matches!(kind(service), "NodePort" | "LoadBalancer" | "ClusterIP") {
        default_to(service, &["spec", "internalTrafficPolicy"], "Cluster");
    }
    if kind(service) == "LoadBalancer" {
        default_to(service, &["spec", "allocateLoadBalancerNodePorts"], true);
        // KEP-1860: an address that says nothing is the node's to translate.
        for ingress in items_mut(service, &["status", "loadBalancer", "ingress"]) {
            if has_text(ingress, &["ip"]) {
                default_to(ingress, &["ipMode"], "VIP");
            }
        }
    }
}

/// An update that does not name what was allocated keeps it, as long as the type still needs it.
pub(super) fn keep_allocated(new: &mut Value, old: &Value) {
    let needs_address = |service: &Value| matches!(kind(service), "ClusterIP" | "NodePort" | "LoadBalancer");
    if needs_address(new) && needs_address(old) {
        let unset = !has_text(new, &["spec", "clusterIP"]) && items(new, &["spec", "clusterIPs"]).is_empty();
        for name in ["clusterIP", "clusterIPs"] {
            if let Some(value) = old.at(&["spec", name]).filter(|_| unset).cloned() {
                new.set(&["spec", name], value);
            }
        }
        for name in ["ipFamilies", "ipFamilyPolicy"] {
            if new.at(&["spec", name]).is_none_or(Value::is_null)
                && let Some(value) = old.at(&["spec", name]).cloned()
            {
                new.set(&["spec", name], value);
            }
        }
    }
    let needs_ports = |service: &Value| matches!(kind(service), "NodePort" | "LoadBalancer");
    if needs_ports(new) && needs_ports(old) {
        // A port keeps its node port if its own number and protocol stay.
        let same = |a: &Value, b: &Value| a.get("port") == b.get("port") && a.get("protocol") == b.get("protocol");
        let taken: Vec<i64> =
            items(new, &["spec", "ports"]).iter().filter_map(|port| port.i64_at(&["nodePort"])).collect();
        for port in items_mut(new, &["spec", "ports"]) {
            if port.i64_at(&["nodePort"]).unwrap_or_default() != 0 {
                continue;
            }
            let before = items(old, &["spec", "ports"]).iter().find(|one| same(one, port));
            let number = before.and_then(|one| one.i64_at(&["nodePort"])).filter(|number| !taken.contains(number));
            if let Some(number) = number {
                port.set(&["nodePort"], Value::Int(number));
            }
        }
        let unset = new.i64_at(&["spec", "healthCheckNodePort"]).unwrap_or_default() == 0;
        if let Some(port) = old.at(&["spec", "healthCheckNodePort"]).filter(|_| unset).cloned()
            && new.str_at(&["spec", "externalTrafficPolicy"]) == Some("Local")
        {
            new.set(&["spec", "healthCheckNodePort"], port);
        }
    }
}

pub(super) fn validate_service(service: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    one_of(&mut causes, service, &["spec", "type"], "spec.type", &types);
    one_of(&mut causes, service, &["spec", "sessionAffinity"], "spec.sessionAffinity", &["ClientIP", "None"]);
    let policies = ["Cluster", "Local"];
    one_of(&mut causes, service, &["spec", "internalTrafficPolicy"], "spec.internalTrafficPolicy", &policies);
    one_of(&mut causes, service, &["spec", "externalTrafficPolicy"], "spec.externalTrafficPolicy", &policies);
    let distributions = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    one_of(&mut causes, service, &["spec", "trafficDistribution"], "spec.trafficDistribution", &distributions);
    let families = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    one_of(&mut causes, service, &["spec", "ipFamilyPolicy"], "spec.ipFamilyPolicy", &families);
    let timeout = &["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"];
    in_range(&mut causes, service, timeout, "spec.sessionAffinityConfig.clientIP.timeoutSeconds", 1, 86_400);
    for (at, address) in items(service, &["spec", "externalIPs"]).iter().enumerate() {
        causes.extend(endpoint_address(&format!("spec.externalIPs[{at}]"), address.as_str().unwrap_or_default()));
    }
    let ports = items(service, &["spec", "ports"]);
    match kind(service) {
        "ExternalName" => {
            let name = service.str_at(&["spec", "externalName"]).unwrap_or_default().trim_end_matches('.');
            if name.is_empty() {
                causes.push(required("spec.externalName", ""));
            } else {
                causes.extend(each("spec.externalName", name, names::dns1123_subdomain(name)));
            }
            if has_text(service, &["spec", "clusterIP"]) && !is_headless(service) {
                causes.push(forbidden("spec.clusterIPs", "may not be set when `type` is 'ExternalName'"));
            }
        }
        "LoadBalancer" if is_headless(service) => {
            causes.push(invalid_text(
                "spec.clusterIPs[0]",
                "None",
                "may not be set to 'None' for LoadBalancer services",
            ));
        }
        "NodePort" if is_headless(service) => {
            causes.push(invalid_text("spec.clusterIPs[0]", "None", "may not be set to 'None' for NodePort services"));
        }
        _ => {}
    }
    if ports.is_empty() && !is_headless(service) && kind(service) != "ExternalName" {
        causes.push(required("spec.ports", ""));
    }
    validate_ports(service, ports, &mut causes);
    if let Some(selector) = service.at(&["spec", "selector"]).and_then(Value::as_object) {
        crate::validation::validate_labels(selector, "spec.selector", &mut causes);
    }
    if let Some(address) = service.str_at(&["spec", "clusterIP"]).filter(|ip| !ip.is_empty() && *ip != "None") {
        if address.parse::<std::net::IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            causes.push(invalid_text("spec.clusterIPs[0]", address, detail));
        }
        let first = items(service, &["spec", "clusterIPs"]).first();
        if first.is_some_and(|first| first.as_str() != Some(address)) {
            let detail = "first value must match `clusterIP`";
            causes.push(invalid(
                "spec.clusterIPs",
                service.at(&["spec", "clusterIPs"]).unwrap_or(&Value::Null),
                detail,
            ));
        }
    }
    causes
}

fn validate_ports(service: &Value, ports: &[Value], causes: &mut Vec<Cause>) {
    let mut seen_names = HashSet::new();
    let mut seen = HashSet::new();
    let mut node_ports = HashSet::new();
    for (at, port) in ports.iter().enumerate() {
        let field = format!("spec.ports[{at}]");
        match port.str_at(&["name"]).unwrap_or_default() {
            "" if ports.len() > 1 => causes.push(required(&format!("{field}.name"), "")),
            "" => {}
            name => {
                causes.extend(each(&format!("{field}.name"), name, names::dns1123_label(name)));
                if !seen_names.insert(name) {
                    causes.push(duplicate(&format!("{field}.name"), &name.into()));
                }
            }
        }
        let number = port.i64_at(&["port"]).unwrap_or_default();
        if !(1..=65_535).contains(&number) {
            let detail = "must be between 1 and 65535, inclusive";
            causes.push(invalid(&format!("{field}.port"), &Value::Int(number), detail));
        }
        one_of(causes, port, &["protocol"], &format!("{field}.protocol"), &["SCTP", "TCP", "UDP"]);
        match port.get("targetPort") {
            Some(Value::Int(target)) if !(1..=65_535).contains(target) => {
                let detail = "must be between 1 and 65535, inclusive";
                causes.push(invalid(&format!("{field}.targetPort"), &Value::Int(*target), detail));
            }
            Some(Value::String(name)) => {
                causes.extend(each(&format!("{field}.targetPort"), name, names::port_name(name)));
            }
            _ => {}
        }
        let protocol = port.str_at(&["protocol"]).unwrap_or_default();
        if !seen.insert((protocol, number)) {
            let mut value = Value::default();
            value.set(&["port"], Value::Int(number));
            value.set(&["protocol"], protocol.into());
            causes.push(duplicate(&field, &value));
        }
        let node_port = port.i64_at(&["nodePort"]).unwrap_or_default();
        if node_port != 0 {
            if !matches!(kind(service), "NodePort" | "LoadBalancer") {
                let detail = format!("may not be used when `type` is '{}'", kind(service));
                causes.push(forbidden(&format!("{field}.nodePort"), &detail));
            } else if !node_ports.insert((protocol, node_port)) {
                causes.push(duplicate(&format!("{field}.nodePort"), &Value::Int(node_port)));
            }
        }
    }
}

pub(super) fn validate_service_update(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let (before, after) = (items(old, &["spec", "clusterIPs"]), items(new, &["spec", "clusterIPs"]));
    if kind(new) == "ExternalName" || kind(old) == "ExternalName" || before == after {
        return causes;
    }
    let shown = || Value::Array(after.to_vec());
    if after.is_empty() {
        causes.push(invalid("spec.clusterIPs[0]", &shown(), "primary clusterIP can not be unset"));
    }
    for (at, _) in before.iter().zip(after).enumerate().filter(|(_, (before, after))| before != after) {
        causes.push(invalid(&format!("spec.clusterIPs[{at}]"), &shown(), "may not change once set"));
    }
    causes
}
