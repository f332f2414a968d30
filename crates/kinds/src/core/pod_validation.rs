//! What may be wrong with a pod spec, for pods and templates, and with a pod's update.

use super::pod_defaults::CONTAINER_LISTS;
use crate::edit::items;
use crate::validation::{
    duplicate, each, forbidden, has_text, in_range, invalid, invalid_text, not_found, one_of, required,
};
use object::quantity::Quantity;
use object::{Cause, Value, names};
use std::collections::HashSet;

/// What is wrong with the pod spec at `path`; `field` is its name in causes.
pub(crate) fn validate_pod_spec(spec: &Value, field: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    let volumes = validate_volumes(spec, field, &mut causes);
    if items(spec, &["containers"]).is_empty() {
        causes.push(required(&format!("{field}.containers"), ""));
    }
    let mut seen = HashSet::new();
    for list in CONTAINER_LISTS {
        for (at, container) in items(spec, &[list]).iter().enumerate() {
            let field = format!("{field}.{list}[{at}]");
            validate_container(container, &field, &volumes, &mut causes);
            let name = container.str_at(&["name"]).unwrap_or_default();
            if !name.is_empty() && !seen.insert(name) {
                causes.push(duplicate(&format!("{field}.name"), &name.into()));
            }
        }
    }
    let policies = ["Always", "OnFailure", "Never"];
    one_of(&mut causes, spec, &["restartPolicy"], &format!("{field}.restartPolicy"), &policies);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(&mut causes, spec, &["dnsPolicy"], &format!("{field}.dnsPolicy"), &policies);
    in_range(
        &mut causes,
        spec,
        &["activeDeadlineSeconds"],
        &format!("{field}.activeDeadlineSeconds"),
        1,
        i64::from(i32::MAX),
    );
    let grace = format!("{field}.terminationGracePeriodSeconds");
    in_range(&mut causes, spec, &["terminationGracePeriodSeconds"], &grace, 0, i64::MAX);
    for (name, check) in [
        ("serviceAccountName", names::dns1123_subdomain as fn(&str) -> Vec<String>),
        ("nodeName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
    ] {
        if let Some(text) = spec.str_at(&[name]).filter(|text| !text.is_empty()) {
            causes.extend(each(&format!("{field}.{name}"), text, check(text)));
        }
    }
    if let Some(selector) = spec.at(&["nodeSelector"]).and_then(Value::as_object) {
        crate::validation::validate_labels(selector, &format!("{field}.nodeSelector"), &mut causes);
    }
    for (at, toleration) in items(spec, &["tolerations"]).iter().enumerate() {
        validate_toleration(toleration, &format!("{field}.tolerations[{at}]"), &mut causes);
    }
    causes
}

fn validate_volumes<'a>(spec: &'a Value, field: &str, causes: &mut Vec<Cause>) -> HashSet<&'a str> {
    let mut volumes = HashSet::new();
    for (at, volume) in items(spec, &["volumes"]).iter().enumerate() {
        let field = format!("{field}.volumes[{at}]");
        let name = volume.str_at(&["name"]).unwrap_or_default();
        if name.is_empty() {
            causes.push(required(&format!("{field}.name"), ""));
        } else {
            causes.extend(each(&format!("{field}.name"), name, names::dns1123_label(name)));
            if !volumes.insert(name) {
                causes.push(duplicate(&format!("{field}.name"), &name.into()));
            }
        }
        let sources = volume
            .as_object()
            .map_or(0, |map| map.iter().filter(|(key, one)| *key != "name" && !one.is_null()).count());
        if sources > 1 {
            let last = volume.as_object().and_then(|map| map.keys().rfind(|key| *key != "name"));
            let field = format!("{field}.{}", last.unwrap_or_default());
            causes.push(forbidden(&field, "may not specify more than 1 volume type"));
        } else if sources == 0 {
            causes.push(required(&field, "must specify a volume type"));
        }
        for (source, member) in [
            ("hostPath", "path"),
            ("persistentVolumeClaim", "claimName"),
            ("configMap", "name"),
            ("secret", "secretName"),
        ] {
            if volume.get(source).is_some() && !has_text(volume, &[source, member]) {
                causes.push(required(&format!("{field}.{source}.{member}"), ""));
            }
        }
    }
    volumes
}

