//! Pod: containers that share a network and a fate.

use super::pod_columns;
use super::pod_defaults::{default_pod, qos_class};
use super::pod_validation::{validate_pod_spec, validate_pod_update};
use crate::hooks::{Grace, Hooks};
use crate::row::{PROXY_VERBS, Resource, Role};
use object::GroupVersionKind;
use object::{Cause, Value};

/// The row of Pod.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "Pod", "pods")
        .short(&["po"])
        .in_all()
        .generation(&["spec"])
        .status()
        .own_subresource("ephemeralcontainers", Role::EphemeralContainers)
        .own_subresource("resize", Role::Resize)
        .with_subresource("attach", Role::Attach, GroupVersionKind::parse("v1", "PodAttachOptions"), &["create", "get"])
        .with_subresource("binding", Role::Binding, GroupVersionKind::parse("v1", "Binding"), &["create"])
        .with_subresource("eviction", Role::Eviction, GroupVersionKind::parse("policy/v1", "Eviction"), &["create"])
        .with_subresource("exec", Role::Exec, GroupVersionKind::parse("v1", "PodExecOptions"), &["create", "get"])
        .with_subresource("log", Role::Log, GroupVersionKind::parse("v1", "Pod"), &["get"])
        .with_subresource(
            "portforward",
            Role::PortForward,
            GroupVersionKind::parse("v1", "PodPortForwardOptions"),
            &["create", "get"],
        )
        .with_subresource("proxy", Role::Proxy, GroupVersionKind::parse("v1", "PodProxyOptions"), &PROXY_VERBS)
        .selectable("spec.nodeName")
        .selectable("spec.restartPolicy")
        .selectable("spec.schedulerName")
        .selectable("spec.serviceAccountName")
        .selectable_as("spec.hostNetwork", "spec.hostNetwork", "false")
        .selectable("status.phase")
        .selectable("status.podIP")
        .selectable("status.nominatedNodeName")
        .with_columns(pod_columns::columns())
        .with_hooks(Pod)
}

struct Pod;

impl Hooks for Pod {
    fn default(&self, pod: &mut Value) {
        default_pod(pod);
    }

    fn prepare_create(&self, pod: &mut Value) {
        let class = qos_class(pod);
        pod.set(&["status"], crate::edit::empty());
        pod.set(&["status", "phase"], "Pending".into());
        pod.set(&["status", "qosClass"], class.into());
    }

    fn prepare_status(&self, new: &mut Value, old: &Value) {
        // What was decided at creation stays.
        if let Some(class) = old.at(&["status", "qosClass"]) {
            new.set(&["status", "qosClass"], class.clone());
        }
    }

    fn validate(&self, pod: &Value) -> Vec<Cause> {
        let mut causes = validate_pod_spec(pod.get("spec").unwrap_or(&Value::Null), "spec");
        if !crate::edit::items(pod, &["spec", "ephemeralContainers"]).is_empty()
            && pod.str_at(&["metadata", "resourceVersion"]).unwrap_or_default().is_empty()
        {
            let detail = "cannot be set on create";
            causes.push(crate::validation::forbidden("spec.ephemeralContainers", detail));
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        validate_pod_update(new, old)
    }

    fn graceful_delete(&self, pod: &Value, requested: Option<i64>) -> Grace {
        let wanted = requested.or_else(|| pod.i64_at(&["spec", "terminationGracePeriodSeconds"])).unwrap_or(30);
        let unscheduled = pod.str_at(&["spec", "nodeName"]).unwrap_or_default().is_empty();
        let over = matches!(pod.str_at(&["status", "phase"]), Some("Succeeded" | "Failed"));
        match wanted {
            // Nobody runs the pod, so nobody needs time.
            _ if unscheduled || over => Grace::Immediate,
            0 => Grace::Immediate,
            // A negative period counts as one second.
            negative if negative < 0 => Grace::Seconds(1),
            seconds => Grace::Seconds(seconds),
        }
    }
}
