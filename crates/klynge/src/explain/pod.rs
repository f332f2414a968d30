//! Why a pod is not ready.

use super::{causes, condition, last_warning, lost, stop};
use jiff::Timestamp;
use object::{Value, meta};

/// The sentence about a pod.
pub(super) fn explain(pod: &Value, events: &[&Value], nodes: &[Value], now: Timestamp) -> String {
    let name = meta::name(pod);
    let what = format!("Pod {name}");
    let phase = pod.str_at(&["status", "phase"]).unwrap_or_default();
    if !matches!(phase, "Succeeded" | "Failed")
        && let Some(sentence) = lost::pod(pod, &what, nodes, now)
    {
        return sentence;
    }
    if meta::is_deleting(pod) {
        let grace = pod.i64_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or_default();
        let finalizers: Vec<&str> = meta::finalizers(pod).collect();
        if !finalizers.is_empty() {
            return format!("{what} is being deleted and waits for the finalizers {}.", finalizers.join(", "));
        }
        let hook = match events.iter().find(|event| event.str_at(&["reason"]) == Some("FailedPreStopHook")) {
            Some(event) => format!(
                " A preStop hook failed and was passed over, the container is told to stop all the same: {}",
                event.str_at(&["message"]).unwrap_or_default()
            ),
            None => String::new(),
        };
        return format!("{what} is being deleted; its containers get up to {grace} s to stop.{hook}");
    }
    if phase == "Succeeded" {
        return format!("{what} has finished its work.");
    }
    if pod.str_at(&["spec", "nodeName"]).is_none() {
        return unscheduled(pod, &what);
    }
    // The kubelet's own verdict says more than how its containers ended then.
    if phase == "Failed" && pod.str_at(&["status", "reason"]).is_some_and(|reason| !reason.is_empty()) {
        return failed(pod, &what);
    }
    if let Some(sentence) = causes::volumes(pod, &what, events) {
        return sentence;
    }
    if let Some(sentence) = containers(pod, &what, events) {
        return sentence;
    }
    if phase == "Failed" {
        return failed(pod, &what);
    }
    if condition(pod, "Ready").and_then(|one| one.str_at(&["status"])) == Some("True") {
        return format!("{what} is as wanted: running and ready.");
    }
    match last_warning(events) {
        Some(warning) => format!("{what} is not ready; the last warning about it: {warning}"),
        None => format!("{what} is starting; nothing has gone wrong so far."),
    }
}

fn failed(pod: &Value, what: &str) -> String {
    let reason = pod.str_at(&["status", "reason"]).filter(|reason| !reason.is_empty()).unwrap_or("no reason given");
    let message = pod.str_at(&["status", "message"]).filter(|text| !text.is_empty());
    let told = message.map_or_else(|| ".".to_owned(), |text| format!(": {}", stop(text)));
    let advice = match reason {
        "DeadlineExceeded" => "It ran longer than its activeDeadlineSeconds: raise it, or make the work shorter.",
        "Evicted" => {
            "The node had too little left, or the pod took more than it may: give it requests and limits that fit, or the node more room. Its owner replaces it; kubectl delete pod takes it away."
        }
        _ => "Delete it, or let its owner replace it.",
    };
    format!("{what} failed ({reason}){told} {advice}")
}

fn unscheduled(pod: &Value, what: &str) -> String {
    let gates = pod.at(&["spec", "schedulingGates"]).and_then(Value::as_array).unwrap_or_default();
    if !gates.is_empty() {
        let names: Vec<&str> = gates.iter().filter_map(|gate| gate.str_at(&["name"])).collect();
        return format!("{what} waits for its scheduling gates {} to be taken off.", names.join(", "));
    }
    match condition(pod, "PodScheduled").and_then(|one| one.str_at(&["message"])) {
        Some(message) if !message.is_empty() => {
            let advice = if message.contains("Insufficient") {
                "Give it smaller requests, free resources, or add a node."
            } else if message.contains("taint") {
                "Add a toleration to the pod, or take the taint off a node (kubectl describe node shows it)."
            } else if message.contains("affinity") || message.contains("selector") {
                "Change its nodeSelector or affinity, or label a node so that it fits."
            } else {
                "Change the pod or the nodes so that one fits."
            };
            format!("{what} is not scheduled, no node takes it: {} {advice}", stop(message))
        }
        _ => format!(
            "{what} is not scheduled yet; the scheduler has not looked at it. Is a node there and ready? (kubectl get nodes)"
        ),
    }
}

