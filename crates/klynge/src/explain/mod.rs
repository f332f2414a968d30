//! Why a thing is not as wanted, in a sentence, and what to do: pure functions of the objects.

mod causes;
mod deployment;
mod node;
mod pod;
mod service;

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
}

impl Subject {
    /// A pod of which nothing else is known.
    pub(crate) fn of_pod(pod: Value) -> Self {
        let (events, pods, replica_sets, endpoint_slices) = Default::default();
        Subject { kind: "Pod".to_owned(), object: pod, events, pods, replica_sets, endpoint_slices }
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
        "Pod" => pod::explain(&subject.object, &subject.events_about(&subject.object)),
        "Deployment" => deployment::explain(subject),
        "ReplicaSet" | "StatefulSet" | "DaemonSet" | "ReplicationController" | "Job" => {
            deployment::explain_owner(subject)
        }
        "Service" => service::explain(subject),
        "Node" => node::explain(&subject.object),
        _ => generic(subject),
    }
}

fn deleting(subject: &Subject) -> String {
    let finalizers: Vec<&str> = meta::finalizers(&subject.object).collect();
    let what = format!("{} {} is being deleted", subject.kind, meta::name(&subject.object));
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
        return format!("{what}: {} is False ({}): {}", text("type"), text("reason"), text("message"));
    }
    match last_warning(&subject.events_about(&subject.object)) {
        Some(warning) => format!("{what} last had this to say: {warning}"),
        None => format!("{what} is there, and nothing says that it is not as wanted."),
    }
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
        let subject = Subject {
            kind: kind.to_owned(),
            object: value(object),
            events: Vec::new(),
            pods: pods.iter().map(|pod| value(pod)).collect(),
            replica_sets: Vec::new(),
            endpoint_slices: Vec::new(),
        };
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
}
