//! HorizontalPodAutoscaler: scales by measured load; v2 is the hub, v1 converts.

use crate::Resource;
use object::Value;

/// The row of HorizontalPodAutoscaler.
pub(super) fn row() -> Resource {
    Resource::new("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
        .short(&["hpa"])
        .in_all()
        .status()
        .also("v1", v1_to_hub, v1_from_hub)
}

/// v1 knows one measure, the processor's utilisation; v2 lists measures.
fn v1_to_hub(object: &mut Value) {
    object.set(&["apiVersion"], "autoscaling/v2".into());
    if let Some(percent) = object.remove(&["spec", "targetCPUUtilizationPercentage"]) {
        let mut metric = cpu("target", "type", "Utilization".into());
        metric.set(&["resource", "target", "averageUtilization"], percent);
        object.set(&["spec", "metrics"], Value::Array(vec![metric]));
    }
    if let Some(percent) = object.remove(&["status", "currentCPUUtilizationPercentage"]) {
        let metric = cpu("current", "averageUtilization", percent);
        object.set(&["status", "currentMetrics"], Value::Array(vec![metric]));
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
