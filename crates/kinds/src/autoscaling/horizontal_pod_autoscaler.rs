//! HorizontalPodAutoscaler: scales by measured load; v2 is the hub, v1 converts.

use super::targets;
use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::edit::{default_to, items};
use crate::validation::{has_text, in_range, invalid, required};
use object::Cause;
use object::Value;
use object::table::Column;

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
