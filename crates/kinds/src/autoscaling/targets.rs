//! The `Targets` cell of autoscalers: what is measured against what is wanted.

use crate::edit::items;
use object::Value;

/// The first two measures, and how many more there are.
pub(super) fn shown(scaler: &Value) -> String {
    let metrics = items(scaler, &["spec", "metrics"]);
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let current = items(scaler, &["status", "currentMetrics"]);
    let all: Vec<String> = metrics.iter().enumerate().map(|(at, metric)| one(metric, current.get(at))).collect();
    match all.len() {
        1 | 2 => all.join(", "),
        count => format!("{} + {} more...", all[..2].join(", "), count - 2),
    }
}

fn one(metric: &Value, current: Option<&Value>) -> String {
    let (member, name) = match metric.str_at(&["type"]).unwrap_or_default() {
        "Resource" => ("resource", metric.str_at(&["resource", "name"])),
        "ContainerResource" => ("containerResource", metric.str_at(&["containerResource", "name"])),
        "Pods" => ("pods", None),
        "Object" => ("object", None),
        "External" => ("external", None),
        _ => return "<unknown type>".to_owned(),
    };
    let prefix = name.map(|name| format!("{name}: ")).unwrap_or_default();
    let text = |value: Option<&Value>| match value {
        Some(Value::Int(number)) => Some(number.to_string()),
        Some(Value::String(text)) => Some(text.to_string()),
        _ => None,
    };
    let wanted = |name: &str| text(metric.at(&[member, "target", name]));
    let measured = |name: &str| text(current.and_then(|current| current.at(&[member, "current", name])));
    let unknown = || "<unknown>".to_owned();
    if let Some(percent) = wanted("averageUtilization") {
        let now = measured("averageUtilization").map_or_else(unknown, |now| format!("{now}%"));
        return format!("{prefix}{now}/{percent}%");
    }
    if let Some(average) = wanted("averageValue") {
        let suffix = if matches!(member, "object" | "external") { " (avg)" } else { "" };
        return format!("{prefix}{}/{average}{suffix}", measured("averageValue").unwrap_or_else(unknown));
    }
    format!(
        "{prefix}{}/{}",
        measured("value").unwrap_or_else(unknown),
        wanted("value").unwrap_or_else(|| "<auto>".to_owned())
    )
}