/// The first container that keeps the pod from being ready.
fn containers(pod: &Value, what: &str, events: &[&Value]) -> Option<String> {
    let lists = ["initContainerStatuses", "containerStatuses"];
    let statuses = lists.iter().filter_map(|list| pod.at(&["status", list])?.as_array()).flatten();
    for status in statuses {
        let name = status.str_at(&["name"]).unwrap_or_default();
        let image = status.str_at(&["image"]).unwrap_or_default();
        let flag = match meta::namespace(pod) {
            "" => String::new(),
            namespace => format!(" -n {namespace}"),
        };
        let logs = format!("kubectl logs {}{flag} -c {name}", meta::name(pod));
        if let Some(waiting) = status.at(&["state", "waiting"]) {
            let reason = waiting.str_at(&["reason"]).unwrap_or_default();
            let message = waiting.str_at(&["message"]).unwrap_or_default();
            match reason {
                "ErrImagePull" | "ImagePullBackOff" => {
                    return Some(format!(
                        "{what} waits: image {image} of container {name} cannot be pulled: {} Check the name, the registry, and imagePullSecrets.",
                        stop(message)
                    ));
                }
                "InvalidImageName" => {
                    return Some(format!(
                        "{what} waits: {image:?} of container {name} is no name of an image: {} Correct it: names are lower case, such as registry.example.org/team/app:1.2.",
                        stop(message)
                    ));
                }
                "ErrImageNeverPull" => {
                    return Some(format!(
                        "{what} waits: image {image} of container {name} is not on node {}, and imagePullPolicy Never forbids to fetch it. Import it there (klynge image import), or choose IfNotPresent.",
                        pod.str_at(&["spec", "nodeName"]).unwrap_or_default()
                    ));
                }
                "CrashLoopBackOff" if causes::never_started(status.at(&["lastState", "terminated"])) => {
                    return Some(causes::start_error(what, name, status.at(&["lastState", "terminated"])));
                }
                "CrashLoopBackOff" => {
                    if let Some(sentence) = causes::post_start_hook(what, name, events) {
                        return Some(sentence);
                    }
                    let restarts = status.i64_at(&["restartCount"]).unwrap_or_default();
                    let cause = ended(status.at(&["lastState", "terminated"]));
                    return Some(format!(
                        "{what}: container {name} keeps ending ({cause}; {restarts} restarts) and waits before the next try. What it said last: {logs} --previous"
                    ));
                }
                "CreateContainerConfigError" => {
                    return Some(causes::configuration(what, name, message));
                }
                "CreateContainerError" => {
                    return Some(format!(
                        "{what}: container {name} cannot be made: {}. Correct the pod's spec or its image; it is tried again by itself.",
                        message.trim_end_matches('.')
                    ));
                }
                "RunContainerError" => {
                    return Some(format!(
                        "{what}: container {name} could not be set up on the node: {}. It is tried again by itself; if it stays so, the node's log says more.",
                        message.trim_end_matches('.')
                    ));
                }
                _ => {}
            }
        }
        if let Some(terminated) = status.at(&["state", "terminated"]).filter(|one| one.i64_at(&["exitCode"]) != Some(0))
        {
            if causes::never_started(Some(terminated)) {
                return Some(causes::start_error(what, name, Some(terminated)));
            }
            if let Some(sentence) = causes::post_start_hook(what, name, events) {
                return Some(sentence);
            }
            return Some(format!("{what}: container {name} ended ({}). What it said: {logs}", ended(Some(terminated))));
        }
        if let Some(sentence) = causes::failing_hook(what, name, status, events) {
            return Some(sentence);
        }
        let unready =
            status.at(&["state", "running"]).is_some() && status.get("ready").and_then(Value::as_bool) == Some(false);
        if unready && condition(pod, "Initialized").and_then(|one| one.str_at(&["status"])) == Some("True") {
            return Some(format!(
                "{what}: container {name} runs, but its readiness or startup probe has not succeeded (kubectl describe pod shows the last answers)."
            ));
        }
    }
    None
}

fn ended(terminated: Option<&Value>) -> String {
    let Some(terminated) = terminated else { return "how is not known".to_owned() };
    let code = terminated.i64_at(&["exitCode"]).unwrap_or_default();
    match terminated.str_at(&["reason"]).unwrap_or_default() {
        "OOMKilled" => "it went over its memory limit and was killed: raise resources.limits.memory".to_owned(),
        "Error" | "" => match code {
            126 | 127 => format!("exit code {code}: its command was not found or may not be executed"),
            137 => "exit code 137: it was killed".to_owned(),
            143 => "exit code 143: it was asked to stop".to_owned(),
            code => format!("exit code {code}"),
        },
        reason => format!("{reason}, exit code {code}"),
    }
}
