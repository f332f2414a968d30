//! Which address families a Service gets, and in which order. Pure.
//!
//! Source: KEP-563 (dual-stack) and upstream's allocator, with its words: the policy is inferred where it is missing, nothing is
//! added or taken away but on demand, and a headless Service without a selector may have both families anywhere.

use super::metadata::cause;
use object::{Cause, Value};
use std::net::IpAddr;

const POLICY: &str = "spec.ipFamilyPolicy";
const BOTH: [&str; 2] = ["IPv4", "IPv6"];

fn texts(service: &Value, member: &str) -> Vec<String> {
    let items = service.at(&["spec", member]).and_then(Value::as_array).unwrap_or_default();
    items.iter().filter_map(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

/// The cluster addresses of a Service; `None` for a headless one.
pub(super) fn addresses(service: &Value) -> Vec<String> {
    let all = texts(service, "clusterIPs");
    let first = service.str_at(&["spec", "clusterIP"]).unwrap_or_default();
    if all.is_empty() && !first.is_empty() { vec![first.to_owned()] } else { all }
}

/// Its families, in order.
pub(super) fn families(service: &Value) -> Vec<String> {
    texts(service, "ipFamilies")
}

fn policy(service: &Value) -> &str {
    service.str_at(&["spec", "ipFamilyPolicy"]).unwrap_or_default()
}

fn family_of(address: &str) -> Option<&'static str> {
    Some(if address.parse::<IpAddr>().ok()?.is_ipv4() { BOTH[0] } else { BOTH[1] })
}

fn other(family: &str) -> &'static str {
    if family == BOTH[0] { BOTH[1] } else { BOTH[0] }
}

fn shown(texts: &[String]) -> String {
    let list: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", list.join(","))
}

fn invalid(field: impl Into<String>, value: &str, why: &str) -> Cause {
    cause("FieldValueInvalid", &field.into(), format!("Invalid value: {value}: {why}"))
}

