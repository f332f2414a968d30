//! What is known of a node that is not heard, and what becomes of its pods: whether the machine is silent or its agent only,
//! which taint is on it, and when it drives a pod out.

use super::{condition, stop};
use jiff::{SignedDuration, Timestamp};
use object::{Value, meta};

/// Reasons of Ready=Unknown that say that the machine lives though its agent is not heard.
const AGENT_ONLY: [&str; 2] = ["AgentStopped", "AgentHung"];
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// The sentence about a node whose Ready condition is Unknown.
pub(super) fn node(node: &Value, ready: &Value, what: &str) -> String {
    let text = |key| ready.str_at(&[key]).unwrap_or_default();
    let name = meta::name(node);
    let since = match text("lastTransitionTime") {
        "" => String::new(),
        time => format!(" since {time}"),
    };
    if AGENT_ONLY.contains(&text("reason")) {
        return format!(
            "{what} has an agent that is not heard{since} ({}): {} The machine itself lives, so its pods run on and nothing is evicted. Start or restart the agent there.",
            text("reason"),
            stop(text("message"))
        );
    }
    let pods = match driven_out(node) {
        Some(taint) => format!(
            "It has the taint {}:NoExecute: endpoints on it are out, and each of its pods is evicted when its tolerationSeconds are over (300 by default).",
            taint.str_at(&["key"]).unwrap_or_default()
        ),
        None => "It gets no new pods; none of its pods is evicted yet.".to_owned(),
    };
    format!(
        "{what} is silent{since} ({}): {} {pods} Is the machine on, and does the network lead there? If it is off for good: kubectl taint node {name} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute frees what may only run once.",
        text("reason"),
        stop(text("message"))
    )
}

/// The sentence about a pod whose node does not answer: what its own status says is of before.
pub(super) fn pod(pod: &Value, what: &str, nodes: &[Value], now: Timestamp) -> Option<String> {
    let name = pod.str_at(&["spec", "nodeName"])?;
    let node = nodes.iter().find(|node| meta::name(node) == name)?;
    let ready = condition(node, "Ready")?;
    if ready.str_at(&["status"]) == Some("True") {
        return None;
    }
    let more = format!("klynge explain node {name} says why.");
    let reason = ready.str_at(&["reason"]).unwrap_or_default();
    if meta::is_deleting(pod) {
        let marked = condition(pod, "DisruptionTarget").and_then(|one| one.str_at(&["reason"]));
        let why = if marked == Some("DeletionByTaintManager") { " (evicted because of the node's taint)" } else { "" };
        return Some(format!(
            "{what} is being deleted{why}, but nobody can confirm its end: its node {name} is not ready ({reason}). It goes when the node returns, is removed (kubectl delete node {name}), or the pod is deleted by force. {more}"
        ));
    }
    if AGENT_ONLY.contains(&reason) {
        return Some(format!(
            "{what} is as it was last reported: the agent of its node {name} is not heard ({reason}), but the machine lives and its pods run on; nothing is evicted. {more}"
        ));
    }
    let fate = match driven_out(node) {
        None => String::new(),
        Some(taint) => match eviction(pod, taint) {
            Evicted::Never => " It tolerates that without end, so it is never evicted.".to_owned(),
            Evicted::At(at) if at > now => {
                let left = at.duration_since(now).as_secs() + 1;
                format!(" It is evicted in {left} s, unless the node returns before.")
            }
            Evicted::At(_) => " Its eviction is due.".to_owned(),
        },
    };
    Some(format!("{what} is not to be counted on: its node {name} is not ready ({reason}).{fate} {more}"))
}

/// The taint that evicts pods of a lost node, if it is on it.
fn driven_out(node: &Value) -> Option<&Value> {
    let taints = node.at(&["spec", "taints"]).and_then(Value::as_array).unwrap_or_default();
    taints.iter().find(|taint| {
        matches!(taint.str_at(&["key"]), Some(UNREACHABLE | NOT_READY))
            && taint.str_at(&["effect"]) == Some("NoExecute")
    })
}

enum Evicted {
    Never,
    At(Timestamp),
}

/// When the taint drives the pod out: the shortest tolerationSeconds of those that match it, from when it was set.
fn eviction(pod: &Value, taint: &Value) -> Evicted {
    let since = taint.str_at(&["timeAdded"]).and_then(|text| text.parse().ok()).unwrap_or(Timestamp::MIN);
    let tolerations = pod.at(&["spec", "tolerations"]).and_then(Value::as_array).unwrap_or_default();
    let matching: Vec<&Value> = tolerations.iter().filter(|one| tolerates(one, taint)).collect();
    if matching.is_empty() {
        return Evicted::At(since);
    }
    match matching.iter().filter_map(|one| one.i64_at(&["tolerationSeconds"])).min() {
        None => Evicted::Never,
        Some(seconds) => {
            Evicted::At(since.checked_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX))
        }
    }
}

fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let text = |value: &Value, key: &str| value.str_at(&[key]).unwrap_or_default().to_owned();
    let effect = text(toleration, "effect");
    if !effect.is_empty() && effect != text(taint, "effect") {
        return false;
    }
    let (key, exists) = (text(toleration, "key"), text(toleration, "operator") == "Exists");
    if key.is_empty() {
        return exists;
    }
    key == text(taint, "key") && (exists || text(toleration, "value") == text(taint, "value"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use crate::explain::{Subject, explain};
    use object::{Limits, Value, yaml};

    fn value(text: &str) -> Value {
        yaml::decode(text.as_bytes(), &Limits::default()).unwrap().value
    }

    const SILENT: &str = "{type: Ready, status: Unknown, reason: NodeStatusUnknown, message: Kubelet stopped posting node status., lastTransitionTime: '2026-01-01T00:00:00Z'}";
    const STOPPED: &str = "{type: Ready, status: Unknown, reason: AgentStopped, message: The agent has ended.}";
    const TAINT: &str = "{key: node.kubernetes.io/unreachable, effect: NoExecute, timeAdded: '2026-01-01T00:00:00Z'}";

    fn node(ready: &str, taints: &str) -> Value {
        value(&format!("{{metadata: {{name: n1}}, spec: {{taints: [{taints}]}}, status: {{conditions: [{ready}]}}}}"))
    }

    fn subject(pod: &str, node: Value) -> Subject {
        let mut subject = Subject::of_pod(value(pod));
        (subject.nodes, subject.now) = (vec![node], "2026-01-01T00:01:00Z".parse().unwrap());
        subject
    }

    fn check(sentence: &str, parts: &[&str]) {
        for part in parts {
            assert!(sentence.contains(part), "{sentence:?} lacks {part:?}");
        }
    }

    #[test]
    fn a_lost_node_says_what_is_known_and_what_follows() {
        let about = |node: Value| {
            let mut subject = Subject::of_pod(node);
            subject.kind = "Node".to_owned();
            explain(&subject)
        };
        check(
            &about(node(SILENT, TAINT)),
            &["is silent since 2026-01-01T00:00:00Z (NodeStatusUnknown)", "unreachable:NoExecute", "out-of-service"],
        );
        check(&about(node(SILENT, "")), &["none of its pods is evicted yet"]);
        check(&about(node(STOPPED, "")), &["The machine itself lives", "nothing is evicted"]);
    }

    #[test]
    fn a_pod_of_a_lost_node_says_when_it_goes() {
        let pod = |tolerations: &str| {
            format!(
                "{{metadata: {{name: a, namespace: b}}, spec: {{nodeName: n1, tolerations: [{tolerations}]}}, status: {{phase: Running}}}}"
            )
        };
        let said =
            |tolerations: &str, ready: &str, taints: &str| explain(&subject(&pod(tolerations), node(ready, taints)));
        let default =
            "{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 300}";
        check(
            &said(default, SILENT, TAINT),
            &["not ready (NodeStatusUnknown). It is evicted in 241 s", "klynge explain node n1"],
        );
        check(&said("{operator: Exists}", SILENT, TAINT), &["never evicted"]);
        check(&said("", SILENT, TAINT), &["eviction is due"]);
        check(&said(&default.replace("300", "10"), SILENT, TAINT), &["eviction is due"]);
        check(&said(default, STOPPED, ""), &["its pods run on; nothing is evicted"]);
        let leaving = "{metadata: {name: a, deletionTimestamp: '2026-01-01T00:00:30Z'}, spec: {nodeName: n1}, status: {phase: Running, conditions: [{type: DisruptionTarget, status: 'True', reason: DeletionByTaintManager}]}}";
        check(
            &explain(&subject(leaving, node(SILENT, TAINT))),
            &["is being deleted (evicted because of the node's taint), but nobody can confirm"],
        );
        // A Deployment says it through its pod.
        let owned = "{metadata: {name: p, ownerReferences: [{kind: ReplicaSet, name: s, uid: us, controller: true}]}, spec: {nodeName: n1}, status: {phase: Running}}";
        let mut deployment = subject(
            "{metadata: {name: d, uid: ud}, spec: {replicas: 1}, status: {availableReplicas: 0}}",
            node(SILENT, TAINT),
        );
        deployment.kind = "Deployment".to_owned();
        deployment.pods = vec![value(owned)];
        deployment.replica_sets = vec![value(
            "{metadata: {name: s, uid: us, ownerReferences: [{kind: Deployment, name: d, uid: ud, controller: true}]}}",
        )];
        check(&explain(&deployment), &["0 of 1 available", "Pod p is not to be counted on", "(NodeStatusUnknown)"]);
    }
}
