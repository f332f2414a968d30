//! Why a thing is not as wanted, in a sentence, and what to do: pure functions of the objects.

mod causes;
mod deployment;
mod lost;
mod node;
mod others;
mod pod;
mod service;

use jiff::Timestamp;
use object::{Value, meta};

/// The object in question with what lies around it.
pub(crate) struct Subject {
    /// Its kind.
    pub(crate) kind: String,
    /// The object.
    pub(crate) object: Value,
    /// The events of its namespace, any order.
    pub(crate) events: Vec<Value>,
    /// The pods of its namespace.
    pub(crate) pods: Vec<Value>,
    /// The ReplicaSets of its namespace.
    pub(crate) replica_sets: Vec<Value>,
    /// The EndpointSlices of its namespace.
    pub(crate) endpoint_slices: Vec<Value>,
    /// The nodes; none where the caller may not list them.
    pub(crate) nodes: Vec<Value>,
    /// The IngressClasses, of an Ingress; none where the caller may not list them.
    pub(crate) ingress_classes: Option<Vec<Value>>,
    /// The time at which this is asked.
    pub(crate) now: Timestamp,
}

impl Subject {
    /// A pod of which nothing else is known.
    pub(crate) fn of_pod(pod: Value) -> Self {
        let (events, pods, replica_sets, endpoint_slices, nodes, ingress_classes) = Default::default();
        let (kind, now) = ("Pod".to_owned(), Timestamp::now());
        Subject { kind, object: pod, events, pods, replica_sets, endpoint_slices, nodes, ingress_classes, now }
    }

    /// The sentence about one of the pods.
    fn of_one(&self, pod: &Value) -> String {
        pod::explain(pod, &self.events_about(pod), &self.nodes, self.now)
    }

    /// The events about an object, the newest first.
    fn events_about(&self, object: &Value) -> Vec<&Value> {
        let uid = meta::uid(object);
        let about = |event: &&Value| event.str_at(&["involvedObject", "uid"]) == Some(uid);
        let mut events: Vec<&Value> = self.events.iter().filter(about).collect();
        events.sort_by_key(|event| {
            std::cmp::Reverse(event.str_at(&["lastTimestamp"]).or(event.str_at(&["eventTime"])).unwrap_or_default())
        });
        events
    }
}

/// The sentence.
pub(crate) fn explain(subject: &Subject) -> String {
    if meta::is_deleting(&subject.object) && subject.kind != "Pod" {
        return deleting(subject);
    }
    match subject.kind.as_str() {
        "Pod" => subject.of_one(&subject.object),
        "Deployment" => deployment::explain(subject),
        "ReplicaSet" | "StatefulSet" | "DaemonSet" | "ReplicationController" | "Job" => {
            deployment::explain_owner(subject)
        }
        "Service" => service::explain(subject),
        "Node" => node::explain(&subject.object),
        _ => others::explain(subject).unwrap_or_else(|| generic(subject)),
    }
}

fn deleting(subject: &Subject) -> String {
    let finalizers: Vec<&str> = meta::finalizers(&subject.object).collect();
    let what = format!("{} {} is being deleted", subject.kind, meta::name(&subject.object));
    if subject.kind == "Namespace"
        && let Some(sentence) = others::namespace(&subject.object, &what)
    {
        return sentence;
    }
    if finalizers.is_empty() {
        return format!("{what}; nothing holds it back.");
    }
    format!(
        "{what} and waits for the finalizers {}: whoever owns them must finish its work and take them off.",
        finalizers.join(", ")
    )
}

fn generic(subject: &Subject) -> String {
    let what = format!("{} {}", subject.kind, meta::name(&subject.object));
    let failing = conditions(&subject.object).iter().find(|one| one.str_at(&["status"]) == Some("False"));
    if let Some(condition) = failing {
        let text = |key| condition.str_at(&[key]).unwrap_or_default();
        let head = format!("{what}: {} is False ({})", text("type"), text("reason"));
        return if text("message").is_empty() {
            format!("{head}.")
        } else {
            format!("{head}: {}", stop(text("message")))
        };
    }
    match last_warning(&subject.events_about(&subject.object)) {
        Some(warning) => format!("{what} last had this to say: {warning}"),
        None => format!("{what} is there, and nothing says that it is not as wanted."),
    }
}

