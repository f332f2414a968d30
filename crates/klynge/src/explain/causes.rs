//! What keeps a container from running that its own status does not tell alone: commands, references, volumes, hooks; and
//! what to do about each.

use object::{Value, meta};

/// True for a run that ended before its command began.
pub(super) fn never_started(terminated: Option<&Value>) -> bool {
    terminated.and_then(|one| one.str_at(&["reason"])).is_some_and(|reason| reason == "StartError")
}

/// The sentence about such a run.
pub(super) fn start_error(what: &str, container: &str, terminated: Option<&Value>) -> String {
    let message = terminated.and_then(|one| one.str_at(&["message"])).unwrap_or("no message was kept");
    // The runtime's own words are enough; what stands before them is the same each time.
    let cause = message.rsplit_once("container init: ").map_or(message, |(_, cause)| cause);
    let advice = if cause.contains("executable file not found")
        || cause.contains("no such file") && cause.contains("exec")
    {
        "Correct command or args: the first word has to be a program of the image (not of a shell), with its full path or in $PATH."
    } else if cause.contains("permission denied") && cause.contains("exec") {
        "The file is there but may not be executed: chmod +x it in the image, or name the program that is to read it (sh FILE)."
    } else if cause.contains("exec format error") {
        "The program is for another kind of machine, or a script without its #! line: use an image for this architecture."
    } else if cause.contains("chdir") {
        "Correct workingDir: it has to be a directory that the container's user may enter."
    } else if cause.contains("mounting") {
        "Correct volumeMounts: a directory cannot be mounted over a file, nor a file over a directory, and a subPath has to be there."
    } else {
        "Correct the container's spec or its image."
    };
    format!("{what}: container {container} cannot be started: {}. {advice}", cause.trim_end_matches('.'))
}

/// The sentence about what a container's spec refers to and does not find.
pub(super) fn configuration(what: &str, container: &str, message: &str) -> String {
    let advice = missing_object(message).unwrap_or_else(|| {
        if message.contains("runAsNonRoot") || message.contains("non-root") {
            "Give securityContext.runAsUser a number other than 0, use an image whose USER is a number, or take runAsNonRoot off.".to_owned()
        } else {
            "Correct the pod's spec or what it refers to.".to_owned()
        }
    });
    format!("{what}: container {container} cannot be started: {}. {advice}", message.trim_end_matches('.'))
}

/// What to do where a ConfigMap, a Secret or a key of one is missing.
fn missing_object(message: &str) -> Option<String> {
    for (kind, command) in [("configmap", "kubectl create configmap"), ("secret", "kubectl create secret generic")] {
        if let Some((_, rest)) = message.split_once(&format!("{kind} \""))
            && let Some((name, rest)) = rest.split_once('"')
            && rest.starts_with(" not found")
        {
            return Some(format!(
                "Create it in the pod's namespace ({command} {name} ...), correct the name, or mark the reference optional; the pod goes on by itself."
            ));
        }
    }
    let key = message.contains("non-existent") && message.contains("key") || message.contains("couldn't find key");
    key.then(|| "Add the key to the object, correct it in the pod, or mark the reference optional.".to_owned())
}

/// The sentence about a volume that cannot be made, while containers wait for it.
pub(super) fn volumes(pod: &Value, what: &str, events: &[&Value]) -> Option<String> {
    let statuses = |list: &str| pod.at(&["status", list]).and_then(Value::as_array).unwrap_or_default();
    let waits = statuses("initContainerStatuses").iter().chain(statuses("containerStatuses")).any(|status| {
        matches!(status.str_at(&["state", "waiting", "reason"]), Some("ContainerCreating" | "PodInitializing"))
    });
    let begun = statuses("initContainerStatuses")
        .iter()
        .chain(statuses("containerStatuses"))
        .any(|status| status.at(&["state", "running"]).or(status.at(&["state", "terminated"])).is_some());
    if !waits || begun {
        return None;
    }
    let newest = events.iter().find(|event| event.str_at(&["type"]) == Some("Warning"))?;
    if newest.str_at(&["reason"]) != Some("FailedMount") {
        return None;
    }
    let message = newest.str_at(&["message"]).unwrap_or_default();
    let advice = if let Some(advice) = missing_object(message) {
        advice
    } else if message.contains("hostPath type check failed") {
        format!(
            "Make the path on node {} as the volume's type wants it, or change hostPath.type (DirectoryOrCreate and FileOrCreate make what is missing).",
            pod.str_at(&["spec", "nodeName"]).unwrap_or_default()
        )
    } else if message.contains("persistent volumes are not supported") || message.contains("not supported yet") {
        "Change the volume; docs/kubernetes.md lists the kinds that work.".to_owned()
    } else if message.contains("serviceaccount") || message.contains("token") {
        format!(
            "Is the ServiceAccount there? kubectl get serviceaccount {} -n {}",
            pod.str_at(&["spec", "serviceAccountName"]).unwrap_or("default"),
            meta::namespace(pod)
        )
    } else {
        "It is tried again by itself; kubectl describe pod shows each try.".to_owned()
    };
    Some(format!("{what} waits for a volume: {}. {advice}", message.trim_end_matches('.')))
}

