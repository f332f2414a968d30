//! What kinds that make pods from a template share: defaults, columns, and the checks of template and selector.

use crate::core::{default_pod_spec, validate_pod_spec};
use crate::validation::{in_range, invalid, not_supported, required, validate_labels};
use object::selector::labels::Selector;
use object::table::Column;
use object::{Cause, Map, Value};

/// Sets the defaults of the template at `path`.
pub(crate) fn default_template(object: &mut Value, path: &[&str]) {
    let mut spec = path.to_vec();
    spec.push("spec");
    default_pod_spec(object, &spec);
}

/// Name, Desired, Current, Ready, Age: what ReplicaSets and ReplicationControllers show.
pub(crate) fn replica_columns() -> Vec<Column> {
    vec![
        Column::name(),
        Column::new("Desired", |set, _| crate::cells::number(set, &["spec", "replicas"])).of("integer"),
        Column::new("Current", |set, _| crate::cells::number(set, &["status", "replicas"])).of("integer"),
        Column::new("Ready", |set, _| crate::cells::number(set, &["status", "readyReplicas"])).of("integer"),
        Column::age(),
    ]
}

/// The columns of a Scale, which is a part of other objects and no row of its own.
#[must_use]
pub fn scale_columns() -> Vec<Column> {
    vec![
        Column::name(),
        Column::new("Desired", |scale, _| crate::cells::number(scale, &["spec", "replicas"])).of("integer"),
        Column::new("Available", |scale, _| crate::cells::number(scale, &["status", "replicas"])).of("integer"),
        Column::age(),
    ]
}

/// What is wrong with spec.replicas and its neighbours that count.
pub(crate) fn validate_replicas(object: &Value, causes: &mut Vec<Cause>) {
    for name in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        in_range(causes, object, &["spec", name], &format!("spec.{name}"), 0, i64::MAX);
    }
}

/// What is wrong with the LabelSelector at spec.selector: it must be there, say something, and match the template.
pub(crate) fn validate_selector(object: &Value, causes: &mut Vec<Cause>) {
    let selector = object.at(&["spec", "selector"]).unwrap_or(&Value::Null);
    if selector.is_null() {
        causes.push(required("spec.selector", ""));
        return;
    }
    match Selector::from_label_selector(selector) {
        Err(error) => causes.push(invalid("spec.selector", selector, &error.to_string())),
        Ok(parsed) if parsed.is_everything() => {
            // ReplicaSets share the sentence of Deployments.
            let kind = match object.str_at(&["kind"]) {
                Some("DaemonSet") => "daemonset",
                Some("StatefulSet") => "statefulset",
                _ => "deployment",
            };
            causes.push(invalid("spec.selector", selector, &format!("empty selector is invalid for {kind}")));
        }
        Ok(parsed) => matches_template(object, &parsed, causes),
    }
}

/// The same for a selector that is a map of labels.
pub(crate) fn validate_map_selector(object: &Value, causes: &mut Vec<Cause>) {
    match object.at(&["spec", "selector"]).and_then(Value::as_object) {
        Some(labels) if !labels.is_empty() => {
            if let Ok(parsed) = Selector::from_map(labels) {
                matches_template(object, &parsed, causes);
            }
        }
        _ => causes.push(required("spec.selector", "")),
    }
}

fn matches_template(object: &Value, selector: &Selector, causes: &mut Vec<Cause>) {
    let none = Value::Object(Map::new());
    let labels = object.at(&["spec", "template", "metadata", "labels"]).unwrap_or(&none);
    if !selector.matches_labels(labels.as_object()) {
        let detail = "`selector` does not match template `labels`";
        causes.push(invalid("spec.template.metadata.labels", labels, detail));
    }
}

/// What is wrong with spec.template; `policies` are the restart policies that its pods may have.
pub(crate) fn validate_template(object: &Value, policies: &[&str], causes: &mut Vec<Cause>) {
    causes.extend(validate_template_at(object, &["spec", "template"], policies));
}

/// What is wrong with the template at `path`.
pub(crate) fn validate_template_at(object: &Value, path: &[&str], policies: &[&str]) -> Vec<Cause> {
    let field = path.join(".");
    let Some(template) = object.at(path).filter(|template| !template.is_null()) else {
        return vec![required(&field, "")];
    };
    let mut causes = Vec::new();
    if let Some(labels) = template.at(&["metadata", "labels"]).and_then(Value::as_object) {
        validate_labels(labels, &format!("{field}.labels"), &mut causes);
    }
    let spec = template.get("spec").unwrap_or(&Value::Null);
    causes.extend(validate_pod_spec(spec, &format!("{field}.spec")));
    let policy = spec.get("restartPolicy").cloned().unwrap_or_default();
    let known = ["Always", "OnFailure", "Never"].iter().any(|one| policy.as_str() == Some(one));
    if known && !policies.iter().any(|one| policy.as_str() == Some(one)) {
        causes.push(not_supported(&format!("{field}.spec.restartPolicy"), &policy, policies));
    }
    causes
}

/// What is wrong with maxSurge and maxUnavailable: both numbers or percentages, and not both zero.
pub(crate) fn validate_rolling(rolling: &Value, field: &str, causes: &mut Vec<Cause>) {
    let mut zeros = 0;
    for name in ["maxUnavailable", "maxSurge"] {
        let field = format!("{field}.{name}");
        match rolling.get(name) {
            Some(Value::Int(number)) => {
                zeros += usize::from(*number == 0);
                in_range(causes, rolling, &[name], &field, 0, i64::MAX);
            }
            Some(value @ Value::String(text)) => match text.strip_suffix('%').map(str::parse::<u32>) {
                Some(Ok(percent)) => {
                    zeros += usize::from(percent == 0);
                    if percent > 100 && name == "maxUnavailable" {
                        causes.push(invalid(&field, value, "must not be greater than 100%"));
                    }
                }
                _ => {
                    let rule = "a valid percent string must be a numeric string followed by an ending '%'";
                    let detail = object::names::mismatch(rule, "[0-9]+%", &["1%", "93%"]);
                    causes.push(invalid(&field, value, &detail));
                }
            },
            _ => {}
        }
    }
    if zeros == 2 {
        let value = rolling.get("maxUnavailable").unwrap_or(&Value::Null);
        let detail = "may not be 0 when `maxSurge` is 0";
        causes.push(invalid(&format!("{field}.maxUnavailable"), value, detail));
    }
}
