//! Node predicates that the scheduler and the DaemonSet controller share: taints and node affinity.

use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
};

use crate::selector::Labels;

/// The taint that `kubectl cordon` stands for.
pub const TAINT_UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Whether one toleration tolerates the taint (operators Equal, Exists, and the numeric Lt and Gt).
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    let wanted = toleration.value.as_deref().unwrap_or_default();
    let actual = taint.value.as_deref().unwrap_or_default();
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && wanted == actual,
        operator @ ("Lt" | "Gt") => match (actual.parse::<i64>(), wanted.parse::<i64>()) {
            (Ok(actual), Ok(wanted)) if operator == "Lt" => actual < wanted,
            (Ok(actual), Ok(wanted)) => actual > wanted,
            _ => false,
        },
        _ => false,
    }
}

/// The first taint with one of these effects that no toleration tolerates.
pub fn untolerated<'a>(taints: &'a [Taint], tolerations: Option<&[Toleration]>, effects: &[&str]) -> Option<&'a Taint> {
    taints.iter().find(|taint| {
        effects.contains(&taint.effect.as_str())
            && !tolerations.unwrap_or_default().iter().any(|toleration| tolerates(toleration, taint))
    })
}

/// How many PreferNoSchedule taints are not tolerated.
pub fn untolerated_preferences(taints: &[Taint], tolerations: Option<&[Toleration]>) -> i64 {
    let mut count = 0;
    for taint in taints.iter().filter(|taint| taint.effect == "PreferNoSchedule") {
        let considered = tolerations
            .unwrap_or_default()
            .iter()
            .filter(|toleration| matches!(toleration.effect.as_deref(), None | Some("" | "PreferNoSchedule")));
        if !considered.into_iter().any(|toleration| tolerates(toleration, taint)) {
            count += 1;
        }
    }
    count
}

/// Whether the node is cordoned and the pod does not tolerate that.
pub fn cordoned(node: &Node, tolerations: Option<&[Toleration]>) -> bool {
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    if !unschedulable {
        return false;
    }
    let taint = Taint { key: TAINT_UNSCHEDULABLE.into(), effect: "NoSchedule".into(), ..Taint::default() };
    !tolerations.unwrap_or_default().iter().any(|toleration| tolerates(toleration, &taint))
}

/// Whether nodeSelector and required node affinity admit the node.
pub fn matches_node_affinity(spec: &PodSpec, labels: Option<&Labels>, node_name: &str) -> bool {
    let selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value));
    selected
        && required_terms(spec.affinity.as_ref())
            .is_none_or(|selector| matches_node_selector(selector, labels, node_name))
}

/// The required node affinity of a pod, if it has one.
pub fn required_terms(affinity: Option<&Affinity>) -> Option<&NodeSelector> {
    affinity?.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()
}

/// Terms are alternatives; an empty term matches nothing.
pub fn matches_node_selector(selector: &NodeSelector, labels: Option<&Labels>, node_name: &str) -> bool {
    selector.node_selector_terms.iter().any(|term| matches_term(term, labels, node_name))
}

/// One term: all expressions and all fields must hold, and there must be at least one of them.
pub fn matches_term(term: &NodeSelectorTerm, labels: Option<&Labels>, node_name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    expressions.iter().all(|requirement| requirement_holds(requirement, label(&requirement.key)))
        && fields
            .iter()
            .all(|requirement| requirement.key == "metadata.name" && requirement_holds(requirement, Some(node_name)))
}

fn requirement_holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let contains = |value: &str| values.iter().any(|candidate| candidate == value);
    match requirement.operator.as_str() {
        "In" => value.is_some_and(contains),
        "NotIn" => value.is_none_or(|value| !contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        operator @ ("Gt" | "Lt") => {
            let wanted = values.first().and_then(|wanted| wanted.parse::<i64>().ok());
            match (value.and_then(|value| value.parse::<i64>().ok()), wanted) {
                (Some(value), Some(wanted)) if operator == "Gt" => value > wanted,
                (Some(value), Some(wanted)) => value < wanted,
                _ => false,
            }
        }
        _ => false,
    }
}

/// The preferred node affinity score of a node: the sum of the weights of the terms that match.
pub fn node_affinity_preference(spec: &PodSpec, labels: Option<&Labels>, node_name: &str) -> i64 {
    let preferred = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let preferred =
        preferred.and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref());
    let matching = preferred.into_iter().flatten().filter(|term| matches_term(&term.preference, labels, node_name));
    matching.map(|term| i64::from(term.weight)).sum()
}

/// Whether the pod has a preferred node affinity at all.
pub fn has_node_preference(pod: &Pod) -> bool {
    let affinity =
        pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()).and_then(|affinity| affinity.node_affinity.as_ref());
    affinity
        .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref())
        .is_some_and(|terms| !terms.is_empty())
}
