//! Why a Service does not answer.

use super::Subject;
use object::{Map, Value, meta};

/// The sentence about a Service.
pub(super) fn explain(subject: &Subject) -> String {
    let service = &subject.object;
    let name = meta::name(service);
    let what = format!("Service {name}");
    if service.str_at(&["spec", "type"]) == Some("ExternalName") {
        return format!("{what} is an alias of {}.", service.str_at(&["spec", "externalName"]).unwrap_or_default());
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

fn matches(selector: &Map, pod: &Value) -> bool {
    selector.iter().all(|(key, value)| meta::label(pod, key) == value.as_str())
}