fn validate_container(container: &Value, field: &str, volumes: &HashSet<&str>, causes: &mut Vec<Cause>) {
    let name = container.str_at(&["name"]).unwrap_or_default();
    if name.is_empty() {
        causes.push(required(&format!("{field}.name"), ""));
    } else {
        causes.extend(each(&format!("{field}.name"), name, names::dns1123_label(name)));
    }
    match container.str_at(&["image"]).unwrap_or_default() {
        "" => causes.push(required(&format!("{field}.image"), "")),
        image if image.trim() != image => {
            causes.push(invalid_text(&format!("{field}.image"), image, "must not have leading or trailing whitespace"));
        }
        _ => {}
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    one_of(causes, container, &["imagePullPolicy"], &format!("{field}.imagePullPolicy"), &policies);
    let policies = ["File", "FallbackToLogsOnError"];
    one_of(causes, container, &["terminationMessagePolicy"], &format!("{field}.terminationMessagePolicy"), &policies);
    validate_ports(container, field, causes);
    for (at, variable) in items(container, &["env"]).iter().enumerate() {
        let field = format!("{field}.env[{at}]");
        match variable.str_at(&["name"]).unwrap_or_default() {
            "" => causes.push(required(&format!("{field}.name"), "")),
            name if name.bytes().any(|byte| !(b' '..=b'~').contains(&byte) || byte == b'=') => {
                let detail =
                    "a valid environment variable name must consist only of printable ASCII characters other than '='";
                causes.push(invalid_text(&format!("{field}.name"), name, detail));
            }
            _ => {}
        }
        if has_text(variable, &["value"])
            && variable.at(&["valueFrom"]).is_some_and(|from| from.as_object().is_some_and(|map| !map.is_empty()))
        {
            let value = variable.get("valueFrom").cloned().unwrap_or_default();
            causes.push(invalid(
                &format!("{field}.valueFrom"),
                &value,
                "may not be specified when `value` is not empty",
            ));
        }
    }
    let mut paths = HashSet::new();
    for (at, mount) in items(container, &["volumeMounts"]).iter().enumerate() {
        let field = format!("{field}.volumeMounts[{at}]");
        let name = mount.str_at(&["name"]).unwrap_or_default();
        if name.is_empty() {
            causes.push(required(&format!("{field}.name"), ""));
        } else if !volumes.contains(name) {
            causes.push(not_found(&format!("{field}.name"), &name.into()));
        }
        let path = mount.str_at(&["mountPath"]).unwrap_or_default();
        if path.is_empty() {
            causes.push(required(&format!("{field}.mountPath"), ""));
        } else if !paths.insert(path) {
            causes.push(invalid_text(&format!("{field}.mountPath"), path, "must be unique"));
        }
        let sub_path = mount.str_at(&["subPath"]).unwrap_or_default();
        if sub_path.starts_with('/') {
            causes.push(invalid_text(&format!("{field}.subPath"), sub_path, "must be a relative path"));
        }
        if sub_path.split('/').any(|part| part == "..") {
            causes.push(invalid_text(&format!("{field}.subPath"), sub_path, "must not contain '..'"));
        }
    }
    validate_resources(container, field, causes);
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(value) = container.get(probe).filter(|value| !value.is_null()) {
            validate_probe(value, &format!("{field}.{probe}"), probe, causes);
        }
    }
}

fn validate_ports(container: &Value, field: &str, causes: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for (at, port) in items(container, &["ports"]).iter().enumerate() {
        let field = format!("{field}.ports[{at}]");
        if let Some(name) = port.str_at(&["name"]).filter(|name| !name.is_empty()) {
            let errors = names::port_name(name);
            if errors.is_empty() && !seen.insert(name) {
                causes.push(duplicate(&format!("{field}.name"), &name.into()));
            }
            causes.extend(each(&format!("{field}.name"), name, errors));
        }
        match port.i64_at(&["containerPort"]).unwrap_or_default() {
            0 => causes.push(required(&format!("{field}.containerPort"), "")),
            _ => in_range(causes, port, &["containerPort"], &format!("{field}.containerPort"), 1, 65_535),
        }
        if port.i64_at(&["hostPort"]).unwrap_or_default() != 0 {
            in_range(causes, port, &["hostPort"], &format!("{field}.hostPort"), 1, 65_535);
        }
        one_of(causes, port, &["protocol"], &format!("{field}.protocol"), &["TCP", "UDP", "SCTP"]);
    }
}

fn validate_resources(container: &Value, field: &str, causes: &mut Vec<Cause>) {
    for kind in ["limits", "requests"] {
        let amounts = container.at(&["resources", kind]).and_then(Value::as_object);
        for (name, amount) in amounts.into_iter().flat_map(object::Map::iter) {
            let field = format!("{field}.resources.{kind}");
            let parsed = match Quantity::from_value(amount) {
                Ok(parsed) => parsed,
                Err(error) => {
                    causes.push(invalid(&format!("{field}[{name}]"), amount, &error.to_string()));
                    continue;
                }
            };
            if parsed.signum() < 0 {
                causes.push(invalid(&format!("{field}[{name}]"), amount, "must be greater than or equal to 0"));
            }
            let standard = ["cpu", "memory", "ephemeral-storage", "storage"];
            if !standard.contains(&name) && !name.starts_with("hugepages-") && !name.contains('/') {
                causes.push(invalid_text(&field, name, "must be a standard resource for containers"));
            }
            if kind == "limits" {
                continue;
            }
            let limit = container.at(&["resources", "limits", name]).and_then(|limit| Quantity::from_value(limit).ok());
            if let Some(limit) = limit.filter(|limit| parsed > *limit) {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                causes.push(invalid(&field, &parsed.canonical().into(), &detail));
            }
        }
    }
}

