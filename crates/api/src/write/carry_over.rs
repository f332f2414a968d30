//! Updates of Services: what a client leaves out, or knows under one of two names, is taken from the old state.

use super::services::{has_address, has_node_ports, kind_of, wants_health_port};
use object::Value;

fn text<'a>(service: &'a Value, member: &str) -> &'a str {
    service.str_at(&["spec", member]).unwrap_or_default()
}

fn addresses(service: &Value) -> &[Value] {
    service.at(&["spec", "clusterIPs"]).and_then(Value::as_array).unwrap_or_default()
}

/// Makes of clusterIP and clusterIPs what a client that knows only one of them means, as upstream does on updates.
fn normalise_addresses(old: &Value, new: &mut Value) {
    let (before, after) = (text(old, "clusterIP"), text(new, "clusterIP"));
    if before == after {
        if addresses(new).is_empty() && !addresses(old).is_empty() {
            new.set(&["spec", "clusterIPs"], addresses(old).to_vec().into());
        }
    } else if after.is_empty() {
        if addresses(new) == addresses(old) {
            new.remove(&["spec", "clusterIPs"]);
        }
    } else if addresses(new) == addresses(old) || addresses(new).is_empty() {
        let only = vec![Value::from(after)];
        new.set(&["spec", "clusterIPs"], only.into());
    }
}

/// Keeps what an update leaves out and only allocation knows: addresses and node ports.
pub(crate) fn carry_over(old: &Value, new: &mut Value) {
    normalise_addresses(old, new);
    if has_address(old) && has_address(new) {
        if text(new, "clusterIP").is_empty()
            && let Some(value) = old.at(&["spec", "clusterIP"])
        {
            new.set(&["spec", "clusterIP"], value.clone());
        }
        if addresses(new).is_empty()
            && text(new, "clusterIP") == text(old, "clusterIP")
            && let Some(value) = old.at(&["spec", "clusterIPs"])
        {
            new.set(&["spec", "clusterIPs"], value.clone());
        }
    }
    drop_what_the_type_has_not(old, new);
    if has_address(new) {
        for member in ["ipFamilies", "ipFamilyPolicy"] {
            if new.at(&["spec", member]).is_none_or(Value::is_null)
                && let Some(value) = old.at(&["spec", member])
            {
                new.set(&["spec", member], value.clone());
            }
        }
    }
    let needs = has_node_ports(new);
    if needs
        && wants_health_port(new)
        && new.i64_at(&["spec", "healthCheckNodePort"]).unwrap_or(0) == 0
        && let Some(port) = old.at(&["spec", "healthCheckNodePort"])
    {
        new.set(&["spec", "healthCheckNodePort"], port.clone());
    } else if !wants_health_port(new) {
        new.remove(&["spec", "healthCheckNodePort"]);
    }
    carry_over_node_ports(old, new, needs);
}

/// A port keeps its node port by its name, whatever else of it changed; a type without node ports drops them.
fn carry_over_node_ports(old: &Value, new: &mut Value, needs: bool) {
    let number = |port: &Value| port.i64_at(&["nodePort"]).filter(|number| *number > 0);
    let before: Vec<Value> = old.at(&["spec", "ports"]).and_then(Value::as_array).unwrap_or_default().to_vec();
    let held: Vec<i64> = before.iter().filter_map(number).collect();
    let Some(ports) = new.at_mut(&["spec", "ports"]).and_then(Value::as_array_mut) else { return };
    if !needs {
        // Whoever changes a node port as well is told that it does not belong there.
        if ports.iter().filter_map(number).all(|one| held.contains(&one)) {
            for port in ports {
                port.remove(&["nodePort"]);
            }
        }
        return;
    }
    let mut used: Vec<i64> = ports.iter().filter_map(number).filter(|one| held.contains(one)).collect();
    for port in ports.iter_mut().filter(|port| number(port).is_none()) {
        let name = port.str_at(&["name"]).unwrap_or_default();
        let same = before.iter().rev().find(|one| one.str_at(&["name"]).unwrap_or_default() == name);
        if let Some(found) = same.and_then(number).filter(|found| !used.contains(found)) {
            used.push(found);
            port.set(&["nodePort"], found.into());
        }
    }
}

