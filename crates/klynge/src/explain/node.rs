//! Why a node takes no pods.

use super::{condition, conditions, lost, stop};
use object::{Value, meta};

/// The sentence about a node.
pub(super) fn explain(node: &Value) -> String {
    let name = meta::name(node);
    let what = format!("Node {name}");
    match condition(node, "Ready") {
        None => return format!("{what} has not reported yet."),
        Some(ready) if ready.str_at(&["status"]) == Some("Unknown") => return lost::node(node, ready, &what),
        Some(ready) if ready.str_at(&["status"]) != Some("True") => {
            let message = ready.str_at(&["message"]).unwrap_or_default();
            return format!(
                "{what} is not ready: {} Is its agent running, and can it reach the server?",
                stop(message)
            );
        }
        Some(_) => {}
    }
    let pressure = conditions(node)
        .iter()
        .find(|one| one.str_at(&["type"]) != Some("Ready") && one.str_at(&["status"]) == Some("True"));
    if let Some(pressure) = pressure {
        let text = |key| pressure.str_at(&[key]).unwrap_or_default();
        return format!("{what} is ready but has {}: {}", text("type"), text("message"));
    }
    if node.at(&["spec", "unschedulable"]).and_then(Value::as_bool) == Some(true) {
        return format!(
            "{what} is ready but cordoned, so it takes no new pods; kubectl uncordon {name} lets it again."
        );
    }
    format!("{what} is as wanted: ready and taking pods.")
}