fn validate_probe(probe: &Value, field: &str, kind: &str, causes: &mut Vec<Cause>) {
    let handlers = ["exec", "httpGet", "tcpSocket", "grpc"];
    match handlers.iter().filter(|name| probe.get(name).is_some_and(|one| !one.is_null())).count() {
        0 => causes.push(required(field, "must specify a handler type")),
        1 => {}
        _ => causes.push(forbidden(field, "may not specify more than 1 handler type")),
    }
    for name in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        in_range(causes, probe, &[name], &format!("{field}.{name}"), 0, i64::MAX);
    }
    if kind != "readinessProbe"
        && let Some(number) = probe.i64_at(&["successThreshold"]).filter(|number| *number > 1)
    {
        causes.push(invalid(&format!("{field}.successThreshold"), &Value::Int(number), "must be 1"));
    }
}

fn validate_toleration(toleration: &Value, field: &str, causes: &mut Vec<Cause>) {
    let text = |name: &str| toleration.str_at(&[name]).unwrap_or_default();
    if !text("key").is_empty() {
        causes.extend(each(&format!("{field}.key"), text("key"), names::qualified_name(text("key"))));
    } else if text("operator") != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        causes.push(invalid_text(&format!("{field}.operator"), text("operator"), detail));
    }
    if toleration.get("tolerationSeconds").is_some() && text("effect") != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        causes.push(invalid_text(&format!("{field}.effect"), text("effect"), detail));
    }
    if text("operator") == "Exists" && !text("value").is_empty() {
        let detail = "value must be empty when `operator` is 'Exists'";
        causes.push(invalid_text(&format!("{field}.operator"), text("value"), detail));
    }
    if toleration.get("effect").is_some() && !text("effect").is_empty() {
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        one_of(causes, toleration, &["effect"], &format!("{field}.effect"), &effects);
    }
}

/// What is wrong with the change of a pod: all but a few fields of its spec may not change.
pub(crate) fn validate_pod_update(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for list in ["containers", "initContainers"] {
        let (after, before) = (items(new, &["spec", list]), items(old, &["spec", list]));
        if after.len() != before.len() {
            let field = format!("spec.{list}");
            causes.push(forbidden(&field, "pod updates may not add or remove containers"));
            return causes;
        }
    }
    let deadline = |pod: &Value| pod.i64_at(&["spec", "activeDeadlineSeconds"]);
    match (deadline(new), deadline(old)) {
        (Some(after), Some(before)) if after > before => {
            let detail = "must be less than or equal to previous value";
            causes.push(invalid("spec.activeDeadlineSeconds", &Value::Int(after), detail));
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            causes.push(invalid("spec.activeDeadlineSeconds", &Value::Null, detail));
        }
        _ => {}
    }
    let (after, before) = (items(new, &["spec", "tolerations"]), items(old, &["spec", "tolerations"]));
    let same = |a: &Value, b: &Value| {
        let key = |one: &Value| -> Vec<Option<Value>> {
            ["key", "operator", "value", "effect"].iter().map(|name| one.get(name).cloned()).collect()
        };
        key(a) == key(b)
    };
    if before.iter().any(|one| !after.iter().any(|other| same(one, other))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        causes.push(forbidden("spec.tolerations", detail));
    }
    // With the changeable parts set to the old ones, nothing may differ.
    let mut changed = new.get("spec").cloned().unwrap_or_default();
    for list in ["containers", "initContainers"] {
        let images: Vec<Option<Value>> =
            items(old, &["spec", list]).iter().map(|one| one.get("image").cloned()).collect();
        for (container, image) in crate::edit::items_mut(&mut changed, &[list]).iter_mut().zip(images) {
            restore(container, "image", image);
        }
    }
    for name in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"] {
        if name == "terminationGracePeriodSeconds" {
            let before = old.i64_at(&["spec", name]).unwrap_or_default();
            if !(before < 0 && new.i64_at(&["spec", name]) == Some(1)) {
                continue;
            }
        }
        if name == "schedulingGates"
            && items(new, &["spec", name]).iter().any(|gate| !items(old, &["spec", name]).contains(gate))
        {
            let detail = "only deletion is allowed, but found new scheduling gate";
            causes.push(forbidden("spec.schedulingGates", detail));
        }
        restore(&mut changed, name, old.at(&["spec", name]).cloned());
    }
    if changed != old.get("spec").cloned().unwrap_or_default() {
        let detail = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
                      `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
                      `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        causes.push(forbidden("spec", detail));
    }
    causes
}

fn restore(object: &mut Value, name: &str, value: Option<Value>) {
    match value {
        Some(value) => object.set(&[name], value),
        None => drop(object.remove(&[name])),
    }
}