/// A text that ends as a sentence does, so that another can follow.
fn stop(text: &str) -> String {
    let text = text.trim_end();
    if text.is_empty() || text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}

/// True for a condition that holds.
fn holds(object: &Value, name: &str) -> bool {
    condition(object, name).and_then(|one| one.str_at(&["status"])) == Some("True")
}

/// status.conditions.
fn conditions(object: &Value) -> &[Value] {
    object.at(&["status", "conditions"]).and_then(Value::as_array).unwrap_or_default()
}

/// One condition by its type.
fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    conditions(object).iter().find(|one| one.str_at(&["type"]) == Some(name))
}

/// The message of the newest Warning of events that are sorted by time.
fn last_warning(events: &[&Value]) -> Option<String> {
    let newest = events.iter().find(|event| event.str_at(&["type"]) == Some("Warning"))?;
    Some(format!("{} ({})", newest.str_at(&["message"])?, newest.str_at(&["reason"]).unwrap_or_default()))
}

/// The pods whose controller has this uid.
fn pods_of<'a>(subject: &'a Subject, uid: &str) -> Vec<&'a Value> {
    let owned = |pod: &&Value| meta::controller(pod).is_some_and(|owner| owner.uid == uid);
    subject.pods.iter().filter(owned).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use object::{Limits, yaml};

    fn value(text: &str) -> Value {
        yaml::decode(text.as_bytes(), &Limits::default()).unwrap().value
    }

    fn check(kind: &str, object: &str, pods: &[&str], expected: &[&str]) {
        let mut subject = Subject::of_pod(value(object));
        subject.kind = kind.to_owned();
        subject.pods = pods.iter().map(|pod| value(pod)).collect();
        let sentence = explain(&subject);
        for part in expected {
            assert!(sentence.contains(part), "{sentence:?} lacks {part:?}");
        }
    }

    #[test]
    fn sentences_name_the_cause_and_what_to_do() {
        check(
            "Pod",
            "{metadata: {name: a}, spec: {containers: [{name: c}]}, status: {phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, message: '0/1 nodes are available: 1 Insufficient cpu.'}]}}",
            &[],
            &["no node takes it", "Insufficient cpu", "smaller requests"],
        );
        check(
            "Pod",
            "{metadata: {name: a}, spec: {nodeName: node1, containers: [{name: c, image: x/y}]}, status: {phase: Pending, containerStatuses: [{name: c, image: x/y, state: {waiting: {reason: ImagePullBackOff, message: 'no such host'}}}]}}",
            &[],
            &["image x/y", "cannot be pulled", "no such host"],
        );
        check(
            "Pod",
            "{metadata: {name: a, namespace: b}, spec: {nodeName: node1, containers: [{name: c}]}, status: {phase: Running, containerStatuses: [{name: c, restartCount: 4, state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {exitCode: 137, reason: OOMKilled}}}]}}",
            &[],
            &["c ", "memory limit", "kubectl logs a -n b -c c --previous"],
        );
        check(
            "Pod",
            "{metadata: {name: a}, spec: {nodeName: node1, containers: [{name: c}]}, status: {phase: Running, conditions: [{type: Ready, status: 'True'}]}}",
            &[],
            &["is as wanted"],
        );
        check(
            "Service",
            "{metadata: {name: s}, spec: {selector: {app: x}, ports: [{port: 80}]}}",
            &["{metadata: {name: p, labels: {app: y}}}"],
            &["selects no pod", "app=x"],
        );
        check(
            "Node",
            "{metadata: {name: node1}, spec: {unschedulable: true}, status: {conditions: [{type: Ready, status: 'True'}]}}",
            &[],
            &["cordoned", "kubectl uncordon node1"],
        );
        check("ConfigMap", "{metadata: {name: m}}", &[], &["is there"]);
        check(
            "Namespace",
            "{metadata: {name: m, deletionTimestamp: '2026-01-01T00:00:00Z', finalizers: [example.org/x]}}",
            &[],
            &["being deleted", "example.org/x"],
        );
    }

    fn said(kind: &str, object: &str, events: &[&str], nodes: &[&str]) -> String {
        let mut subject = Subject::of_pod(value(object));
        subject.kind = kind.to_owned();
        subject.events = events.iter().map(|event| value(event)).collect();
        subject.nodes = nodes.iter().map(|node| value(node)).collect();
        explain(&subject)
    }

    #[test]
    fn a_namespace_names_what_holds_its_content() {
        let sentence = said(
            "Namespace",
            "{metadata: {name: m, deletionTimestamp: '2026-01-01T00:00:00Z'}, status: {conditions: [{type: NamespaceContentRemaining, status: 'True', message: 'Some resources are remaining: configmaps. has 1 resource instances'}, {type: NamespaceFinalizersRemaining, status: 'True', message: 'Some content in the namespace has finalizers remaining: example.org/x in 1 resource instances'}]}}",
            &[],
            &[],
        );
        assert!(!sentence.contains("nothing holds"), "{sentence}");
        assert!(
            sentence.contains("configmaps.") && sentence.contains("example.org/x in 1 resource instances. Who"),
            "{sentence}"
        );
    }

    #[test]
    fn what_nobody_carries_out_is_not_called_fine() {
        for (kind, object, part) in [
            ("PersistentVolumeClaim", "{metadata: {name: a}, status: {phase: Pending}}", "not supported yet"),
            ("HorizontalPodAutoscaler", "{metadata: {name: a}}", "no autoscaling controller"),
            (
                "PersistentVolumeClaim",
                "{metadata: {name: a}, spec: {volumeName: v}, status: {phase: Lost}}",
                "is Lost: its volume v does",
            ),
            (
                "HorizontalPodAutoscaler",
                "{metadata: {name: a}, status: {currentReplicas: 2, desiredReplicas: 2, conditions: [{type: AbleToScale, status: 'True'}, {type: ScalingActive, status: 'True'}, {type: ScalingLimited, status: 'False', reason: DesiredWithinRange}]}}",
                "as wanted: 2 replicas",
            ),
            (
                "HorizontalPodAutoscaler",
                "{metadata: {name: a}, status: {conditions: [{type: AbleToScale, status: 'True'}, {type: ScalingActive, status: 'False', reason: FailedGetResourceMetric, message: no metrics}]}}",
                "cannot scale: ScalingActive is False (FailedGetResourceMetric): no metrics.",
            ),
            ("Ingress", "{metadata: {name: a}}", "no Ingress controller"),
            (
                "Ingress",
                "{metadata: {name: a}, status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}}",
                "published at 192.0.2.1.",
            ),
            ("CertificateSigningRequest", "{metadata: {name: a}}", "kubectl certificate approve a"),
            (
                "CertificateSigningRequest",
                "{metadata: {name: a}, spec: {signerName: example.org/s}, status: {conditions: [{type: Approved, status: 'True'}]}}",
                "its signer example.org/s",
            ),
            (
                "PodDisruptionBudget",
                "{metadata: {name: a}, status: {expectedPods: 3, currentHealthy: 2, desiredHealthy: 2, conditions: [{type: DisruptionAllowed, status: 'False', reason: InsufficientPods, message: ''}]}}",
                "2 of 3 pods are healthy and 2 have to be.",
            ),
            (
                "ConfigMap",
                "{metadata: {name: a}, status: {conditions: [{type: T, status: 'False', reason: R}]}}",
                "T is False (R).",
            ),
        ] {
            let sentence = said(kind, object, &[], &[]);
            assert!(sentence.contains(part), "{sentence:?} lacks {part:?}");
        }
    }

    #[test]
    fn an_ingress_waits_for_the_controller_of_its_class() {
        let class = "{metadata: {name: good}, spec: {controller: example.org/proxy}}";
        let sentence = |object: &str, classes: Option<&[&str]>| {
            let mut subject = Subject::of_pod(value(object));
            subject.kind = "Ingress".to_owned();
            subject.ingress_classes = classes.map(|all| all.iter().map(|one| value(one)).collect());
            explain(&subject)
        };
        let of_class = |name: &str| format!("{{metadata: {{name: a}}, spec: {{ingressClassName: {name}}}}}");
        for (object, classes, part) in [
            (of_class("good"), Some(&[class][..]), "waits for the controller example.org/proxy of its class good"),
            (of_class("bad"), Some(&[class][..]), "its class bad does not exist"),
            (of_class("bad"), None, "a controller that serves the class bad"),
            ("{metadata: {name: a}}".to_owned(), Some(&[class][..]), "set ingressClassName to one of good"),
            ("{metadata: {name: a}}".to_owned(), Some(&[][..]), "no Ingress controller"),
            (
                "{metadata: {name: a, annotations: {kubernetes.io/ingress.class: old}}}".to_owned(),
                Some(&[][..]),
                "serves the class old",
            ),
        ] {
            let sentence = sentence(&object, classes);
            assert!(sentence.contains(part), "{sentence:?} lacks {part:?}");
        }
    }

    #[test]
    fn a_failed_job_comes_before_its_pods() {
        let pod = "{metadata: {name: p, ownerReferences: [{kind: Job, name: j, uid: u, controller: true}]}, spec: {nodeName: n}, status: {phase: Failed, containerStatuses: [{name: c, state: {terminated: {exitCode: 3}}}]}}";
        let failed = "{metadata: {name: j, uid: u}, status: {conditions: [{type: Failed, status: 'True', reason: BackoffLimitExceeded, message: Job has reached the specified backoff limit}]}}";
        check(
            "Job",
            failed,
            &[pod],
            &["Job j has failed (BackoffLimitExceeded): Job has reached the specified backoff limit. Pod p"],
        );
        let complete = "{metadata: {name: j, uid: u}, status: {conditions: [{type: Complete, status: 'True'}]}}";
        check("Job", complete, &[pod], &["Job j has finished its work."]);
    }

    #[test]
    fn the_pod_sentences_of_a_trial() {
        let waiting = |reason: &str| {
            let pod = format!(
                "{{metadata: {{name: a}}, spec: {{nodeName: n1}}, status: {{phase: Pending, containerStatuses: [{{name: c, image: X/y, state: {{waiting: {{reason: {reason}, message: why}}}}}}]}}}}"
            );
            said("Pod", &pod, &[], &[])
        };
        let never = waiting("ErrImageNeverPull");
        assert!(never.contains("not on node n1") && !never.contains("registry"), "{never}");
        assert!(
            waiting("InvalidImageName").contains("no name of an image: why. Correct"),
            "{}",
            waiting("InvalidImageName")
        );
        assert!(waiting("ImagePullBackOff").contains("cannot be pulled: why. Check"));

        let deadline = "{metadata: {name: a}, spec: {nodeName: n1}, status: {phase: Failed, reason: DeadlineExceeded, message: Pod was active on the node longer than the specified deadline, containerStatuses: [{name: c, state: {terminated: {exitCode: 137}}}]}}";
        let sentence = said("Pod", deadline, &[], &[]);
        assert!(sentence.contains("(DeadlineExceeded)") && sentence.contains("activeDeadlineSeconds"), "{sentence}");

        let running = "{metadata: {name: a, uid: u}, spec: {nodeName: n1}, status: {phase: Running, conditions: [{type: Ready, status: 'True'}], containerStatuses: [{name: c, ready: true, state: {running: {startedAt: '2026-01-01T00:00:05Z'}}}]}}";
        let dead = "{metadata: {name: n1}, status: {conditions: [{type: Ready, status: Unknown}]}}";
        let well = "{metadata: {name: n1}, status: {conditions: [{type: Ready, status: 'True'}]}}";
        assert!(said("Pod", running, &[], &[dead]).contains("klynge explain node n1"));
        assert!(said("Pod", running, &[], &[well]).contains("as wanted"));

        let hook = |second: u32| {
            format!(
                "{{type: Warning, reason: FailedPostStartHook, message: hook failed, lastTimestamp: '2026-01-01T00:00:0{second}Z', involvedObject: {{uid: u}}}}"
            )
        };
        assert!(said("Pod", running, &[&hook(6)], &[well]).contains("postStart hook fails"));
        assert!(said("Pod", running, &[&hook(1)], &[well]).contains("as wanted"), "that was the run before");
    }
}
