//! NetworkPolicy: who may talk to a pod.

use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::edit::{default_to, items, items_mut};
use crate::validation::{each, forbidden, invalid, invalid_text, not_supported, required};
use object::table::Column;
use object::{Cause, Value, names};
use std::net::IpAddr;

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
        if let Some(selector) = policy.at(&["spec", "podSelector"]) {
            check_selector(selector, "spec.podSelector", &mut causes);
        }
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            for (at, rule) in items(policy, &["spec", direction]).iter().enumerate() {
                let field = format!("spec.{direction}[{at}]");
                for (at, port) in items(rule, &["ports"]).iter().enumerate() {
                    check_port(port, &format!("{field}.ports[{at}]"), &mut causes);
                }
                for (at, peer) in items(rule, &[peers]).iter().enumerate() {
                    check_peer(peer, &format!("{field}.{peers}[{at}]"), &mut causes);
                }
            }
        }
        let types = items(policy, &["spec", "policyTypes"]);
        if types.len() > 2 {
            let all = policy.at(&["spec", "policyTypes"]).unwrap_or(&Value::Null);
            causes.push(invalid("spec.policyTypes", all, "may not specify more than two policyTypes"));
            return causes;
        }
        for (at, kind) in types.iter().enumerate() {
            if !matches!(kind.as_str(), Some("Ingress" | "Egress")) {
                causes.push(not_supported(&format!("spec.policyTypes[{at}]"), kind, &["Egress", "Ingress"]));
            }
        }
        causes
    }
}

fn there<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.get(name).filter(|value| !value.is_null())
}

fn check_port(port: &Value, field: &str, causes: &mut Vec<Cause>) {
    const RANGE: &str = "must be between 1 and 65535, inclusive";
    if let Some(protocol) = there(port, "protocol")
        && !matches!(protocol.as_str(), Some("TCP" | "UDP" | "SCTP"))
    {
        causes.push(not_supported(&format!("{field}.protocol"), protocol, &["TCP", "UDP", "SCTP"]));
    }
    let end = there(port, "endPort");
    let end_field = format!("{field}.endPort");
    match there(port, "port") {
        Some(Value::Int(number)) => {
            if !(1..=65535).contains(number) {
                causes.push(invalid(&format!("{field}.port"), &Value::Int(*number), RANGE));
            }
            if let Some(Value::Int(end)) = end {
                if end < number {
                    causes.push(invalid(&end_field, &Value::Int(*end), "must be greater than or equal to `port`"));
                }
                if !(1..=65535).contains(end) {
                    causes.push(invalid(&end_field, &Value::Int(*end), RANGE));
                }
            }
        }
        Some(name) => {
            if let Some(end) = end {
                causes.push(invalid(&end_field, end, "may not be specified when `port` is non-numeric"));
            }
            let text = name.as_str().unwrap_or_default();
            causes.extend(each(&format!("{field}.port"), text, names::port_name(text)));
        }
        None => {
            if let Some(end) = end {
                causes.push(invalid(&end_field, end, "may not be specified when `port` is not specified"));
            }
        }
    }
}

fn check_peer(peer: &Value, field: &str, causes: &mut Vec<Cause>) {
    let mut count = 0;
    for name in ["podSelector", "namespaceSelector"] {
        if let Some(selector) = there(peer, name) {
            count += 1;
            check_selector(selector, &format!("{field}.{name}"), causes);
        }
    }
    let block = there(peer, "ipBlock");
    if let Some(block) = block {
        check_block(block, &format!("{field}.ipBlock"), causes);
    }
    match (count, block) {
        (0, None) => causes.push(required(field, "must specify a peer")),
        (1.., Some(_)) => causes.push(forbidden(field, "may not specify both ipBlock and another peer")),
        _ => {}
    }
}

fn parse_range(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let (address, length) = (address.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?);
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
}

/// Whether an address is in a range.
fn holds((network, length): (IpAddr, u8), address: IpAddr) -> bool {
    let (one, other, width) = match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (u128::from(network.to_bits()), u128::from(address.to_bits()), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => (network.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    (one ^ other).checked_shr(width - u32::from(length)).unwrap_or(0) == 0
}

fn check_block(block: &Value, field: &str, causes: &mut Vec<Cause>) {
    const DETAIL: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    let text = block.str_at(&["cidr"]).unwrap_or_default();
    if text.is_empty() {
        causes.push(required(&format!("{field}.cidr"), ""));
        return;
    }
    let Some(range) = parse_range(text) else {
        causes.push(invalid_text(&format!("{field}.cidr"), text, DETAIL));
        return;
    };
    for (at, except) in items(block, &["except"]).iter().enumerate() {
        let (field, text) = (format!("{field}.except[{at}]"), except.as_str().unwrap_or_default());
        match parse_range(text) {
            None => causes.push(invalid_text(&field, text, DETAIL)),
            Some(part) if !holds(range, part.0) || range.1 >= part.1 => {
                causes.push(invalid_text(&field, text, "must be a strict subset of `cidr`"));
            }
            Some(_) => {}
        }
    }
}

fn check_selector(selector: &Value, field: &str, causes: &mut Vec<Cause>) {
    if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
        crate::validation::validate_labels(labels, &format!("{field}.matchLabels"), causes);
    }
    for (at, expression) in items(selector, &["matchExpressions"]).iter().enumerate() {
        let field = format!("{field}.matchExpressions[{at}]");
        let values = items(expression, &["values"]);
        match expression.str_at(&["operator"]).unwrap_or_default() {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                causes.push(required(&format!("{field}.values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                causes.push(forbidden(&format!("{field}.values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => causes.push(invalid_text(&format!("{field}.operator"), other, "not a valid selector operator")),
        }
        let key = expression.str_at(&["key"]).unwrap_or_default();
        causes.extend(each(&format!("{field}.key"), key, names::qualified_name(key)));
        for (at, value) in values.iter().enumerate() {
            let text = value.as_str().unwrap_or_default();
            causes.extend(each(&format!("{field}.values[{at}]"), text, names::label_value(text)));
        }
    }
}
