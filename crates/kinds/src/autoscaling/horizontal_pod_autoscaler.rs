//! HorizontalPodAutoscaler: scales by measured load; v2 is the hub, v1 converts.

use super::targets;
use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::edit::{default_to, items};
use crate::validation::{has_text, in_range, invalid, required};
use object::Cause;
use object::table::Column;
use object::{Limits, Map, Value, json};

/// The row of HorizontalPodAutoscaler.
pub(super) fn row() -> Resource {
    Resource::new("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
        .short(&["hpa"])
        .in_all()
        .status()
        .also("v1", v1_to_hub, v1_from_hub)
        .with_columns(vec![
            Column::name(),
            Column::new("Reference", |scaler, _| {
                let part = |name: &str| scaler.str_at(&["spec", "scaleTargetRef", name]).unwrap_or_default();
                format!("{}/{}", part("kind"), part("name")).into()
            }),
            Column::new("Targets", |scaler, _| targets::shown(scaler).into()),
            Column::new("MinPods", |scaler, _| match scaler.i64_at(&["spec", "minReplicas"]) {
                Some(number) => number.to_string().into(),
                None => "<unset>".into(),
            }),
            Column::new("MaxPods", |scaler, _| cells::number(scaler, &["spec", "maxReplicas"])),
            Column::new("Replicas", |scaler, _| cells::number(scaler, &["status", "currentReplicas"])),
            Column::age(),
        ])
        .with_hooks(HorizontalPodAutoscaler)
}

/// What v1 has no member for travels in annotations, so that a v1 client that writes back what it read loses nothing.
const ANNOTATIONS: [(&str, [&str; 2]); 4] = [
    ("autoscaling.alpha.kubernetes.io/metrics", ["spec", "metrics"]),
    ("autoscaling.alpha.kubernetes.io/behavior", ["spec", "behavior"]),
    ("autoscaling.alpha.kubernetes.io/current-metrics", ["status", "currentMetrics"]),
    ("autoscaling.alpha.kubernetes.io/conditions", ["status", "conditions"]),
];

/// v1 knows one measure, the processor's utilisation; v2 lists measures.
fn v1_to_hub(object: &mut Value) {
    object.set(&["apiVersion"], "autoscaling/v2".into());
    for (annotation, path) in ANNOTATIONS {
        let Some(text) = object.remove(&["metadata", "annotations", annotation]) else { continue };
        let decoded = text.as_str().and_then(|text| json::decode(text.as_bytes(), &Limits::default()).ok());
        if let Some(decoded) = decoded {
            object.set(&path, decoded.value);
        }
    }
    if object.at(&["metadata", "annotations"]).and_then(Value::as_object).is_some_and(Map::is_empty) {
        object.remove(&["metadata", "annotations"]);
    }
    if let Some(percent) = object.remove(&["spec", "targetCPUUtilizationPercentage"]) {
        let mut metric = cpu("target", "type", "Utilization".into());
        metric.set(&["resource", "target", "averageUtilization"], percent);
        put_first(object, &["spec", "metrics"], metric);
    }
    if let Some(percent) = object.remove(&["status", "currentCPUUtilizationPercentage"]) {
        let metric = cpu("current", "averageUtilization", percent);
        put_first(object, &["status", "currentMetrics"], metric);
    }
}

fn v1_from_hub(object: &mut Value) {
    object.set(&["apiVersion"], "autoscaling/v1".into());
    if let Some(percent) = take_cpu(object, &["spec", "metrics"], "target") {
        object.set(&["spec", "targetCPUUtilizationPercentage"], percent);
    }
    if let Some(percent) = take_cpu(object, &["status", "currentMetrics"], "current") {
        object.set(&["status", "currentCPUUtilizationPercentage"], percent);
    }
    for (annotation, path) in ANNOTATIONS {
        if let Some(value) = object.remove(&path).filter(|value| !value.is_null()) {
            let text = String::from_utf8_lossy(&json::encode(&value)).into_owned();
            object.set(&["metadata", "annotations", annotation], text.into());
        }
    }
}

fn put_first(object: &mut Value, path: &[&str], metric: Value) {
    let mut metrics = vec![metric];
    metrics.extend(items(object, path).iter().cloned());
    object.set(path, Value::Array(metrics));
}

fn cpu(part: &str, member: &str, value: Value) -> Value {
    let mut metric = Value::default();
    metric.set(&["type"], "Resource".into());
    metric.set(&["resource", "name"], "cpu".into());
    metric.set(&["resource", part, member], value);
    metric
}

/// Takes the first measure of processor utilisation out of the list at `path`.
fn take_cpu(object: &mut Value, path: &[&str], part: &str) -> Option<Value> {
    let metrics = object.at_mut(path)?.as_array_mut()?;
    let is_cpu = |metric: &Value| {
        metric.str_at(&["type"]) == Some("Resource")
            && metric.str_at(&["resource", "name"]) == Some("cpu")
            && metric.i64_at(&["resource", part, "averageUtilization"]).is_some()
    };
    let at = metrics.iter().position(is_cpu)?;
    let mut metric = metrics.remove(at);
    if metrics.is_empty() {
        object.remove(path);
    }
    metric.remove(&["resource", part, "averageUtilization"])
}

struct HorizontalPodAutoscaler;

impl Hooks for HorizontalPodAutoscaler {
    fn default(&self, scaler: &mut Value) {
        default_to(scaler, &["spec", "minReplicas"], 1_i64);
        if items(scaler, &["spec", "metrics"]).is_empty() {
            let mut metric = cpu("target", "type", "Utilization".into());
            metric.set(&["resource", "target", "averageUtilization"], Value::Int(80));
            scaler.set(&["spec", "metrics"], Value::Array(vec![metric]));
        }
    }

    fn prepare_create(&self, scaler: &mut Value) {
        scaler.set(&["status", "desiredReplicas"], Value::Int(0));
    }

    fn validate(&self, scaler: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        for name in ["kind", "name"] {
            if !has_text(scaler, &["spec", "scaleTargetRef", name]) {
                causes.push(required(&format!("spec.scaleTargetRef.{name}"), ""));
            }
        }
        in_range(&mut causes, scaler, &["spec", "minReplicas"], "spec.minReplicas", 1, i64::MAX);
        let (least, most) =
            (scaler.i64_at(&["spec", "minReplicas"]), scaler.i64_at(&["spec", "maxReplicas"]).unwrap_or_default());
        if most < 1 {
            causes.push(invalid("spec.maxReplicas", &Value::Int(most), "must be greater than 0"));
        }
        if least.is_some_and(|least| most < least) {
            causes.push(invalid(
                "spec.maxReplicas",
                &Value::Int(most),
                "must be greater than or equal to `minReplicas`",
            ));
        }
        causes
    }
}

#[cfg(test)]
mod tests {
    use super::{v1_from_hub, v1_to_hub};
    use object::{Limits, json};

    #[test]
    fn a_v1_client_that_writes_back_what_it_read_loses_nothing() {
        let text = br#"{"apiVersion":"autoscaling/v2","metadata":{"name":"a"},"spec":{"maxReplicas":3,"behavior":{"scaleUp":{}},
            "metrics":[{"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":50}}},
            {"type":"Pods","pods":{"metric":{"name":"m"},"target":{"type":"AverageValue","averageValue":"1"}}}]},
            "status":{"conditions":[{"type":"AbleToScale","status":"True"}],"desiredReplicas":1}}"#;
        let hub = json::decode(text, &Limits::default()).map(|decoded| decoded.value).unwrap_or_default();
        let mut object = hub.clone();
        v1_from_hub(&mut object);
        assert_eq!(object.i64_at(&["spec", "targetCPUUtilizationPercentage"]), Some(50));
        assert!(object.at(&["spec", "metrics"]).is_none());
        v1_to_hub(&mut object);
        assert_eq!(object, hub);
    }
}
