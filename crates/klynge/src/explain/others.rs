//! Kinds that have no pods of their own: what they wait for, and for whom.

use super::{Subject, condition, conditions, holds, last_warning, stop};
use object::{Value, meta};

/// The sentence about one of these kinds; None where there is nothing to say that is not said of every kind.
pub(super) fn explain(subject: &Subject) -> Option<String> {
    let object = &subject.object;
    let name = meta::name(object);
    let what = format!("{} {name}", subject.kind);
    match subject.kind.as_str() {
        "PersistentVolumeClaim" => claim(object, &what),
        "HorizontalPodAutoscaler" => Some(autoscaler(subject, &what)),
        "Ingress" => Some(ingress(subject, &what)),
        "CertificateSigningRequest" => Some(certificate(object, &what)),
        "PodDisruptionBudget" => disruption_budget(object, &what),
        _ => None,
    }
}

fn claim(claim: &Value, what: &str) -> Option<String> {
    match claim.str_at(&["status", "phase"]) {
        Some("Bound") => None,
        Some("Lost") => Some(format!(
            "{what} is Lost: its volume {} does not exist any more, and what was in it cannot be reached through this claim. Restore the PersistentVolume, or delete the claim and make it anew.",
            claim.str_at(&["spec", "volumeName"]).unwrap_or_default()
        )),
        _ => Some(format!(
            "{what} is Pending and stays so: persistent volumes are not supported yet. Use emptyDir or hostPath; docs/kubernetes.md lists the volumes that work."
        )),
    }
}

/// An autoscaler's status is written by its controller alone, so an empty one tells that none is there.
fn autoscaler(subject: &Subject, what: &str) -> String {
    let object = &subject.object;
    if conditions(object).is_empty() && object.i64_at(&["status", "observedGeneration"]).is_none() {
        return format!(
            "{what} does nothing: no autoscaling controller has looked at it, and there is none of Klynge's own yet. Install one, or set the replicas yourself (kubectl scale)."
        );
    }
    // ScalingLimited is False while all is well.
    let failing = ["AbleToScale", "ScalingActive"].into_iter().find_map(|name| {
        condition(object, name).filter(|one| one.str_at(&["status"]) != Some("True")).map(|one| (name, one))
    });
    if let Some((name, one)) = failing {
        let text = |key| one.str_at(&[key]).unwrap_or_default();
        return format!(
            "{what} cannot scale: {name} is {} ({}): {}",
            text("status"),
            text("reason"),
            stop(text("message"))
        );
    }
    let number = |key: &str| object.i64_at(&["status", key]).unwrap_or_default();
    let limited = condition(object, "ScalingLimited").filter(|one| one.str_at(&["status"]) == Some("True"));
    let limited =
        limited.map_or_else(String::new, |one| format!(" {}", stop(one.str_at(&["message"]).unwrap_or_default())));
    format!(
        "{what} is as wanted: {} replicas, {} desired.{limited}",
        number("currentReplicas"),
        number("desiredReplicas")
    )
}

/// Whether somebody serves an Ingress is told by what it was given; by its class if nothing was.
fn ingress(subject: &Subject, what: &str) -> String {
    let object = &subject.object;
    let places = object.at(&["status", "loadBalancer", "ingress"]).and_then(Value::as_array).unwrap_or_default();
    let places: Vec<&str> = places.iter().filter_map(|one| one.str_at(&["ip"]).or(one.str_at(&["hostname"]))).collect();
    if !places.is_empty() {
        return format!("{what} is published at {}.", places.join(", "));
    }
    let said = last_warning(&subject.events_about(object))
        .map_or_else(String::new, |text| format!(" The last warning about it: {text}"));
    let named = object.str_at(&["spec", "ingressClassName"]);
    // Where classes may not be read, nothing is said of them.
    let class = match (named, &subject.ingress_classes) {
        (Some(name), Some(classes)) => match classes.iter().find(|class| meta::name(class) == name) {
            None => {
                return format!(
                    "{what} routes nothing: its class {name} does not exist (kubectl get ingressclasses). Install the controller that brings it, or correct ingressClassName.{said}"
                );
            }
            found => found,
        },
        _ => None,
    };
    if let Some(class) = class {
        return format!(
            "{what} has no address yet: it waits for the controller {} of its class {}. Does that run? Some controllers serve without writing an address.{said}",
            class.str_at(&["spec", "controller"]).unwrap_or_default(),
            meta::name(class)
        );
    }
    if let Some(name) = named.or(meta::annotation(object, "kubernetes.io/ingress.class")) {
        return format!("{what} has no address yet: it waits for a controller that serves the class {name}.{said}");
    }
    let names: Vec<&str> = subject.ingress_classes.iter().flatten().map(meta::name).collect();
    if !names.is_empty() {
        return format!(
            "{what} names no class, so perhaps nobody serves it: set ingressClassName to one of {}, or mark one of them as the default (annotation ingressclass.kubernetes.io/is-default-class: \"true\").{said}",
            names.join(", ")
        );
    }
    format!(
        "{what} routes nothing by itself: there is no IngressClass here, and no Ingress controller of Klynge's own yet. Install one, or publish the Service with type NodePort.{said}"
    )
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
