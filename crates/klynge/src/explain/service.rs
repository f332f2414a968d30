//! Why a Service does not answer.

use super::{Subject, stop};
use object::{Map, Value, meta};

/// The sentence about a Service.
pub(super) fn explain(subject: &Subject) -> String {
    let service = &subject.object;
    let name = meta::name(service);
    let what = format!("Service {name}");
    if service.str_at(&["spec", "type"]) == Some("ExternalName") {
        return format!("{what} is an alias of {}.", service.str_at(&["spec", "externalName"]).unwrap_or_default());
    }
    if let Some(sentence) = waits_for_an_address(subject, &what) {
        return sentence;
    }
    let slices =
        subject.endpoint_slices.iter().filter(|slice| meta::label(slice, "kubernetes.io/service-name") == Some(name));
    let endpoints: Vec<&Value> = slices.filter_map(|slice| slice.get("endpoints")?.as_array()).flatten().collect();
    let ready =
        endpoints.iter().filter(|one| one.at(&["conditions", "ready"]).and_then(Value::as_bool) != Some(false)).count();
    if ready > 0 {
        return format!("{what} is as wanted: {ready} of {} endpoints ready.", endpoints.len());
    }
    let Some(selector) = service.at(&["spec", "selector"]).and_then(Value::as_object).filter(|map| !map.is_empty())
    else {
        return format!("{what} has no selector and no endpoints: create an EndpointSlice for it.");
    };
    let selected: Vec<&Value> = subject.pods.iter().filter(|pod| matches(selector, pod)).collect();
    let Some(first) = selected.first() else {
        let shown: Vec<String> =
            selector.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
        return format!(
            "{what} refuses connections: it selects no pod ({}). Compare with kubectl get pods --show-labels.",
            shown.join(",")
        );
    };
    format!("{what} refuses connections: it selects {} pods, none ready. {}", selected.len(), subject.of_one(first))
}

/// Why a Service of type LoadBalancer has no address from outside, or has one where nobody answers; None where it has one.
fn waits_for_an_address(subject: &Subject, what: &str) -> Option<String> {
    let service = &subject.object;
    if service.str_at(&["spec", "type"]) != Some("LoadBalancer") {
        return None;
    }
    let class = service.str_at(&["spec", "loadBalancerClass"]);
    let foreign = class.filter(|class| !matches!(*class, "klynge.io/pool" | "klynge.io/node"));
    let ingress = service.at(&["status", "loadBalancer", "ingress"]).and_then(Value::as_array).unwrap_or_default();
    let events = subject.events_about(service);
    let said = |reasons: &[&str]| {
        let event =
            events.iter().find(|event| event.str_at(&["reason"]).is_some_and(|reason| reasons.contains(&reason)))?;
        event.str_at(&["message"]).map(stop)
    };
    if ingress.is_empty() {
        if let Some(class) = foreign {
            return Some(format!(
                "{what} waits for an address from whoever serves the class {class}: Klynge serves klynge.io/pool, klynge.io/node, and \
                 Services without loadBalancerClass."
            ));
        }
        let why = said(&["AllocationFailed", "SyncLoadBalancerFailed"]);
        let why = why.unwrap_or_else(|| "Nothing was said about why: the ConfigMap kube-system/klynge-load-balancer may leave Services without class to others \
             (without-class: none).".to_owned());
        return Some(format!("{what} has no address from outside yet. {why}"));
    }
    // Who announces an address was told when that began; what was told afterwards still holds.
    let newest =
        events.iter().find_map(|event| event.str_at(&["reason"]).filter(|reason| ANNOUNCING.contains(reason)))?;
    (newest != ANNOUNCED).then(|| said(&[newest]).map(|why| format!("{what} does not answer on its address: {why}")))?
}

/// An address has come to a node.
const ANNOUNCED: &str = "nodeAssigned";
/// All that is told of announcing.
const ANNOUNCING: [&str; 3] = [ANNOUNCED, "NotAnnounced", "AddressConflict"];

fn matches(selector: &Map, pod: &Value) -> bool {
    selector.iter().all(|(key, value)| meta::label(pod, key) == value.as_str())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use object::{Limits, yaml};

    fn check(spec: &str, status: &str, events: &[(&str, &str)], expected: &str) {
        let value = |text: &str| yaml::decode(text.as_bytes(), &Limits::default()).unwrap().value;
        let mut subject =
            Subject::of_pod(value(&format!("{{metadata: {{name: web, uid: u}}, spec: {spec}, status: {status}}}")));
        subject.kind = "Service".to_owned();
        let event = |(second, (reason, message)): (usize, &(&str, &str))| {
            value(&format!(
                "{{involvedObject: {{uid: u}}, reason: {reason}, message: '{message}', lastTimestamp: '2026-01-01T00:00:0{second}Z'}}"
            ))
        };
        subject.events = events.iter().enumerate().map(event).collect();
        let sentence = explain(&subject);
        assert!(sentence.contains(expected), "{sentence:?} lacks {expected:?}");
    }

    #[test]
    fn load_balancers_say_what_they_wait_for() {
        let ours = "{type: LoadBalancer}";
        let has = "{loadBalancer: {ingress: [{ip: 192.0.2.240}]}}";
        check(ours, "{}", &[("AllocationFailed", "no free address")], "no address from outside yet. no free address.");
        check(ours, "{}", &[], "Nothing was said");
        check("{type: LoadBalancer, loadBalancerClass: example.com/x}", "{}", &[], "the class example.com/x");
        check(
            ours,
            has,
            &[("nodeAssigned", "a"), ("AddressConflict", "a host has it")],
            "does not answer on its address: a host has it.",
        );
        check(ours, has, &[("NotAnnounced", "no node"), ("nodeAssigned", "a")], "no selector and no endpoints");
        check(ours, has, &[("AllocationFailed", "earlier")], "no selector and no endpoints");
        check("{type: ClusterIP}", "{}", &[], "no selector and no endpoints");
    }
}