/// A change of the type takes away what the new type does not have, unless the caller changed that as well: then
/// validation refuses it.
fn drop_what_the_type_has_not(old: &Value, new: &mut Value) {
    let external = |service: &Value| matches!(kind_of(service), "NodePort" | "LoadBalancer");
    let balanced = |service: &Value| kind_of(service) == "LoadBalancer";
    let groups: [(bool, &[&str]); 4] = [
        (has_address(old) && !has_address(new), &["clusterIP", "clusterIPs"]),
        (has_address(old) && !has_address(new), &["ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]),
        (balanced(old) && !balanced(new), &["allocateLoadBalancerNodePorts", "loadBalancerClass"]),
        (external(old) && !external(new), &["externalTrafficPolicy"]),
    ];
    for (at, (applies, members)) in groups.into_iter().enumerate() {
        let same = |member: &&&str| old.at(&["spec", **member]) == new.at(&["spec", **member]);
        // An address is one thing under two names.
        let kept: Vec<&&str> = members.iter().filter(|member| !same(member)).collect();
        if !applies || at == 0 && !kept.is_empty() {
            continue;
        }
        for member in members.iter().filter(|member| !kept.contains(member)) {
            new.remove(&["spec", member]);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::super::service_families;
    use super::super::services::node_ports;
    use super::*;

    #[test]
    fn updates_keep_what_only_allocation_knows() {
        let service = |text: &str| object::json::decode(text.as_bytes(), &object::Limits::REQUEST).unwrap().value;
        let old = service(
            r#"{"spec":{"type":"NodePort","clusterIP":"10.0.0.9","clusterIPs":["10.0.0.9"],"ports":[{"port":80,"nodePort":30123}]}}"#,
        );
        let mut new = service(r#"{"spec":{"type":"NodePort","ports":[{"port":80},{"port":81}]}}"#);
        carry_over(&old, &mut new);
        assert_eq!(service_families::addresses(&new), ["10.0.0.9"]);
        assert_eq!(node_ports(&new).len(), 1);
        let mut new = service(r#"{"spec":{"type":"ClusterIP","ports":[{"port":80,"nodePort":30123}]}}"#);
        carry_over(&old, &mut new);
        assert!(node_ports(&new).is_empty());
        let mut new = service(r#"{"spec":{"type":"ClusterIP","ports":[{"port":80,"nodePort":30124}]}}"#);
        carry_over(&old, &mut new);
        assert_eq!(node_ports(&new).len(), 1, "a node port that was asked for is refused, not dropped");
        let mut new = service(r#"{"spec":{"type":"NodePort","ports":[{"port":81}]}}"#);
        carry_over(&old, &mut new);
        assert_eq!(node_ports(&new).first().map(|one| one.0), Some(30123), "a port keeps its node port by its name");
    }

    #[test]
    fn one_of_two_names_is_enough() {
        let service = |text: &str| {
            let text = format!(r#"{{"spec":{{{text}}}}}"#);
            object::json::decode(text.as_bytes(), &object::Limits::REQUEST).unwrap().value
        };
        let old = service(r#""clusterIP":"10.0.0.9","clusterIPs":["10.0.0.9"]"#);
        let cases = [
            (
                r#""clusterIP":"10.0.0.8","clusterIPs":["10.0.0.9"]"#,
                r#""clusterIP":"10.0.0.8","clusterIPs":["10.0.0.8"]"#,
            ),
            (r#""clusterIP":"10.0.0.8""#, r#""clusterIP":"10.0.0.8","clusterIPs":["10.0.0.8"]"#),
            (r#""clusterIPs":["10.0.0.9"]"#, r#""clusterIP":"10.0.0.9","clusterIPs":["10.0.0.9"]"#),
            (r#""clusterIP":"10.0.0.9""#, r#""clusterIP":"10.0.0.9","clusterIPs":["10.0.0.9"]"#),
            (
                r#""type":"ExternalName","externalName":"a.b","clusterIP":"10.0.0.9","clusterIPs":["10.0.0.9"]"#,
                r#""type":"ExternalName","externalName":"a.b""#,
            ),
        ];
        for (given, expected) in cases {
            let mut new = service(given);
            carry_over(&old, &mut new);
            assert_eq!(new, service(expected), "{given}");
        }
    }
}