/// Sets ipFamilyPolicy and ipFamilies, and cuts clusterIPs where the policy became SingleStack. `configured` are the cluster's
/// families, its own first. What is wrong otherwise.
pub(super) fn settle(service: &mut Value, old: Option<&Value>, configured: &[&'static str]) -> Vec<Cause> {
    let old = old.filter(|old| !addresses(old).is_empty());
    if old.is_some_and(|old| keeps_preference(service, old)) {
        return Vec::new();
    }
    let is_free_form = addresses(service).first().is_some_and(|first| first == "None")
        && service.at(&["spec", "selector"]).and_then(Value::as_object).is_none_or(|map| map.iter().next().is_none());
    if policy(service).is_empty() {
        let inferred = match old.map(policy).filter(|policy| !policy.is_empty()) {
            Some(before) => before,
            None if is_free_form => "RequireDualStack",
            None => "SingleStack",
        };
        service.set(&["spec", "ipFamilyPolicy"], inferred.into());
    }
    let wanted = policy(service).to_owned();
    let (mut ips, mut chosen) = (addresses(service), families(service));
    let mut causes = check(&ips, &chosen);
    if !causes.is_empty() {
        return causes;
    }
    if let Some(old) = old {
        let (old_ips, old_families) = (addresses(old), families(old));
        if wanted == "SingleStack" {
            // Asking for one family alone is clear enough: the first stays.
            if ips == old_ips {
                ips.truncate(1);
            }
            if chosen == old_families {
                chosen.truncate(1);
            }
        } else {
            if ips.len() < old_ips.len() {
                causes.push(invalid(
                    POLICY,
                    &format!("{wanted:?}"),
                    "must be 'SingleStack' to release the secondary cluster IP",
                ));
            }
            if chosen.len() < old_families.len() {
                causes.push(invalid(
                    POLICY,
                    &format!("{wanted:?}"),
                    "must be 'SingleStack' to release the secondary IP family",
                ));
            }
        }
        if let (Some(before), Some(after)) = (old_families.first(), chosen.first())
            && before != after
            && !is_free_form
        {
            causes.push(invalid("spec.ipFamilies[0]", &shown(&chosen), "may not change once set"));
        }
    }
    if wanted == "SingleStack" {
        for (count, what) in [(ips.len(), "cluster IPs"), (chosen.len(), "IP families")] {
            if count == 2 {
                let why = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
                causes.push(invalid(POLICY, &format!("{wanted:?}"), &why));
            }
        }
    }
    for (at, ip) in ips.iter().enumerate().skip(chosen.len()).take_while(|(_, ip)| *ip != "None") {
        let Some(family) = family_of(ip) else { continue };
        if configured.contains(&family) {
            chosen.push(family.to_owned());
        } else {
            let why = format!("{family} is not configured on this cluster");
            causes.push(invalid(format!("spec.clusterIPs[{at}]"), &shown(&ips), &why));
        }
    }
    let default = configured.first().copied().unwrap_or(BOTH[0]);
    let is_single = wanted == "SingleStack";
    if causes.is_empty() && !is_free_form {
        if wanted == "RequireDualStack" && configured.len() < 2 {
            let why = "this cluster is not configured for dual-stack services";
            causes.push(invalid(POLICY, &format!("{wanted:?}"), why));
        }
        for (at, family) in chosen.iter().enumerate().filter(|(_, family)| !configured.contains(&family.as_str())) {
            let why = "not configured on this cluster";
            causes.push(invalid(format!("spec.ipFamilies[{at}]"), &format!("{family:?}"), why));
        }
    }
    if !causes.is_empty() {
        return causes;
    }
    if chosen.is_empty() {
        chosen.push(default.to_owned());
    }
    if !is_single && chosen.len() == 1 && (is_free_form || configured.len() == 2) {
        chosen.push(other(&chosen[0]).to_owned());
    }
    let list = |texts: &[String]| Value::from(texts.iter().map(|text| Value::from(text.as_str())).collect::<Vec<_>>());
    service.set(&["spec", "ipFamilies"], list(&chosen));
    if !ips.is_empty() {
        service.set(&["spec", "clusterIPs"], list(&ips));
    }
    causes
}

/// A Service that prefers both families is neither widened nor narrowed by an update that leaves its addresses alone.
fn keeps_preference(new: &Value, old: &Value) -> bool {
    let both = policy(new) == "PreferDualStack" && policy(old) == "PreferDualStack";
    both && addresses(new) == addresses(old) && families(new) == families(old)
}

/// Upstream's checks of the fields against each other.
fn check(ips: &[String], chosen: &[String]) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (at, family) in chosen.iter().enumerate() {
        let field = format!("spec.ipFamilies[{at}]");
        if !BOTH.contains(&family.as_str()) {
            let why = format!("Unsupported value: {family:?}: supported values: \"IPv4\", \"IPv6\"");
            causes.push(cause("FieldValueNotSupported", &field, why));
        } else if chosen[..at].contains(family) {
            causes.push(cause("FieldValueDuplicate", &field, format!("Duplicate value: {family:?}")));
        }
    }
    if chosen.len() > 2 {
        causes.push(invalid("spec.ipFamilies", &shown(chosen), "may only hold up to 2 values"));
    }
    if ips.len() > 2 {
        causes.push(invalid("spec.clusterIPs", &shown(ips), "may only hold up to 2 values"));
    }
    for (at, ip) in ips.iter().enumerate() {
        let field = format!("spec.clusterIPs[{at}]");
        if ip == "None" {
            if ips.len() > 1 {
                causes.push(invalid(
                    field,
                    &format!("{ip:?}"),
                    "may not specify any other values when the first is 'None'",
                ));
            }
            continue;
        }
        let Some(family) = family_of(ip) else {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            causes.push(invalid(field, &format!("{ip:?}"), why));
            continue;
        };
        if let Some(wanted) = chosen.get(at).filter(|wanted| *wanted != family) {
            let why = format!("expected an {wanted} value as indicated by `ipFamilies[{at}]`");
            causes.push(invalid(field, &format!("{ip:?}"), &why));
        }
    }
    if let [first, second] = ips
        && family_of(first) == family_of(second)
        && family_of(first).is_some()
    {
        causes.push(invalid("spec.clusterIPs", &shown(ips), "may specify no more than one IP for each IP family"));
    }
    causes
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const DUAL: &[&str] = &["IPv4", "IPv6"];
    const FOUR: &[&str] = &["IPv4"];

    fn service(spec: &str) -> Value {
        object::yaml::decode(format!("spec: {{{spec}}}").as_bytes(), &object::Limits::REQUEST).unwrap().value
    }

    fn outcome(old: Option<&str>, new: &str, configured: &[&'static str]) -> String {
        let mut new = service(new);
        let causes = settle(&mut new, old.map(service).as_ref(), configured);
        if let Some(cause) = causes.first() {
            return format!("{}: {}", cause.field, cause.message);
        }
        format!("{} {} {}", policy(&new), families(&new).join("+"), addresses(&new).join("+"))
    }

    #[test]
    fn new_services_get_their_families() {
        let cases = [
            (FOUR, "", "SingleStack IPv4 "),
            (DUAL, "", "SingleStack IPv4 "),
            (&["IPv6", "IPv4"], "", "SingleStack IPv6 "),
            (DUAL, "ipFamilyPolicy: PreferDualStack", "PreferDualStack IPv4+IPv6 "),
            (FOUR, "ipFamilyPolicy: PreferDualStack", "PreferDualStack IPv4 "),
            (DUAL, "ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv6]", "RequireDualStack IPv6+IPv4 "),
            (
                FOUR,
                "ipFamilyPolicy: RequireDualStack",
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
            ),
            (FOUR, "ipFamilies: [IPv6]", "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"),
            (DUAL, "ipFamilies: [IPv6]", "SingleStack IPv6 "),
            (
                DUAL,
                "ipFamilies: [IPv4, IPv6]",
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
            ),
            (DUAL, "clusterIP: 'fd00::5'", "SingleStack IPv6 fd00::5"),
            (
                FOUR,
                "clusterIP: 'fd00::5'",
                "spec.clusterIPs[0]: Invalid value: [\"fd00::5\"]: IPv6 is not configured on this cluster",
            ),
            (
                DUAL,
                "clusterIP: 10.0.0.5, clusterIPs: [10.0.0.5, 10.0.0.6], ipFamilyPolicy: RequireDualStack",
                "spec.clusterIPs: Invalid value: [\"10.0.0.5\",\"10.0.0.6\"]: may specify no more than one IP for each IP family",
            ),
            (
                DUAL,
                "clusterIP: 10.0.0.5, ipFamilies: [IPv6]",
                "spec.clusterIPs[0]: Invalid value: \"10.0.0.5\": expected an IPv6 value as indicated by `ipFamilies[0]`",
            ),
            (DUAL, "ipFamilies: [IPv4, IPv4]", "spec.ipFamilies[1]: Duplicate value: \"IPv4\""),
            (FOUR, "clusterIP: None", "RequireDualStack IPv4+IPv6 None"),
            (FOUR, "clusterIP: None, selector: {a: b}", "SingleStack IPv4 None"),
            (
                DUAL,
                "clusterIP: None, selector: {a: b}, ipFamilyPolicy: PreferDualStack",
                "PreferDualStack IPv4+IPv6 None",
            ),
        ];
        for (configured, spec, wanted) in cases {
            assert_eq!(outcome(None, spec, configured), wanted, "{configured:?} {spec}");
        }
    }

    #[test]
    fn updates_widen_and_narrow_on_demand_only() {
        let one = "clusterIP: 10.0.0.5, clusterIPs: [10.0.0.5], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack";
        let two = "clusterIP: 10.0.0.5, clusterIPs: [10.0.0.5, 'fd00::5'], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: RequireDualStack";
        let preferring = one.replace("SingleStack", "PreferDualStack");
        let cases = [
            (one, one.replace("SingleStack", "PreferDualStack"), "PreferDualStack IPv4+IPv6 10.0.0.5"),
            (one, one.replace(", ipFamilyPolicy: SingleStack", ""), "SingleStack IPv4 10.0.0.5"),
            (&preferring, preferring.clone(), "PreferDualStack IPv4 10.0.0.5"),
            (two, two.replace("RequireDualStack", "SingleStack"), "SingleStack IPv4 10.0.0.5"),
            (
                two,
                one.replace("SingleStack", "RequireDualStack"),
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary cluster IP",
            ),
            (two, two.to_owned(), "RequireDualStack IPv4+IPv6 10.0.0.5+fd00::5"),
        ];
        for (old, new, wanted) in cases {
            assert_eq!(outcome(Some(old), &new, DUAL), wanted, "{old} -> {new}");
        }
    }
}