/// The sentence about a container that is ended because its postStart hook fails.
pub(super) fn post_start_hook(what: &str, container: &str, events: &[&Value]) -> Option<String> {
    let about = format!("{{{container}}}");
    let event = events.iter().find(|event| {
        event.str_at(&["reason"]) == Some("FailedPostStartHook")
            && event.str_at(&["involvedObject", "fieldPath"]).is_none_or(|path| path.ends_with(&about))
    })?;
    Some(format!(
        "{what}: container {container} is ended each time because its postStart hook fails: {}. The hook runs in the container beside its command, and does not wait for it: correct the hook, or let it try until the program is ready.",
        event.str_at(&["message"]).unwrap_or_default().trim_end_matches('.')
    ))
}

/// The same sentence during the grace of a container that still runs: the hook of this very run has failed.
pub(super) fn failing_hook(what: &str, container: &str, status: &Value, events: &[&Value]) -> Option<String> {
    let started = status.str_at(&["state", "running", "startedAt"])?;
    let of_this_run = |event: &&&Value| event.str_at(&["lastTimestamp"]).is_some_and(|time| time >= started);
    let events: Vec<&Value> = events.iter().filter(of_this_run).copied().collect();
    post_start_hook(what, container, &events)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use crate::explain::{Subject, explain};
    use object::{Limits, Value, yaml};

    fn value(text: &str) -> Value {
        yaml::decode(text.as_bytes(), &Limits::default()).unwrap().value
    }

    fn check(status: &str, events: &[(&str, &str)], expected: &[&str]) {
        let pod = format!(
            "{{metadata: {{name: a, namespace: b, uid: u}}, spec: {{nodeName: n1, containers: [{{name: c}}]}}, status: {{phase: Pending, containerStatuses: [{{name: c, {status}}}]}}}}"
        );
        let event = |(index, (reason, message)): (usize, &(&str, &str))| {
            let text = format!(
                "{{type: Warning, reason: {reason}, lastTimestamp: '2026-01-01T00:00:0{index}Z', involvedObject: {{uid: u, fieldPath: 'spec.containers{{c}}'}}}}"
            );
            let mut event = value(&text);
            event.set(&["message"], (*message).into());
            event
        };
        let mut subject = Subject::of_pod(value(&pod));
        subject.events = events.iter().enumerate().map(event).collect();
        let other = "{type: Warning, reason: FailedMount, message: another's, lastTimestamp: '2027-01-01T00:00:00Z', involvedObject: {uid: other}}";
        subject.events.push(value(other));
        let sentence = explain(&subject);
        for part in expected {
            assert!(sentence.contains(part), "{sentence:?} lacks {part:?}");
        }
    }

    #[test]
    fn each_cause_has_its_advice() {
        let creating = "state: {waiting: {reason: ContainerCreating}}";
        let mount = |why: &str| format!("MountVolume.SetUp failed for volume \"v\" : {why}");
        for (why, advice) in [
            ("configmap \"cm\" not found", "kubectl create configmap cm"),
            ("secret \"s\" not found", "kubectl create secret generic s"),
            ("configmap references non-existent config key: k", "Add the key"),
            ("hostPath type check failed: /x is not a directory", "on node n1"),
            ("this kind of volume is not supported yet: use emptyDir", "docs/kubernetes.md"),
        ] {
            check(creating, &[("FailedMount", &mount(why))], &["waits for a volume", why, advice]);
        }
        check(creating, &[("FailedMount", &mount("x")), ("Failed", "later")], &["the last warning about it: later"]);
        let start = |message: &str| {
            format!(
                "state: {{waiting: {{reason: CrashLoopBackOff}}}}, lastState: {{terminated: {{exitCode: 128, reason: StartError, message: 'failed to start container: error during container init: {message}'}}}}"
            )
        };
        for (message, advice) in [
            ("exec: \"x\": executable file not found in $PATH", "a program of the image"),
            ("exec: \"/x\": stat /x: no such file or directory", "a program of the image"),
            ("exec: \"/x\": permission denied", "chmod +x"),
            ("exec /x: exec format error", "architecture"),
            ("chdir to cwd (\"/x\") set in config.json failed: not a directory", "workingDir"),
            ("error mounting \"/a\" to rootfs at \"/b\": not a directory", "volumeMounts"),
        ] {
            check(&start(message), &[], &["container c cannot be started", message, advice]);
        }
        let ended = "state: {terminated: {exitCode: 128, reason: StartError, message: 'exec: \"x\": executable file not found'}}";
        check(ended, &[], &["cannot be started", "a program of the image"]);
        let crashing =
            "state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {exitCode: 137, reason: Error}}";
        check(
            crashing,
            &[("FailedPostStartHook", "Exec lifecycle hook failed")],
            &["postStart hook fails", "Exec lifecycle"],
        );
        let config =
            |message: &str| format!("state: {{waiting: {{reason: CreateContainerConfigError, message: '{message}'}}}}");
        check(&config("secret \"s\" not found"), &[], &["kubectl create secret generic s"]);
        check(&config("container has runAsNonRoot and image will run as root"), &[], &["runAsUser"]);
    }
}
