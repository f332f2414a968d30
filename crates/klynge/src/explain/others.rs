//! Kinds that have no pods of their own: what they wait for, and for whom.

use super::{Subject, condition, conditions, holds, stop};
use object::{Value, meta};

/// The sentence about one of these kinds; None where there is nothing to say that is not said of every kind.
pub(super) fn explain(subject: &Subject) -> Option<String> {
    let object = &subject.object;
    let name = meta::name(object);
    let what = format!("{} {name}", subject.kind);
    match subject.kind.as_str() {
        "PersistentVolumeClaim" if object.str_at(&["status", "phase"]) != Some("Bound") => Some(format!(
            "{what} is Pending and stays so: persistent volumes are not supported yet. Use emptyDir or hostPath; docs/kubernetes.md lists the volumes that work."
        )),
        "HorizontalPodAutoscaler" => Some(format!(
            "{what} does nothing: there is no autoscaling controller here yet. Set the replicas yourself (kubectl scale)."
        )),
        "Ingress" => Some(format!(
            "{what} routes nothing by itself: there is no Ingress controller here yet. Install one, or publish the Service with type NodePort."
        )),
        "CertificateSigningRequest" => Some(certificate(object, &what)),
        "PodDisruptionBudget" => disruption_budget(object, &what),
        _ => None,
    }
}

fn certificate(request: &Value, what: &str) -> String {
    for (name, word) in [("Denied", "was denied"), ("Failed", "failed")] {
        if let Some(one) = condition(request, name) {
            let text = |key| one.str_at(&[key]).unwrap_or_default();
            let tail = if text("message").is_empty() { String::new() } else { format!(": {}", text("message")) };
            return format!(
                "{what} {word} ({}){} Its owner can ask again with a new request.",
                text("reason"),
                stop(&tail)
            );
        }
    }
    let name = meta::name(request);
    if !holds(request, "Approved") {
        return format!(
            "{what} is Pending: nobody has approved it. See what it asks for (kubectl describe csr {name}), then kubectl certificate approve {name}, or deny."
        );
    }
    if request.str_at(&["status", "certificate"]).is_none_or(str::is_empty) {
        return format!(
            "{what} is approved and waits for its signer {} to issue the certificate.",
            request.str_at(&["spec", "signerName"]).unwrap_or_default()
        );
    }
    format!("{what} is as wanted: approved, and its certificate is issued.")
}

fn disruption_budget(budget: &Value, what: &str) -> Option<String> {
    let number = |key: &str| budget.i64_at(&["status", key]).unwrap_or_default();
    let allowed = condition(budget, "DisruptionAllowed")?;
    if allowed.str_at(&["status"]) != Some("False") {
        return None;
    }
    let text = |key| allowed.str_at(&[key]).unwrap_or_default();
    if text("reason") == "SyncFailed" {
        return Some(format!("{what} cannot be worked out: {}", stop(text("message"))));
    }
    if number("expectedPods") == 0 {
        return Some(format!("{what} covers no pods: compare its selector with kubectl get pods --show-labels."));
    }
    Some(format!(
        "{what} allows no eviction now: {} of {} pods are healthy and {} have to be. Wait for pods to get ready, add replicas, or loosen minAvailable or maxUnavailable.",
        number("currentHealthy"),
        number("expectedPods"),
        number("desiredHealthy")
    ))
}

/// The sentence about a namespace that is being deleted: what its conditions say is still in it.
pub(super) fn namespace(namespace: &Value, what: &str) -> Option<String> {
    let holding = conditions(namespace).iter().filter(|one| {
        one.str_at(&["status"]) == Some("True")
            && one.str_at(&["type"]).is_some_and(|name| name.starts_with("Namespace"))
    });
    let told: Vec<String> =
        holding.filter_map(|one| one.str_at(&["message"]).filter(|text| !text.is_empty())).map(stop).collect();
    if told.is_empty() {
        return None;
    }
    let advice = if holds(namespace, "NamespaceFinalizersRemaining") {
        "Whoever owns these finalizers must finish its work and take them off; the namespace then goes by itself."
    } else {
        "It goes by itself once nothing is in it."
    };
    Some(format!("{what} and waits for what is in it. {} {advice}", told.join(" ")))
}
